"""FGSM, iterated FGSM, noise: closed forms on linear models, foolbox elsewhere; the contract of every attack."""

from collections.abc import Callable

import foolbox
import pytest
import torch
from torch import Tensor, nn

from advgan.attacks import (
    ATTACKS,
    AttackSpec,
    fgsm,
    ifgsm,
    ifgsm_corner,
    ifgsm_projected,
    make_attack,
    mifgsm,
    noise_gaussian,
    noise_sign,
    noise_uniform,
    parse_attack,
    pgd,
)
from advgan.attacks import active_set as pool
from advgan.attacks import common as gradients
from advgan.attacks.losses import get_loss
from advgan.core.errors import InputError
from advgan.core.threat_model import TOLERANCE, Threat, delta_norms
from advgan.models.generator import Generator

# Settings that make the thorough ones quick enough for small nets.
QUICK = {
    "apgd-ce": ":steps=10",
    "apgd-dlr": ":steps=10",
    "square": ":queries=50",
    "carlini-wagner": ":steps=50:binary_steps=3:learning_rate=0.05:initial_c=1",
    "carlini-wagner-clipped": ":steps=50:kappa=0",
    "lbfgs": ":steps=5:binary_steps=4",
    "jsma": ":gamma=1",
    "hopskipjump": ":steps=3:initial_queries=20",
    "hopskipjump-linf": ":steps=3:initial_queries=20",
}


def spec(name: str) -> AttackSpec:
    return parse_attack(name + QUICK.get(name, ""))


def generator(channels: int, norm: str, y_target: int | None) -> Generator:
    """An untrained generator whose ball contains those of the tests."""
    torch.manual_seed(0)
    eps = {"linf": 0.3, "l2": 2.0}[norm]
    return Generator(channels, eps, norm, y_target, width=8, depth=1).eval()  # type: ignore[arg-type]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def linear(classes: int, seed: int = 0, scale: float = 1.0) -> nn.Sequential:
    """Images (n, 1, 4, 4) -> logits of a linear model: its decision boundaries are planes."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, classes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=seeded(seed)))
    return model.eval()


def conv_net(channels: int = 1, classes: int = 5) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Dropout(0.5),
        nn.Flatten(), nn.Linear(16 * 9, classes),
    ).eval()  # fmt: skip


def images(n: int, channels: int = 1, size: int = 12, low: float = 0.0, high: float = 1.0) -> Tensor:
    return low + (high - low) * torch.rand(n, channels, size, size, generator=seeded(1))


def stopping(model: nn.Module, x: Tensor, y: Tensor, *, eps: float) -> Tensor:
    return pgd(model, x, y, eps=eps, start="x", steps=7, stop_on_success=True)


def predicted_labels(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).argmax(1)


# Closed forms


@pytest.mark.parametrize("target", [None, 2])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_fgsm_step_is_cross_entropy_gradient(norm: str, target: int | None) -> None:
    model, x, y = linear(3, scale=0.3), images(7, size=4, low=0.4, high=0.6), torch.tensor([0, 1, 2, 0, 1, 2, 0])
    target_class = None if target is None else torch.full_like(y, target)
    probabilities = model(x).softmax(1)
    label = y if target_class is None else target_class
    gradient = (probabilities - nn.functional.one_hot(label, 3)) @ model[1].weight * (1 if target_class is None else -1)
    step = gradient.sign() if norm == "linf" else gradient / gradient.norm(dim=1, keepdim=True)
    x_adv = fgsm(model, x, y, eps=0.1, norm=norm, y_target=target_class)  # type: ignore[arg-type]
    assert torch.allclose(x_adv, x + 0.1 * step.view_as(x), atol=1e-6)


@pytest.mark.parametrize("steps", [2, 10])
def test_ifgsm_equals_fgsm_for_constant_gradient_sign(steps: int) -> None:
    model, x, y = linear(2), images(6, size=4), torch.tensor([0, 1, 0, 1, 0, 1])
    one_step = fgsm(model, x, y, eps=0.2)
    assert torch.allclose(ifgsm(model, x, y, eps=0.2, steps=steps), one_step, atol=1e-6)
    assert torch.allclose(ifgsm(model, x, y, eps=0.2, steps=steps, step_size=0.15), one_step, atol=1e-6)
    assert torch.allclose(ifgsm_projected(model, x, y, eps=0.2), one_step, atol=1e-6)


# Equal to others


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda m, x, y: fgsm(m, x, y, eps=0.05), foolbox.attacks.LinfFastGradientAttack(random_start=False)),
        (lambda m, x, y: fgsm(m, x, y, eps=0.05, norm="l2"), foolbox.attacks.L2FastGradientAttack(random_start=False)),
        (
            lambda m, x, y: ifgsm(m, x, y, eps=0.05, steps=5),
            foolbox.attacks.LinfBasicIterativeAttack(abs_stepsize=0.01, steps=5, random_start=False),
        ),
        (
            lambda m, x, y: ifgsm_projected(m, x, y, eps=0.05),
            foolbox.attacks.LinfBasicIterativeAttack(abs_stepsize=0.05 / 4, steps=10, random_start=False),
        ),
    ],
    ids=["fgsm", "fgsm-l2", "ifgsm", "ifgsm-projected"],
)
def test_bounded_attacks_equal_foolbox(ours: Callable[..., Tensor], theirs: foolbox.Attack) -> None:
    model, x = conv_net(), images(10, low=0.2, high=0.8)
    y = predicted_labels(model, x)
    reference = theirs.run(foolbox.PyTorchModel(model, bounds=(0, 1)), x, y, epsilon=0.05)
    assert torch.allclose(ours(model, x, y), reference, atol=1e-5)


# What every attack promises


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_fulfills_contract(
    name: str, norm: str, targeted: bool, channels: int, model_unchanged: Callable[[nn.Module], nn.Module]
) -> None:
    model, x, eps = model_unchanged(conv_net(channels)), images(6, channels), {"linf": 0.1, "l2": 0.7}[norm]
    x[0], x[1] = x[0].round(), 0  # pixels on the edge of the box
    y, x_before = torch.arange(6) % 5, x.clone()
    if targeted and not ATTACKS[name].targeted:
        with pytest.raises(InputError, match="has no targeted form"):
            make_attack(spec(name), model, Threat(norm, eps, targeted=True), y_target=2)  # type: ignore[arg-type]
        return
    threat = Threat(norm, eps, targeted=targeted)  # type: ignore[arg-type]
    writer = generator(channels, norm, 2 if targeted else None)
    x_adv = make_attack(spec(name), model, threat, 2 if targeted else None, seeded(), writer)(x, y)
    limits = threat if ATTACKS[name].kind == "bounded" else Threat("linf", 1.0)
    assert limits.violations(x_adv, x) == []
    assert not x_adv.requires_grad
    assert x_adv.device == x.device
    assert torch.equal(x, x_before)
    assert (x_adv != x).any() or ATTACKS[name].kind == "minimal-norm", "those return x where their search fails"


@pytest.mark.parametrize("attack", [fgsm, ifgsm, mifgsm, pgd])
def test_model_state_is_restored_after_exception(
    attack: Callable[..., Tensor], model_unchanged: Callable[..., nn.Module]
) -> None:
    class Breaks(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("out of memory")

    model = model_unchanged(Breaks(nn.Conv2d(1, 2, 3), nn.ReLU()))
    with pytest.raises(RuntimeError, match="out of memory"):
        attack(model, images(2), torch.zeros(2, dtype=torch.long), eps=0.1)


@pytest.mark.parametrize("attack", [fgsm, ifgsm, ifgsm_projected, ifgsm_corner, mifgsm, stopping])
def test_result_is_independent_of_batch_and_chunk_size(
    attack: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = conv_net(), images(20)
    y = predicted_labels(model, x)
    y[3] = (y[3] + 1) % 5  # finished before it began, if the attack can finish
    together = attack(model, x, y, eps=0.1)
    alone = torch.cat([attack(model, x[i : i + 1], y[i : i + 1], eps=0.1) for i in range(20)])
    monkeypatch.setattr(pool, "CHUNK", 3)
    in_chunks = attack(model, x, y, eps=0.1)
    assert torch.allclose(alone, together, atol=1e-5)
    assert torch.allclose(in_chunks, together, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", [name for name in ATTACKS if name != "advgan" and ATTACKS[name].access != "nothing"])
def test_model_of_another_dtype_raises_with_both_dtypes(name: str, dtype: torch.dtype) -> None:
    attack = make_attack(name, conv_net(1).to(dtype), Threat("linf", 0.1), rng=seeded())
    with pytest.raises(InputError, match=rf"float32 images .* weights are {dtype}, expected .*: model\.float\(\)"):
        attack(images(2, 1), torch.arange(2))


@pytest.mark.parametrize("name", ATTACKS)
def test_empty_batch(name: str) -> None:
    x, y = torch.empty(0, 1, 12, 12), torch.empty(0, dtype=torch.long)
    attack = make_attack(spec(name), conv_net(), Threat("linf", 0.1), generator=generator(1, "linf", None))
    assert attack(x, y).shape == x.shape


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    "name", ["noise-sign", "pgd", "apgd-ce", "square", "deepfool", "carlini-wagner", "hopskipjump"]
)
def test_result_is_the_same_with_another_default_dtype(name: str, dtype: torch.dtype) -> None:
    model, x = conv_net(), images(2)
    y, threat = predicted_labels(model, x), Threat("l2", 1.0)
    expected = make_attack(spec(name), model, threat, rng=seeded())(x, y)
    torch.set_default_dtype(dtype)
    try:
        x_adv = make_attack(spec(name), model, threat, rng=seeded())(x, y)
        assert x_adv.dtype == torch.float32
        assert torch.allclose(x_adv, expected, atol=1e-6)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", ATTACKS)
def test_model_gets_no_empty_batch(name: str) -> None:
    """`x.view(len(x), -1)` fails for one. Without images, and without a success: all are misclassified already."""
    model, x, sizes = conv_net(), images(3), list[int]()
    wrong = (predicted_labels(model, x) + 1) % 5
    model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    attack = make_attack(spec(name), model, Threat("linf", 0.1), generator=generator(1, "linf", None))
    for n in (0, 3):
        assert attack(x[:n], wrong[:n]).shape == (n, 1, 12, 12)
    assert 0 not in sizes


# The clamp trap, and its relatives


def test_gradient_is_nonzero_at_box_limits() -> None:
    model, x = linear(3), images(8, size=4).round()
    y = predicted_labels(model, x)
    gradient = gradients.loss_and_gradient(model, x, y, None, get_loss("cross-entropy"))[0].sign()
    assert (gradient != 0).all()
    inward = ((x == 0) & (gradient > 0)) | ((x == 1) & (gradient < 0))
    assert inward.any()
    x_adv = fgsm(model, x, y, eps=0.1)
    assert torch.allclose((x_adv - x)[inward].abs(), torch.tensor(0.1))
    assert (x_adv == x)[~inward].all()


def test_clipped_pixel_returns_inside_box() -> None:
    class Hill(nn.Module):
        """The logit of the wrong class has its maximum where the only pixel is 0.02."""

        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([torch.zeros(len(x)), -100 * (x.flatten() - 0.02) ** 2], dim=1)

    # 0.03 - 0.05 is cut to 0; a gradient that went through that cut would be dead, and the pixel would stay there.
    x_adv = ifgsm(Hill(), torch.full((1, 1, 1, 1), 0.03), torch.tensor([0]), eps=0.1, steps=2, step_size=0.05)
    assert x_adv.item() == pytest.approx(0.05)


def test_fgsm_on_saturated_cross_entropy() -> None:
    model, x = linear(3, scale=1000.0), images(5, size=4)
    y = predicted_labels(model, x)
    leaf = x.clone().requires_grad_()
    nn.functional.cross_entropy(model(leaf), y).backward()
    assert leaf.grad is not None
    assert (leaf.grad == 0).all(), "float32 cross-entropy is flat here, or this shows nothing"
    assert (predicted_labels(model, fgsm(model, x, y, eps=0.5)) != y).any()
    assert ((fgsm(model, x, y, eps=0.1) - x).abs() > 0).any()


# Noise


@pytest.mark.parametrize("noise", [noise_uniform, noise_sign])
def test_noise_depends_on_given_rng_only(noise: Callable[..., Tensor]) -> None:
    x, y = images(4), torch.zeros(4, dtype=torch.long)
    before = torch.get_rng_state()
    first = noise(None, x, y, eps=0.1, rng=seeded(3))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(noise(None, x, y, eps=0.1, rng=seeded(3)), first)
    assert not torch.equal(noise(None, x, y, eps=0.1, rng=seeded(4)), first)
    assert not torch.equal(first[0] - x[0], first[1] - x[1])


def test_noise_norm_and_mean() -> None:
    x, y = torch.full((50, 1, 12, 12), 0.5), torch.zeros(50, dtype=torch.long)
    uniform = noise_uniform(None, x, y, eps=0.2, rng=seeded()) - x
    assert uniform.abs().mean().item() == pytest.approx(0.1, rel=0.02)
    assert abs(uniform.mean().item()) < 0.005
    signs = noise_sign(None, x, y, eps=0.2, rng=seeded()) - x
    assert torch.allclose(signs.abs(), torch.tensor(0.2), atol=1e-6)
    assert abs(signs.mean().item()) < 0.01
    for noise in (noise_uniform, noise_sign):
        length = delta_norms(noise(None, x, y, eps=0.7, norm="l2", rng=seeded()) - x)["l2"]
        assert length.max() <= 0.7 + TOLERANCE["l2"]
        assert length.mean() > 0.68


# Bad input


class UncalledModel(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError("the model was called before the input was checked")


X, Y = torch.full((3, 1, 4, 4), 0.5), torch.zeros(3, dtype=torch.long)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eps": 0.0}, r"eps must be in \(0, 1\].*got 0.0"),
        ({"eps": -0.1}, "eps must be"),
        ({"eps": 1.5}, "eps must be"),
        ({"eps": float("nan")}, "eps must be"),
        ({"norm": "l7"}, "norm must be one of linf, l2, got 'l7'"),
        ({"x": (X * 255).to(torch.uint8)}, "images must be float32.*uint8"),
        ({"x": X[0]}, r"images must be float32 of shape \(n, c, h, w\)"),
        ({"x": X * 3}, r"images must lie in \[0, 1\], got 1.5"),
        ({"x": X * float("nan")}, r"images must lie in \[0, 1\]"),
        ({"y": Y[:2]}, r"y must be an int64 tensor of shape \(3,\)"),
        ({"y": Y.float()}, "y must be an int64"),
        ({"y": Y - 1}, "y must hold classes from 0 on, got -1"),
        ({"y_target": 3}, "y_target must be an int64 tensor of shape.*got int 3"),
        ({"y_target": Y - 2}, "y_target must hold classes from 0 on, got -2"),
    ],
)
@pytest.mark.parametrize(
    "attack",
    [noise_uniform, noise_gaussian, noise_sign, fgsm, ifgsm, ifgsm_projected, ifgsm_corner, mifgsm, pgd],
)
def test_invalid_input_raises_before_forward(attack: Callable[..., Tensor], change: dict, message: str) -> None:
    arguments = {"x": X, "y": Y, "eps": 0.1, **change}
    with pytest.raises(InputError, match=message):
        attack(UncalledModel(), **arguments)


@pytest.mark.parametrize(
    ("attack", "arguments", "message"),
    [
        (ifgsm, {"steps": 0}, "steps must be at least 1, got 0"),
        (ifgsm, {"steps": 2.5}, "steps must be a whole number, got 2.5"),
        (ifgsm, {"step_size": 0.0}, "step_size must be positive, got 0.0"),
        (ifgsm, {"step_size": float("inf")}, "step_size must be finite, got inf"),
        (noise_sign, {"rng": 3}, "rng must be a torch.Generator, got int"),
        (ifgsm, {"loss": "l1"}, "loss must be one of cross-entropy, margin, dlr, difference, got 'l1'"),
        (fgsm, {"loss": "difference"}, "loss difference compares the target class.*expected a y_target"),
        (mifgsm, {"decay": -1.0}, "decay must be at least 0, got -1.0"),
        (pgd, {"steps": 0}, "steps must be at least 1, got 0"),
        (pgd, {"restarts": 0}, "restarts must be at least 1, got 0"),
        (pgd, {"start": "y"}, "start random or x.*got 'y'"),
        (pgd, {"direction": "up"}, "direction steepest, sign or gradient, got 'random' and 'up'"),
        (pgd, {"direction": "gradient"}, "direction gradient needs a step_size, got none"),
        (noise_sign, {"draws": 0}, "draws must be at least 1, got 0"),
        (noise_uniform, {"magnitude": 0.0}, "magnitude must be positive, got 0.0"),
    ],
)
def test_invalid_settings_raise_before_forward(attack: Callable[..., Tensor], arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        attack(UncalledModel(), X, Y, **{"eps": 0.1, **arguments})


@pytest.mark.parametrize("attack", [fgsm, pgd, ifgsm, noise_sign])
def test_result_is_detached_from_images_with_a_gradient(attack: Callable[..., Tensor]) -> None:
    assert not attack(linear(3), X.clone().requires_grad_(), Y, eps=0.1).requires_grad


@pytest.mark.parametrize("attack", [fgsm, mifgsm, pgd])
def test_out_of_range_labels_raise(attack: Callable[..., Tensor]) -> None:
    with pytest.raises(InputError, match="classes of the target, numbered 0 to 2, got 3"):
        attack(linear(3), X, Y + 3, eps=0.1)


@pytest.mark.parametrize("attack", [fgsm, mifgsm, pgd])
def test_model_without_gradient_raises(attack: Callable[..., Tensor]) -> None:
    class Remote(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor([[1.0, 0.0]]).repeat(len(x), 1)

    with pytest.raises(InputError, match="passes no gradient"):
        attack(Remote(), X, Y, eps=0.1)


def test_unknown_attack_suggests_names() -> None:
    with pytest.raises(InputError, match=r"unknown attack 'fgms'; did you mean .*fgsm"):
        make_attack("fgms", linear(2), Threat())
