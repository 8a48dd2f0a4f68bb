"""Auto-PGD, Square and HopSkipJump: closed forms on linear models, declared access only, query budgets, contract."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from advgan.attacks.apgd import _spans, apgd
from advgan.attacks.hopskipjump import hopskipjump
from advgan.attacks.pgd import pgd
from advgan.attacks.square import _window, square
from advgan.core.errors import InputError
from advgan.core.threat_model import Threat, delta_norms
from advgan.evaluation.instrumentation import CallCounter
from tests.attacks.test_attacks import images, predicted_labels, seeded

BOUNDED: dict[str, Callable[..., Tensor]] = {
    "apgd-ce": partial(apgd, steps=8),
    "apgd-dlr": partial(apgd, steps=8, loss="dlr"),
    "square": partial(square, queries=30),
}
MINIMAL: dict[str, Callable[..., Tensor]] = {"hopskipjump": partial(hopskipjump, steps=3, max_queries=500)}
EVERY = BOUNDED | MINIMAL


def radius(name: str, eps: float) -> dict[str, float]:
    """The argument `eps` of a bounded attack."""
    return {"eps": eps} if name in BOUNDED else {}


def linear(classes: int, seed: int = 0) -> nn.Sequential:
    """Images (n, 1, 6, 6) -> logits of a linear model: its decision boundaries are planes."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, classes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=seeded(seed)))
        model[1].bias -= model(torch.full((1, 1, 6, 6), 0.5))[0]  # no class far away
    return model.eval()


def conv_net(channels: int = 1, classes: int = 5) -> nn.Sequential:
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(channels, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Dropout(0.5),
            nn.Flatten(), nn.Linear(16 * 9, classes),
        ).eval()  # fmt: skip
        net[-1].bias -= net(images(50, channels)).mean(0)  # every class has its images
    return net


def plane(model: nn.Sequential, x: Tensor, norm: str) -> tuple[Tensor, Tensor]:
    """Distance (n,) to the boundary of a linear model of two classes, and the unit step (n, 1, 6, 6) towards it."""
    w = (model[1].weight[1] - model[1].weight[0]).detach()
    gap = (model(x)[:, 1] - model(x)[:, 0]).detach()
    slope, unit = (w.abs().sum(), w.sign()) if norm == "linf" else (w.norm(), w / w.norm())
    return gap.abs() / slope, -gap.sign().view(-1, 1, 1, 1) * unit.view(1, 1, 6, 6)


# What every attack promises


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", EVERY)
def test_every_attack_fulfills_contract(
    name: str, norm: str, targeted: bool, channels: int, model_unchanged: Callable[[nn.Module], nn.Module]
) -> None:
    model, eps = conv_net(channels), {"linf": 0.03, "l2": 0.2}[norm]
    x = images(10, channels)
    x[0], x[1] = x[0].round(), 0  # pixels on the edge of the box
    clean = predicted_labels(model, x)
    y, target_class = clean.clone(), torch.full_like(clean, int(clean[4])) if targeted else None
    y[::3] = (y[::3] + 1) % 5
    done, before = clean != y if target_class is None else clean == target_class, x.clone()
    assert done.any()
    assert not done.all()
    attack = partial(EVERY[name], model_unchanged(model), x, y, **radius(name, eps), norm=norm, y_target=target_class)
    x_adv = attack(rng=seeded())
    limits = Threat(norm, eps) if name in BOUNDED else Threat("linf", 1.0)  # type: ignore[arg-type]
    assert limits.violations(x_adv, x) == []
    assert (x_adv.device, x_adv.requires_grad) == (x.device, False)
    assert torch.equal(x, before)
    assert torch.equal(x_adv[done], x[done])
    assert (x_adv[~done] != x[~done]).any()
    assert torch.equal(attack(rng=seeded()), x_adv)
    assert not torch.equal(attack(rng=seeded(5)), x_adv)


@pytest.mark.parametrize("name", EVERY)
def test_draws_depend_on_given_rng_only(name: str) -> None:
    model, x = conv_net(), images(3)
    before = torch.get_rng_state()
    EVERY[name](model, x, predicted_labels(model, x), **radius(name, 0.01), rng=seeded())
    assert torch.equal(torch.get_rng_state(), before)
    EVERY[name](model, x, predicted_labels(model, x), **radius(name, 0.01))
    assert not torch.equal(torch.get_rng_state(), before)


class UncalledModel(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError("the model was called")


X, Y = torch.full((3, 1, 6, 6), 0.5), torch.zeros(3, dtype=torch.long)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", EVERY)
def test_empty_batch(name: str, norm: str) -> None:
    assert EVERY[name](UncalledModel(), X[:0], Y[:0], **radius(name, 0.1), norm=norm).shape == (0, 1, 6, 6)


@pytest.mark.parametrize(
    ("attack", "change", "message"),
    [
        *[(attack, {"y": Y.float()}, "y must be an int64") for attack in (apgd, square, hopskipjump)],
        *[(attack, {"norm": "l7"}, "norm must be one of linf, l2") for attack in (apgd, square, hopskipjump)],
        *[(attack, {"x": X * 3}, r"images must lie in \[0, 1\]") for attack in (apgd, square, hopskipjump)],
        *[(attack, {"y_target": Y[:2]}, "y_target must be an int64") for attack in (apgd, square, hopskipjump)],
        *[(attack, {"eps": 0.0}, "eps must be in") for attack in (apgd, square)],
        (apgd, {"steps": 0}, "steps must be at least 1, got 0"),
        (apgd, {"restarts": 0}, "restarts must be at least 1, got 0"),
        (apgd, {"rho": 1.0}, r"rho must be in \(0, 1\).*got 1.0"),
        (apgd, {"loss": "hinge"}, "loss must be one of"),
        (square, {"queries": 0}, "queries must be at least 1, got 0"),
        (square, {"p_init": 0.0}, r"p_init must be in \(0, 1\].*got 0.0"),
        (hopskipjump, {"steps": 0}, "steps must be at least 1"),
        (hopskipjump, {"initial_queries": 0}, "initial_queries must be at least 1"),
        (hopskipjump, {"max_queries": 99}, "max_queries must be at least 100, got 99"),
    ],
)
def test_invalid_input_raises_before_forward(attack: Callable[..., Tensor], change: dict, message: str) -> None:
    eps = {} if attack is hopskipjump else {"eps": 0.1}
    with pytest.raises(InputError, match=message):
        attack(UncalledModel(), **{"x": X, "y": Y, **eps, **change})


@pytest.mark.parametrize("name", EVERY)
def test_out_of_range_target_raises(name: str) -> None:
    with pytest.raises(InputError, match="classes of the target, numbered 0 to 3, got 4"):
        EVERY[name](linear(4), X, Y, **radius(name, 0.1), y_target=Y + 4)


# Auto-PGD


def test_apgd_checkpoints_match_paper() -> None:
    assert _spans(100).nonzero().squeeze(1).tolist() == [22, 41, 57, 70, 80, 87, 93, 99]
    assert _spans(100).sum() == 99
    assert _spans(3).tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize("stop", [True, False])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_apgd_reaches_optimum_of_linear_model(norm: str, stop: bool) -> None:
    model, x = linear(2), images(12, size=6, low=0.3, high=0.7)
    y, (distance, way) = predicted_labels(model, x), plane(model, x, norm)
    eps = distance.median().item() + 1e-4
    x_adv = apgd(model, x, y, eps=eps, norm=norm, stop_on_success=stop, rng=seeded())  # type: ignore[arg-type]
    assert torch.equal(predicted_labels(model, x_adv) != y, distance < eps)
    held = distance > (eps if stop else 0)
    assert torch.allclose(x_adv[held], (x + eps * way)[held], atol=1e-5 if norm == "linf" else 1e-3)


@pytest.mark.parametrize("loss", ["cross-entropy", "dlr"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_apgd_success_not_below_pgd(norm: str, loss: str) -> None:
    model, x, eps = conv_net(), images(150), {"linf": 0.02, "l2": 0.12}[norm]
    y = predicted_labels(model, x)
    settings = {"eps": eps, "norm": norm, "steps": 20, "loss": loss}
    plain = predicted_labels(model, pgd(model, x, y, **settings, rng=seeded())) != y
    auto = predicted_labels(model, apgd(model, x, y, **settings, rng=seeded())) != y
    assert 0 < plain.sum() < len(x)
    assert auto.sum() >= plain.sum()


def test_apgd_halves_step_near_interior_maximum() -> None:
    class Hill(nn.Module):
        """The logit of class 1 has its maximum, below that of class 0, where the only pixel is .503."""

        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([torch.ones(len(x)), -((x.flatten() - 0.503) ** 2)], dim=1)

    x_adv = apgd(Hill(), torch.full((1, 1, 1, 1), 0.45), Y[:1], eps=0.2, rng=seeded())
    assert x_adv.item() == pytest.approx(0.503, abs=1e-3)


def test_apgd_restarts_change_unsuccessful_images_only() -> None:
    model, x = conv_net(), images(40)
    y = predicted_labels(model, x)
    settings = {"eps": 0.02, "steps": 2, "stop_on_success": False}
    once, often = (apgd(model, x, y, **settings, restarts=n, rng=seeded()) for n in (1, 4))
    won = predicted_labels(model, once) != y
    assert 0 < won.sum() < len(x)
    assert torch.equal(once[won], often[won])
    loss = nn.CrossEntropyLoss(reduction="none")
    rest = predicted_labels(model, often) == y
    assert (loss(model(often), y) >= loss(model(once), y))[rest].all()


@pytest.mark.parametrize("attack", [partial(apgd, steps=30), partial(square, queries=40)])
def test_finished_images_need_no_forwards(attack: Callable[..., Tensor]) -> None:
    model, x = conv_net(), images(30)
    y = predicted_labels(model, x)
    with CallCounter(model) as idle:
        attack(model, x, (y + 1) % 5, eps=0.1)
    with CallCounter(model) as busy:
        attack(model, x, y, eps=1e-7)
    assert idle.forwards == 30
    assert busy.forwards == (30 * 32 if attack.func is apgd else 30 * 40)  # type: ignore[attr-defined]


# Square


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_square_succeeds_on_linear_model_within_eps(norm: str) -> None:
    model, x = linear(2), images(12, size=6, low=0.4, high=0.6)
    y, (distance, _) = predicted_labels(model, x), plane(model, x, norm)
    eps = distance.median().item()
    success = predicted_labels(model, square(model, x, y, eps=eps, norm=norm, queries=1500, rng=seeded())) != y  # type: ignore[arg-type]
    assert success[distance < 0.7 * eps].all()
    assert not success[distance > 1.001 * eps].any()


@pytest.mark.parametrize("name", ["square", "hopskipjump"])
def test_gradient_free_attacks_disable_gradients(name: str) -> None:
    class NoGradient(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = conv_net()

        def forward(self, x: Tensor) -> Tensor:
            assert not torch.is_grad_enabled()
            assert not x.requires_grad
            return self.net(x)

    x = images(3)
    with torch.no_grad():
        y = NoGradient()(x).argmax(1)
    assert (EVERY[name](NoGradient(), x, y, **radius(name, 0.05)) != x).any()


@pytest.mark.parametrize("side", [1, 2, 3, 8])
def test_square_window_shape_and_norm(side: int) -> None:
    window, turned = _window(side, torch.zeros(1, 1, 9, 9))
    assert window.norm().item() == pytest.approx(1, abs=1e-5)
    assert torch.equal(turned, window.T)
    assert (window[:side, :side] != 0).all()
    assert window[side:].abs().sum() + window[:, side:].abs().sum() == 0
    assert window.abs().max() == window[:, side // 2].abs().max()  # the tops lie in the middle column


# HopSkipJump


class OneHot(nn.Module):
    """One-hot decisions of `net` in place of its logits."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        logits = self.net(x)
        return nn.functional.one_hot(logits.argmax(1), logits.shape[1]).float()


@pytest.mark.parametrize("target", [None, 1])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_hopskipjump_uses_decisions_only(norm: str, target: int | None) -> None:
    model, x = conv_net(), images(8)
    y = predicted_labels(model, x)
    target_class = None if target is None else torch.full_like(y, target)
    from_logits, from_decisions = (
        hopskipjump(net, x, y, norm=norm, steps=3, y_target=target_class, rng=seeded())  # type: ignore[arg-type]
        for net in (model, OneHot(model))
    )
    assert torch.equal(from_logits, from_decisions)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_hopskipjump_distance_to_plane(norm: str) -> None:
    model, x = linear(2), images(10, size=6, low=0.4, high=0.6)
    y, (distance, _) = predicted_labels(model, x), plane(model, x, norm)
    x_adv = hopskipjump(model, x, y, norm=norm, steps=20, max_queries=8000, rng=seeded())  # type: ignore[arg-type]
    norms = delta_norms(x_adv - x)[norm]
    assert (predicted_labels(model, x_adv) != y).all()
    assert (norms > 0.999 * distance).all()
    assert (norms < 1.1 * distance).all()


def test_hopskipjump_stays_within_query_budget() -> None:
    model, x = conv_net(), images(9)
    y = predicted_labels(model, x)
    for most in (100, 400, 2000):
        with CallCounter(model) as counter:
            x_adv = hopskipjump(model, x, y, max_queries=most, rng=seeded())
        assert counter.forwards <= most * len(x)
        assert (predicted_labels(model, x_adv) != y).all()


def test_hopskipjump_without_start_returns_x() -> None:
    class MostlyClassZero(nn.Module):
        """Class 0 everywhere except at one dark image."""

        def forward(self, x: Tensor) -> Tensor:
            dark = (x.flatten(1).amax(1) < 0.01).float()
            return torch.stack([torch.full_like(dark, 0.5), dark], dim=1)

    assert torch.equal(hopskipjump(MostlyClassZero(), X, Y, rng=seeded()), X)
    assert torch.equal(hopskipjump(MostlyClassZero(), X, Y, y_target=Y + 1, rng=seeded()), X)
    with_dark, y = torch.cat([X, 0 * X[:1]]), torch.tensor([0, 0, 0, 1])
    for target_class in (None, torch.ones_like(y)):
        x_adv = hopskipjump(MostlyClassZero(), with_dark, y, y_target=target_class, steps=1, rng=seeded())
        assert (predicted_labels(MostlyClassZero(), x_adv)[:3] == 1).all()
        assert target_class is None or torch.equal(x_adv[3], with_dark[3])


def test_apgd_with_a_gradient_that_autograd_expands() -> None:
    """The gradient of a sum is one number in memory for all pixels: a write into a part of it changes all of it."""

    class Sum(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            total = x.flatten(1).sum(1)
            return torch.stack([total, -total], 1)

    x = torch.linspace(0.3, 0.7, 5).view(5, 1, 1, 1).expand(5, 1, 4, 4).clone()
    rng = torch.Generator().manual_seed(0)
    x_adv = apgd(Sum().eval(), x, torch.zeros(5, dtype=torch.long), eps=0.1, steps=20, rng=rng)
    assert torch.allclose(x_adv, x - 0.1, atol=1e-6)
