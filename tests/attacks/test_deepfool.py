"""DeepFool: exact on linear models, equal to foolbox on others, and not weaker for pruned classes."""

from typing import Any

import foolbox
import pytest
import torch
from torch import Tensor, nn

from advgan.attacks import active_set as pool
from advgan.attacks import deepfool
from advgan.classifiers.checks import BinaryLogit
from advgan.core.errors import InputError
from advgan.core.threat_model import delta_norms
from advgan.evaluation.instrumentation import ModelSnapshot

FOOLBOX = {"l2": foolbox.attacks.L2DeepFoolAttack, "linf": foolbox.attacks.LinfDeepFoolAttack}
INF = float("inf")
both_norms = pytest.mark.parametrize("norm", ["l2", "linf"])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def linear(classes: int, scale: float = 1.0) -> nn.Sequential:
    """Images (n, 1, 4, 4) -> logits of a linear model: its decision boundaries are planes."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, classes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=seeded()))
    return model.eval()


def conv_net(classes: int = 5) -> nn.Sequential:
    """Images (n, 1, 12, 12) -> logits."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Dropout(0.5),
        nn.Flatten(), nn.Linear(16 * 9, classes),
    ).eval()  # fmt: skip


def images(n: int, size: int = 12, low: float = 0.0, high: float = 1.0) -> Tensor:
    return low + (high - low) * torch.rand(n, 1, size, size, generator=seeded(1))


def predicted_labels(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).argmax(1)


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Sequential, Tensor, Tensor]:
    """A network that separates ten kinds of blots, and 60 images: white on black, most pixels at the box limits."""
    kinds = nn.functional.interpolate(torch.rand(10, 1, 5, 5, generator=seeded(2)), 12, mode="bicubic")

    def draw(n: int, seed: int) -> tuple[Tensor, Tensor]:
        y = torch.arange(n) % 10
        noise = 0.35 * torch.randn(n, 1, 12, 12, generator=seeded(seed))
        return (2 * (kinds[y] - 0.5) + noise).clamp(0, 1), y

    model = conv_net(10).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(60):
        x, y = draw(60, 10 + step)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    x, y = draw(60, 3)
    assert (predicted_labels(model.eval(), x) == y).float().mean() > 0.9
    return model, x, y


# Closed forms


@both_norms
@pytest.mark.parametrize("classes", [2, 4])
def test_exact_on_a_linear_model(classes: int, norm: str) -> None:
    model, x = linear(classes, scale=3.0), images(20, size=4, low=0.45, high=0.55)
    with torch.no_grad():
        model[1].bias -= model(x).mean(0)  # no class far away: nothing leaves the box on its way
    y = predicted_labels(model, x)
    logits, weight = model(x), model[1].weight
    f, w = logits - logits.gather(1, y[:, None]), weight[None] - weight[y][:, None]
    length = w.norm(dim=2) if norm == "l2" else w.abs().sum(2)
    distance = (f.abs() / length).scatter(1, y[:, None], torch.inf).min(1).values

    delta = deepfool(model, x, y, norm=norm, overshoot=0.02, prune=INF) - x  # type: ignore[arg-type]
    assert distance.min() > 1e-4
    assert torch.allclose(delta_norms(delta)[norm], distance, rtol=1e-3)
    assert (predicted_labels(model, x + delta) != y).all()


def test_exact_on_linear_binary_logit() -> None:
    f = linear(1, scale=3.0)
    model, x = BinaryLogit(f).eval(), images(8, size=4, low=0.4, high=0.6)
    with torch.no_grad():
        f[1].bias -= f(x).mean()
    y, value, w = predicted_labels(model, x), f(x).detach(), f[1].weight.detach()
    delta = deepfool(model, x, y) - x
    assert torch.allclose(delta.flatten(1), -value / w.square().sum() * w, atol=1e-5)


# Equal to others, and to itself


@both_norms
@pytest.mark.parametrize("prune", [1.7, INF])
def test_equals_foolbox(norm: str, prune: float) -> None:
    model, x = conv_net(), images(12, low=0.1, high=0.9)
    y = predicted_labels(model, x)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1))
    reference = FOOLBOX[norm](steps=50, candidates=10).run(wrapped, x, foolbox.criteria.Misclassification(y))
    x_adv = deepfool(model, x, y, norm=norm, prune=prune)  # type: ignore[arg-type]
    # Theirs keeps an overshoot of 2 %, ours is drawn back to the boundary; theirs adds 1e-4 to each step.
    assert torch.allclose(1.02 * delta_norms(x_adv - x)[norm], delta_norms(reference - x)[norm], rtol=0.02, atol=1e-3)
    assert (predicted_labels(model, x_adv) != y).all()


@both_norms
def test_pruning_saves_backwards_at_equal_norms(norm: str, trained: tuple[nn.Sequential, Tensor, Tensor]) -> None:
    model, x, y = trained
    right = predicted_labels(model, x) == y
    backwards = {1.7: 0, INF: 0}
    size: dict[float, Tensor] = {}
    for prune in backwards:

        def count(*_: Any, prune: float = prune) -> None:
            backwards[prune] += 1

        with model[0].register_full_backward_hook(count):
            x_adv = deepfool(model, x, y, norm=norm, prune=prune)  # type: ignore[arg-type]
        assert (predicted_labels(model, x_adv) != y).all()
        size[prune] = delta_norms(x_adv - x)[norm][right]
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1))
    theirs = FOOLBOX[norm](steps=50, candidates=10).run(wrapped, x, foolbox.criteria.Misclassification(y))
    foolbox_mean = delta_norms(theirs - x)[norm][right].mean().item()
    assert 0.99 < foolbox_mean / size[INF].mean().item() < 1.03, "theirs may keep the overshoot of 2 %"
    assert size[1.7].mean().item() == pytest.approx(size[INF].mean().item(), rel=0.002)
    assert torch.isclose(size[1.7], size[INF], rtol=0.01).float().mean() > 0.97
    assert torch.allclose(size[1.7], size[INF], rtol=0.2)
    assert backwards[1.7] < backwards[INF] / 3


@pytest.mark.parametrize(
    ("gap", "slope", "prune", "is_measured"),
    [(1.25, 1.35, 1.4, True), (1.45, 1.5, 1.4, False), (1.45, 1.5, 1.5, True), (4, 5, 1.4, False), (4, 5, INF, True)],
)
def test_nearest_class_within_prune_ratio_is_found(gap: float, slope: float, prune: float, is_measured: bool) -> None:
    # Class 1 is 0.1 away along one pixel, with slope 1; class 2 is less far along the other, for it is steep.
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(2, 3)).eval(), torch.full((1, 1, 1, 2), 0.5)
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, slope]]))
        model[1].bias.copy_(torch.tensor([0.0, -0.1, -0.1 * gap]) - model[1].weight.sum(1) / 2)
    delta = deepfool(model, x, torch.tensor([0]), prune=prune) - x
    expected = [0.0, 0.1 * gap / slope] if is_measured else [0.1, 0.0]
    assert torch.allclose(delta.flatten(), torch.tensor(expected), atol=5e-5)


def test_class_with_zero_gradient_is_skipped() -> None:
    class Dead(nn.Module):
        """Class 1 is the likeliest rival everywhere, class 2 the only reachable one."""

        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([torch.ones(len(x)), torch.full((len(x),), 0.9), 2 * x.flatten(1).mean(1)], dim=1)

    x = torch.full((3, 1, 2, 2), 0.1)
    x_adv = deepfool(Dead(), x, torch.zeros(3, dtype=torch.long))
    assert torch.allclose(x_adv, torch.full_like(x, 0.1 + 0.4), atol=1e-4)


# What every attack promises


@both_norms
def test_result_is_independent_of_batch_and_chunk_size(
    norm: str, trained: tuple[nn.Sequential, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x, y = trained[0], trained[1][:20], trained[2][:20].clone()
    y[3] = (y[3] + 1) % 10  # finished before it began
    together = deepfool(model, x, y, norm=norm)  # type: ignore[arg-type]
    alone = [deepfool(model, x[i : i + 1], y[i : i + 1], norm=norm) for i in range(20)]  # type: ignore[arg-type]
    assert torch.allclose(torch.cat(alone), together, atol=1e-5)
    monkeypatch.setattr(pool, "CHUNK", 3)  # with one thread the pool has at least 8
    assert torch.allclose(deepfool(model, x, y, norm=norm), together, atol=1e-5)  # type: ignore[arg-type]


def test_misclassified_images_stay_unchanged() -> None:
    model, x = conv_net(), images(6)
    y = predicted_labels(model, x)
    y[::2] = (y[::2] + 1) % 5
    x_adv = deepfool(model, x, y)
    assert torch.equal(x_adv[::2], x[::2])
    assert (predicted_labels(model, x_adv)[1::2] != y[1::2]).all()


def test_unsuccessful_images_stay_unchanged(trained: tuple[nn.Sequential, Tensor, Tensor]) -> None:
    model, x, y = trained
    x_adv = deepfool(model, x, y, steps=3)
    same = (x_adv == x).flatten(1).all(1)
    right = predicted_labels(model, x) == y
    assert (same & right).any()
    assert (~same).any()
    assert torch.equal(predicted_labels(model, x_adv) == y, same & right)


def test_model_state_is_restored() -> None:
    model = conv_net().train()
    model[3].eval()  # mixed modes are kept
    model[0].weight.requires_grad_(False)
    model[7].bias.grad = torch.ones(5)
    before, x = ModelSnapshot(model), images(5)
    x_before = x.clone()
    x_adv = deepfool(model, x, predicted_labels(model, x))
    assert before.changes() == []
    assert torch.equal(x, x_before)
    assert not x_adv.requires_grad


def test_empty_batch() -> None:
    assert deepfool(conv_net(), images(0), torch.empty(0, dtype=torch.long)).shape == (0, 1, 12, 12)


# Bad input


X, Y = torch.full((3, 1, 4, 4), 0.5), torch.zeros(3, dtype=torch.long)


class UncalledModel(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError("the model was called before the input was checked")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"candidates": 1}, "candidates >= 2.*got 50, 1, 0.02 and 1.7"),
        ({"steps": 0}, "steps >= 1"),
        ({"overshoot": -1.0}, "overshoot >= 0"),
        ({"prune": 0.9}, "prune >= 1.*got 50, 10, 0.02 and 0.9"),
        ({"prune": float("nan")}, "prune >= 1"),
        ({"norm": "l1"}, "norm must be one of"),
        ({"x": X * 3}, r"images must lie in \[0, 1\]"),
        ({"y": Y.float()}, "y must be an int64"),
    ],
)
def test_invalid_input_raises_before_forward(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        deepfool(UncalledModel(), **{"x": X, "y": Y, **change})


def test_out_of_range_labels_raise() -> None:
    with pytest.raises(InputError, match="classes of the target, numbered 0 to 2, got 3"):
        deepfool(linear(3), X, Y + 3)


def test_model_without_gradient_raises() -> None:
    class Remote(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor([[1.0, 0.0]]).repeat(len(x), 1)

    with pytest.raises(InputError, match="passes no gradient"):
        deepfool(Remote(), X, Y)
