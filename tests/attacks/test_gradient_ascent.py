"""PGD, MI-FGSM, noise of several draws: settings, early stopping, warm start from a generator, spec strings."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advgan import Generator
from advgan.attacks import (
    advgan,
    ifgsm,
    ifgsm_corner,
    make_attack,
    mifgsm,
    noise_gaussian,
    noise_sign,
    parse_attack,
    pgd,
)
from advgan.attacks.active_set import ActiveSet
from advgan.attacks.advgan import default_step_size
from advgan.attacks.losses import get_loss, is_adversarial, log_odds_against
from advgan.core.errors import InputError
from advgan.core.threat_model import Threat, delta_norms
from advgan.evaluation.instrumentation import CallCounter
from advgan.models.losses import margin
from tests.attacks.test_attacks import conv_net, images, linear, predicted_labels, seeded
from tests.conftest import randomise_conditioning

LOGITS = torch.tensor([[2.0, -1.0, 0.5, 3.0], [0.0, 4.0, -2.0, 1.0]])
Y, AIM = torch.tensor([0, 1]), torch.tensor([2, 3])


# What is raised


def test_objectives_match_hand_computed_values() -> None:
    def value(loss: str, target_class: Tensor | None = None) -> Tensor:
        return get_loss(loss, target_class is not None)(LOGITS, Y, target_class)

    cross_entropy = nn.functional.cross_entropy(LOGITS, Y, reduction="none")
    assert torch.allclose(nn.functional.softplus(value("cross-entropy")), cross_entropy)
    assert torch.equal(value("margin"), torch.tensor([1.0, -3.0]))
    assert torch.equal(value("margin", AIM), torch.tensor([0.5 - 3, 1.0 - 4]))
    assert torch.allclose(value("dlr"), torch.tensor([(3 - 2) / (3 - 0.5), (1 - 4) / (4 - 0.0)]))
    assert torch.allclose(
        value("dlr", AIM), torch.tensor([(0.5 - 2) / (3 - (0.5 - 1) / 2), (1 - 4) / (4 - (0 - 2) / 2)])
    )
    both = nn.functional.cross_entropy(LOGITS, Y, reduction="none") - nn.functional.cross_entropy(
        LOGITS, AIM, reduction="none"
    )
    assert torch.allclose(value("difference", AIM), both, atol=1e-6)
    assert torch.allclose(value("cross-entropy", AIM), -log_odds_against(LOGITS, AIM))
    for loss in ("cross-entropy", "margin", "dlr"):
        assert torch.allclose(get_loss(loss)(10 + LOGITS, Y, None), value(loss), atol=1e-5)
    assert is_adversarial(LOGITS, Y, None).tolist() == [True, False]
    assert is_adversarial(LOGITS, Y, torch.tensor([3, 3])).tolist() == [True, False]


def test_dlr_requires_three_classes() -> None:
    with pytest.raises(InputError, match="a ratio of logits of at least 3 classes, got 2"):
        pgd(linear(2), images(2, size=4), torch.zeros(2, dtype=torch.long), eps=0.1, loss="dlr", steps=1)


# The loop


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("loss", ["cross-entropy", "margin", "dlr"])
def test_pgd_reaches_optimum_of_linear_model(loss: Any, norm: Any) -> None:
    """Two classes' difference is linear: the best delta in the ball is eps times the dual direction, box permitting."""
    model, x = linear(2 if loss != "dlr" else 3), images(6, size=4, low=0.4, high=0.6)
    y = predicted_labels(model, x)
    x_adv = pgd(model, x, y, eps=0.1, norm=norm, loss=loss, steps=20, step_size=0.05, rng=seeded())
    if loss == "dlr":
        assert (margin(model(x_adv), y) < margin(model(x), y)).all()
        return
    w = (model[1].weight[1 - y] - model[1].weight[y]).detach()
    best = w.abs().sum(1) if norm == "linf" else w.norm(dim=1)
    gain = ((x_adv - x).flatten(1) * w).sum(1)
    assert torch.allclose(gain, 0.1 * best, rtol=1e-3)


def test_pgd_direction_gradient_and_sign() -> None:
    model, x, y = linear(3, scale=0.1), images(5, size=4, low=0.4, high=0.6), torch.tensor([0, 1, 2, 0, 1])
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(get_loss("margin")(model(leaf), y, None).sum(), leaf)
    x_adv = pgd(model, x, y, eps=0.3, start="x", steps=1, direction="gradient", step_size=0.01, loss="margin")
    assert torch.allclose(x_adv, x + 0.01 * gradient, atol=1e-6)
    signed = pgd(model, x, y, eps=3.0, norm="l2", start="x", steps=1, direction="sign", step_size=0.01, loss="margin")
    assert torch.allclose(signed, x + 0.01 * gradient.sign(), atol=1e-6)


def test_ifgsm_corner_deltas_are_zero_or_eps() -> None:
    model, x = conv_net(), images(6, low=0.3, high=0.7)
    y = predicted_labels(model, x)

    def between(x_adv: Tensor) -> Tensor:
        size = (x_adv - x).abs()
        return (size > 1e-6) & (size < 0.1 - 1e-6)

    assert not between(ifgsm_corner(model, x, y, eps=0.1, steps=4)).any(), "a corner, or no gradient ever"
    assert between(ifgsm(model, x, y, eps=0.1, steps=4)).any()


def test_mifgsm_matches_recursion_of_dong() -> None:
    model, x = conv_net(), images(4, low=0.3, high=0.7)
    y, g, x_t = predicted_labels(model, x), torch.zeros(4, 1, 12, 12), x
    for _ in range(3):
        leaf = x_t.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(model(leaf), y, reduction="sum"), leaf)
        g = 0.5 * g + gradient / gradient.abs().sum((1, 2, 3), keepdim=True)
        x_t = (x_t + 0.02 * g.sign()).clamp(0, 1)
    assert torch.allclose(mifgsm(model, x, y, eps=0.06, steps=3, decay=0.5), x_t, atol=1e-6)
    plain = ifgsm(model, x, y, eps=0.06, steps=3)
    assert torch.allclose(mifgsm(model, x, y, eps=0.06, steps=3, decay=0.0), plain, atol=1e-6)


def test_restarts_increase_success() -> None:
    model, x = conv_net(), images(40)
    y = predicted_labels(model, x)
    rates = []
    for restarts in (1, 3):
        counter = CallCounter(model)
        with counter:
            x_adv = pgd(model, x, y, eps=0.15, steps=3, restarts=restarts, rng=seeded())
        rates.append((predicted_labels(model, x_adv) != y).float().mean().item())
        if restarts == 3:
            assert counter.backwards < 3 * 3 * 40, "whom the first run fools needs no second"
    assert 0 < rates[0] < rates[1] < 1


@pytest.mark.parametrize("attack", [ifgsm, mifgsm, pgd])
def test_stop_on_success_saves_forwards(attack: Any) -> None:
    model, x = conv_net(), images(30)
    y = predicted_labels(model, x)
    y[:5] = (y[:5] + 1) % 5  # wrong before it began
    settings: dict[str, Any] = {"eps": 0.3, "steps": 20} | ({"start": "x"} if attack is pgd else {})
    counts = {}
    for stop in (False, True):
        counter = CallCounter(model)
        with counter:
            x_adv = attack(model, x, y, stop_on_success=stop, **settings)
        counts[stop] = counter.forwards
        assert (predicted_labels(model, x_adv) != y).all()
    assert counts[False] == 20 * 30
    assert counts[True] < 0.5 * counts[False]
    assert torch.equal(x_adv[:5], x[:5])


def test_random_start_is_in_ball_and_seeded() -> None:
    model, x = conv_net(), images(4)
    y = predicted_labels(model, x)
    for norm, eps in (("linf", 0.1), ("l2", 0.5)):
        first, again, other = (pgd(model, x, y, eps=eps, norm=norm, steps=2, rng=seeded(s)) for s in (1, 1, 2))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        assert Threat(norm, eps).violations(first, x) == []


# The pool


@pytest.mark.parametrize(("n", "size"), [(0, 4), (1, 4), (4, 4), (9, 4), (10, 3)])
def test_active_set_serves_every_image_and_stays_full(n: int, size: int) -> None:
    active, left = ActiveSet(n, torch.device("cpu"), size), torch.randint(1, 5, (n,), generator=seeded())
    served, waiting = torch.zeros(n, dtype=torch.long), True
    while len(i := active.indices):
        assert len(i) <= size
        assert len(i.unique()) == len(i)
        served[i] += 1
        active.drop(served[i] >= left[i])
        waiting = bool(
            (served == 0).sum() > len(set(active.indices.tolist()) - set(served.nonzero().flatten().tolist()))
        )
        assert len(active.indices) >= min(size, 1) or not waiting
    assert torch.equal(served, left)


# Noise


def test_noise_draws_increase_success() -> None:
    model, x = linear(4, scale=0.3), images(60, size=4)
    y = predicted_labels(model, x)
    rates = [
        (predicted_labels(model, noise_sign(model, x, y, eps=0.2, draws=n, rng=seeded())) != y).float().mean().item()
        for n in (1, 8)
    ]
    assert rates[0] < rates[1]
    with pytest.raises(InputError, match="8 draws need a model"):
        noise_sign(None, x, y, eps=0.1, draws=8)


def test_noise_magnitude_within_eps() -> None:
    x, y = torch.full((20, 1, 16, 16), 0.5), torch.zeros(20, dtype=torch.long)
    soft = noise_gaussian(None, x, y, eps=0.4, magnitude=0.1, rng=seeded()) - x
    assert soft.std().item() == pytest.approx(0.1, rel=0.05)
    assert noise_sign(None, x, y, eps=0.4, magnitude=0.05, rng=seeded()).sub(x).abs().max().item() == pytest.approx(
        0.05
    )
    assert noise_gaussian(None, x, y, eps=0.1, magnitude=0.5, rng=seeded()).sub(x).abs().max() <= 0.1 + 1e-6
    assert delta_norms(noise_sign(None, x, y, eps=3.0, magnitude=1.0, norm="l2", rng=seeded()) - x)[
        "l2"
    ].mean().item() == pytest.approx(1.0)


# Warm start


def test_one_pass_uses_labels_where_they_are_an_input() -> None:
    torch.manual_seed(0)
    generator, x, y = Generator(labels=3, width=8, depth=1).eval(), images(6), torch.arange(6) % 3
    randomise_conditioning(generator)
    x_adv = advgan(None, x, y, eps=0.3, generator=generator)
    assert torch.equal(x_adv, generator.perturb(x, y))
    assert not torch.equal(x_adv, generator.perturb(x))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_generator_warm_start_continues_from_one_pass(norm: Any) -> None:
    torch.manual_seed(0)
    eps = {"linf": 0.1, "l2": 0.8}[norm]
    generator, model, x = Generator(1, 2 * eps, norm, width=8, depth=1).eval(), conv_net(), images(40)
    y = predicted_labels(model, x)

    def value(x_adv: Tensor) -> float:
        return margin(model(x_adv), y).clamp_min(-1).mean().item()

    start = advgan(None, x, y, eps=eps, norm=norm, generator=generator)
    assert torch.equal(start, generator.perturb(x, eps=eps))
    one, five = (advgan(model, x, y, eps=eps, norm=norm, generator=generator, steps=k) for k in (1, 5))
    assert value(start) > value(one) > value(five)
    adaptive = advgan(model, x, y, eps=eps, norm=norm, generator=generator, steps=5, adaptive=True, loss="margin")
    assert value(start) > value(adaptive)
    for x_adv in (five, adaptive):
        assert Threat(norm, eps).violations(x_adv, x) == []


def test_adaptive_warm_start_returns_the_best_of_its_points() -> None:
    torch.manual_seed(0)
    generator, model, x = Generator(1, 0.1, width=8, depth=1).eval(), conv_net(), images(40)
    y, state = predicted_labels(model, x), {name: value.clone() for name, value in model.state_dict().items()}
    start = generator.perturb(x, eps=0.05)
    for steps in (1, 3, 8):
        settings: dict[str, Any] = {"eps": 0.05, "generator": generator, "steps": steps, "adaptive": True}
        x_adv = advgan(model, x, y, **settings, loss="margin")
        assert (margin(model(x_adv), y) <= margin(model(start), y) + 1e-6).all()
        stopped = advgan(model, x, y, **settings, loss="margin", stop_on_success=True)
        fooled = predicted_labels(model, start) != y
        assert torch.equal(stopped[fooled], start[fooled])
        assert torch.equal(predicted_labels(model, stopped) != y, predicted_labels(model, x_adv) != y)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    nothing = advgan(model, x[:0], y[:0], **settings, stop_on_success=True)
    assert nothing.shape == (0, *x.shape[1:])


@pytest.mark.parametrize("eps", [0.01, 0.05])
def test_stopping_warm_start_takes_gradients_only_where_the_pass_fails(eps: float) -> None:
    torch.manual_seed(0)
    generator, model, x = Generator(1, 0.1, width=8, depth=1).eval(), conv_net(), images(40)
    y = predicted_labels(model, x)
    y[:5] = (y[:5] + 1) % 5  # wrong before it began
    start = generator.perturb(x, eps=eps)
    fooled = predicted_labels(model, start) != y
    with CallCounter(model) as counter:
        x_adv = advgan(model, x, y, eps=eps, generator=generator, steps=1, stop_on_success=True)
    assert torch.equal(x_adv[fooled], start[fooled])
    assert 0 < counter.backwards == int((~fooled).sum()) < 40
    assert counter.forwards == 40 + counter.backwards
    stepped = advgan(model, x, y, eps=eps, generator=generator, steps=1)
    assert torch.allclose(x_adv[~fooled], stepped[~fooled])


def test_invalid_warm_start_raises() -> None:
    generator, x, y = Generator(eps=0.2, width=8), images(2), torch.zeros(2, dtype=torch.long)
    for arguments, message in (
        ({"norm": "l2"}, "trained for norm linf, got l2"),
        ({"eps": 0.3}, "trained for eps 0.2, got the larger 0.3"),
        ({"steps": -1}, "steps must not be negative, got -1"),
        ({"steps": 2}, "2 gradient steps need a model"),
        ({"y_target": y}, "was trained untargeted"),
    ):
        with pytest.raises(InputError, match=message):
            advgan(None, x, y, **{"eps": 0.2, "generator": generator, **arguments})
    with pytest.raises(InputError, match="needs a trained generator"):
        make_attack("advgan", conv_net(), Threat("linf", 0.1))


# Names and settings


def test_parse_attack_settings() -> None:
    spec = parse_attack("pgd:steps=3:loss=dlr:step-size=8/255:stop_on_success=true")
    assert spec.settings == {"steps": 3, "loss": "dlr", "step_size": 8 / 255, "stop_on_success": True}
    assert (spec.name, spec.access, spec.attack.kind) == ("pgd", "gradients", "bounded")
    assert parse_attack("advgan").access == "generator"
    assert parse_attack("advgan:steps=2").access == "gradients"
    model, x = conv_net(), images(3)
    y = predicted_labels(model, x)
    bound = make_attack("ifgsm:steps=2:step_size=0.1", model, Threat("linf", 0.15))
    assert torch.equal(bound(x, y), ifgsm(model, x, y, eps=0.15, steps=2, step_size=0.1))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pdg", r"unknown attack 'pdg'; did you mean pgd\?"),
        ("pdg:steps=10", r"unknown attack 'pdg'; did you mean pgd\?"),
        ("sorcery", "unknown attack 'sorcery', expected some of noise-uniform"),
        ("transfer", "attack 'transfer' is run by --surrogate"),
        ("pgd:magic=3", "cannot take 'magic=3', expected setting=value with settings steps, step_size, loss"),
        ("pgd:step=10", r"cannot take 'step=10'; did you mean steps"),
        ("pgd:stepz=3", r"cannot take 'stepz=3'; did you mean steps\?"),
        ("pgd:steps", "cannot take 'steps'"),
        ("pgd:steps=3:steps=4", "attack pgd sets steps twice"),
        ("pgd:steps=many", "pgd:steps must be of type int, got 'many'"),
        ("pgd:steps=99999999999999999999", "pgd:steps must be at most 9,007,199,254,740,992, got 9999"),
        ("deepfool:overshoot=inf", "deepfool:overshoot must be a finite number, got inf"),
        ("pgd:step_size=1/0", "pgd:step_size must be of type float, got '1/0'"),
        ("pgd:stop_on_success=maybe", "must be of type bool, got 'maybe'"),
        ("pgd:loss=ce", "pgd:loss must be one of cross-entropy, margin, dlr, difference, got 'ce'"),
        ("pgd:eps=0.1", "cannot take 'eps=0.1'"),
        ("deepfool-linf:norm=l2", "cannot take 'norm=l2'"),
    ],
)
def test_parse_attack_errors(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_attack(text)


@pytest.mark.parametrize(
    ("eps", "norm", "steps", "expected"),
    [
        (8 / 255, "linf", 1, 8 / 255),
        (8 / 255, "linf", 2, 8 / 255),
        (8 / 255, "linf", 3, 4 / 255),
        (0.2, "linf", 2, 0.1),
        (0.2, "linf", 10, 0.1),
        (2.0, "l2", 2, 1.0),
        (2.0, "l2", 3, 0.5),
    ],
)
def test_default_step_of_a_warm_start(eps: float, norm: Any, steps: int, expected: float) -> None:
    assert default_step_size(eps, norm, steps) == pytest.approx(expected)


def test_one_step_of_a_warm_start_at_small_eps_turns_a_pixel_around() -> None:
    """A linear model with two logits: from the best corner's opposite a step of eps leaves no pixel on the wrong side,
    half a step does."""
    x, eps = torch.full((1, 1, 2, 2), 0.5), 0.05
    weight = torch.tensor([[1.0, -2.0, 0.5, -1.0], [-1.0, 2.0, -0.5, 1.0]])
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
    model[1].weight.data = weight
    y = torch.tensor([0])

    class Opposite(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:  # toward the label: the wrong corner
            return 100 * weight[0].view(1, 1, 2, 2).expand(len(x), -1, -1, -1)

    generator = Generator(eps=eps, network=Opposite()).eval()
    start = generator.perturb(x)
    assert torch.allclose((start - x).sign(), weight[0].view(1, 1, 2, 2).sign())
    one = advgan(model, x, y, eps=eps, generator=generator, steps=1)
    assert torch.allclose(one, x, atol=1e-4)  # eps back from the corner
    two = advgan(model, x, y, eps=eps, generator=generator, steps=2)
    adaptive = advgan(model, x, y, eps=eps, generator=generator, steps=2, adaptive=True)
    for x_adv in (two, adaptive):  # the optimum
        assert torch.allclose(x_adv, x - eps * weight[0].view(1, 1, 2, 2).sign(), atol=1e-4)


def test_settings_of_a_generator_attack_without_effect_are_errors() -> None:
    model, x, y = conv_net(), images(4), torch.zeros(4, dtype=torch.long)
    generator = Generator(width=8, depth=1, eps=0.3)
    for text in ("adaptive=true", "loss=margin", "stop_on_success=true", "step_size=0.1"):
        with pytest.raises(InputError, match=f"{text.partition('=')[0]} is of the gradient steps after the pass"):
            make_attack(f"advgan:{text}", model, Threat(), generator=generator)(x, y)
    with pytest.raises(InputError, match="has no labels as an input, expected use_labels to be true"):
        make_attack("advgan:use_labels=false", model, Threat(), generator=generator)(x, y)


def test_a_targeted_generator_attacks_toward_its_class_alone() -> None:
    model, x, y = conv_net(), images(4), torch.zeros(4, dtype=torch.long)
    generator = Generator(width=8, depth=1, eps=0.3, y_target=1)
    with pytest.raises(InputError, match="trained for class 1, got y_target None"):
        advgan(model, x, y, eps=0.3, generator=generator, steps=1)  # steps away from y, after a pass toward 1
    assert advgan(model, x, y, eps=0.3, generator=generator, y_target=torch.ones_like(y), steps=1).shape == x.shape
