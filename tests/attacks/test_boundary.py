"""Minimum-norm attacks end just beyond the decision boundary: closed form on linear models, any scale and batch."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from advgan.attacks import carlini_wagner, deepfool, lbfgs, make_attack
from advgan.attacks.boundary import to_boundary
from advgan.core.threat_model import Norm, Threat, delta_norms

ATTACKS = {
    "deepfool": (deepfool, "l2"),
    "deepfool-linf": (partial(deepfool, norm="linf"), "linf"),
    "carlini-wagner": (partial(carlini_wagner, binary_steps=2, steps=150), "l2"),
    "lbfgs": (partial(lbfgs, binary_steps=3, steps=6), "l2"),
}
BATCHES = (1, 2, 7, 40, 100)
every_attack = pytest.mark.parametrize("name", ATTACKS)


class Linear(nn.Module):
    """Logits scale (W (x - 1/2)) of images (n, 3, 4, 4)."""

    def __init__(self, classes: int, scale: float = 1.0) -> None:
        super().__init__()
        weight = scale * torch.randn(classes, 48, generator=torch.Generator().manual_seed(3))
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T - 0.5 * self.weight.sum(1)


def images(n: int) -> Tensor:
    """Images near grey, so that no nearest boundary point lies outside the box."""
    return 0.4 + 0.2 * torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(4))


def labels(model: Linear, x: Tensor) -> tuple[Tensor, Tensor]:
    """Predicted classes (n,), and the logit gaps (n, k) to every class in float64."""
    logits = (x.double() - 0.5).flatten(1) @ model.weight.double().T
    return logits.argmax(1), logits.amax(1, keepdim=True) - logits


def distance(model: Linear, x: Tensor, norm: str) -> Tensor:
    y, gap = labels(model, x)
    w = model.weight.double()[y][:, None] - model.weight.double()
    slope = w.norm(dim=2) if norm == "l2" else w.abs().sum(2)
    return (gap / slope.clamp_min(1e-300)).scatter(1, y[:, None], torch.inf).amin(1)


@pytest.mark.parametrize(
    ("name", "classes", "scale"),
    [
        *[(name, 10, 1.0) for name in ATTACKS],
        *[(name, 2, scale) for name in ("deepfool", "deepfool-linf") for scale in (1.0, 1e-9, 1e9)],
        *[("carlini-wagner", 2, 1e-9), ("lbfgs", 2, 1e9)],
    ],
)
def test_distance_matches_closed_form_at_any_logit_scale(name: str, classes: int, scale: float) -> None:
    attack, norm = ATTACKS[name]
    model, x = Linear(classes, scale).eval(), images(40)
    truth = distance(model, x, norm)
    x, truth = x[truth > 1e-3][:2], truth[truth > 1e-3][:2]
    y = labels(model, x)[0]
    x_adv = attack(model, x, y)
    ratio = delta_norms(x_adv - x)[norm] / truth
    assert (ratio > 1).all()
    assert (ratio < 1.01).all()
    for size in BATCHES:
        assert all(
            (model(part).argmax(1) != label).all() for part, label in zip(x_adv.split(size), y.split(size), strict=True)
        )


@every_attack
def test_result_is_independent_of_batch(name: str) -> None:
    attack, norm = ATTACKS[name]
    model, x = Linear(4).eval(), images(2)
    y = labels(model, x)[0]
    together = attack(model, x, y)
    alone = attack(model, x[:1], y[:1])
    assert torch.allclose(delta_norms(alone - x[:1])[norm], delta_norms(together - x)[norm][:1], rtol=2e-3)


@pytest.mark.parametrize(("name", "norm"), [("hopskipjump", "l2"), ("hopskipjump-linf", "linf"), ("lbfgs", "l2")])
def test_success_holds_in_other_batch_sizes(name: str, norm: Norm) -> None:
    model, x = Linear(2).eval(), images(5)
    y, threat = labels(model, x)[0], Threat(norm, 0.5)
    spec = f"{name}:binary_steps=3:steps=6" if name == "lbfgs" else f"{name}:max_queries=600:steps=8"
    attack = make_attack(spec, model, threat, rng=torch.Generator().manual_seed(0))
    x_adv = attack(x, y)
    for size in (1, 2, 5):
        assert torch.cat([model(part).argmax(1) for part in x_adv.split(size)]).ne(y).all()


def test_to_boundary_leaves_exact_boundary() -> None:
    model, x = Linear(2, 1e6).eval(), images(40)
    y, w = labels(model, x)[0], model.weight.double()[1] - model.weight.double()[0]
    gap = ((x.double() - 0.5).flatten(1) @ w)[:, None]
    on_it = (x.double().flatten(1) - gap * w / w.square().sum()).float().view_as(x)
    out = to_boundary(model, x, on_it, y)
    for size in BATCHES:
        assert torch.cat([model(part).argmax(1) for part in out.split(size)]).ne(y).all()
    assert (delta_norms(out - x)["l2"] < 1.01 * delta_norms(on_it - x)["l2"] + 1e-5).all()


def test_to_boundary_keeps_unsuccessful_images() -> None:
    model, x = Linear(2).eval(), images(4)
    y = labels(model, x)[0]
    held = x + 0.1 * (distance(model, x, "l2").float() / 48**0.5).view(-1, 1, 1, 1)
    assert torch.equal(to_boundary(model, x, held, y), held)
    assert torch.equal(to_boundary(model, x, x, y), x)
    assert torch.equal(to_boundary(model, x, held, 1 - y), held)
