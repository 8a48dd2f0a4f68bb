"""Agreement of the attacks with foolbox, torchattacks and adv-lib on a small trained classifier."""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

import foolbox
import pytest
import torch
import torchattacks
from torch import Tensor, nn

from advgan.attacks import apgd, carlini_wagner, mifgsm, pgd, square
from advgan.core.threat_model import delta_norms
from advgan.data import load_data
from advgan.evaluation import wilson
from tests.attacks.test_attacks import conv_net, images, predicted_labels, seeded

N = 250


@pytest.fixture(scope="module")
def case() -> tuple[nn.Module, Tensor, Tensor]:
    """A small convolutional network trained on embedded digits, and 250 correctly classified test digits."""
    data = load_data("mnist5k")
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 5, stride=2), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2), nn.ReLU(), nn.Flatten(),
        nn.Linear(16 * 25, 10),
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(4):
        for x, y in data.train.batches(50):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    x, y = next(data.test.batches(1000))
    right = predicted_labels(model.eval(), x) == y
    return model, x[right][:N], y[right][:N]


def asr(model: nn.Module, x_adv: Tensor, y: Tensor) -> float:
    return (predicted_labels(model, x_adv) != y).float().mean().item()


def test_mifgsm_equals_torchattacks() -> None:
    model, x = conv_net(), images(10, low=0.2, high=0.8)
    y = predicted_labels(model, x)
    reference = torchattacks.MIFGSM(model, eps=0.05, alpha=0.01, steps=5, decay=0.7)(x, y)
    assert torch.allclose(mifgsm(model, x, y, eps=0.05, steps=5, decay=0.7), reference, atol=1e-5)


@pytest.mark.parametrize("start", ["x", "random"])
def test_pgd_success_within_two_points_of_foolbox(case: tuple[nn.Module, Tensor, Tensor], start: Any) -> None:
    model, x, y = case
    ours = pgd(model, x, y, eps=0.08, steps=40, step_size=0.08 / 30, start=start, rng=seeded())
    torch.manual_seed(0)
    theirs = foolbox.attacks.LinfPGD(rel_stepsize=1 / 30, steps=40, random_start=start == "random").run(
        foolbox.PyTorchModel(model, bounds=(0, 1)), x, foolbox.criteria.Misclassification(y), epsilon=0.08
    )
    assert 0.2 < asr(model, theirs, y) < 0.9, "a case on which attacks can differ"
    assert asr(model, ours, y) == pytest.approx(asr(model, theirs, y), abs=0.02)


@pytest.mark.parametrize("start", ["x", "random"])
def test_pgd_success_within_two_points_of_adv_lib(
    case: tuple[nn.Module, Tensor, Tensor], start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "visdom", ModuleType("visdom"))  # it plots by that, and cannot be without it
    try:
        theirs = import_module("adv_lib.attacks").pgd_linf
    except ImportError as error:
        pytest.skip(f"adv-lib is not installed ({error}); pip install --no-deps adv-lib")
    model, x, y = case
    torch.manual_seed(0)
    reference = theirs(model, x, y, ε=0.08, steps=40, random_init=start == "random", relative_step_size=1 / 30)
    ours = pgd(model, x, y, eps=0.08, steps=40, step_size=0.08 / 30, start=start, rng=seeded())
    assert asr(model, ours, y) == pytest.approx(asr(model, reference, y), abs=0.02)


@pytest.mark.parametrize("name", ["apgd-ce", "apgd-dlr", "square"])
def test_apgd_and_square_success_match_torchattacks(case: tuple[nn.Module, Tensor, Tensor], name: str) -> None:
    model, x, y = case
    if name == "square":
        ours = square(model, x, y, eps=0.08, queries=150, rng=seeded())
        theirs = torchattacks.Square(model, eps=0.08, n_queries=150, p_init=0.8, seed=0)(x, y)
    else:
        loss = {"apgd-ce": "cross-entropy", "apgd-dlr": "dlr"}[name]
        ours = apgd(model, x, y, eps=0.08, steps=20, loss=loss, rng=seeded())  # type: ignore[arg-type]
        theirs = torchattacks.APGD(model, eps=0.08, steps=20, loss=name.removeprefix("apgd-"), seed=0)(x, y)
    low, high = wilson(round(N * asr(model, theirs, y)), N)
    assert low <= asr(model, ours, y)
    if name != "square":  # ours skips proposals without a change and succeeds more often
        assert asr(model, ours, y) <= high
    assert low > 0.1, "a case on which attacks can differ"


def test_carlini_wagner_median_norm_matches_foolbox(case: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = case[0], case[1][:20], case[2][:20]
    theirs = foolbox.attacks.L2CarliniWagnerAttack(binary_search_steps=5, steps=100, stepsize=0.04, initial_const=1.0)
    reference = theirs.run(foolbox.PyTorchModel(model, bounds=(0, 1)), x, foolbox.criteria.Misclassification(y))
    ours = carlini_wagner(model, x, y, binary_steps=4, steps=100)
    assert asr(model, ours, y) == 1
    median, expected = (delta_norms(x_adv - x)["l2"].median().item() for x_adv in (ours, reference))
    assert 0.9 * expected < median < 1.05 * expected
