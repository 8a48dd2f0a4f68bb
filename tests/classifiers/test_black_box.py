"""BlackBox: query counting and budget, validation of outputs, no gradient."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from advgan.attacks import hopskipjump, square
from advgan.attacks.registry import ATTACKS, make_attack
from advgan.classifiers import BlackBox, QueryBudgetExceeded, check_target, load_target
from advgan.classifiers.black_box import FLOOR
from advgan.core.errors import InputError
from advgan.core.threat_model import Threat
from advgan.data import load_data
from advgan.evaluation import evaluate
from advgan.evaluation.compatibility import require_gradients

SIX = torch.linspace(0, 1, 6).view(6, 1, 1, 1).expand(6, 1, 4, 4)


def brightness(x: Tensor) -> np.ndarray:
    """Two classes, dark and bright, as numpy probabilities without autograd."""
    bright = x.numpy().mean((1, 2, 3))
    return np.stack([1 - bright, bright], 1)


@pytest.fixture
def target(classifier: Path) -> nn.Module:
    return load_target("mnist-small", classifier, image_shape=(1, 28, 28), num_classes=3)


@pytest.fixture
def bars(digits: Path) -> tuple[Tensor, Tensor]:
    return next(load_data("folder", digits).test.batches(24))


def test_log_probabilities_in_batches_and_query_count() -> None:
    sizes: list[int] = []
    box = BlackBox(lambda x: sizes.append(len(x)) or brightness(x), 2, batch_size=4)
    logits = box(SIX)
    assert (sizes, box.queries, box.remaining) == ([4, 2], 6, float("inf"))
    p = torch.from_numpy(brightness(SIX))
    assert torch.allclose(logits, p.clamp_min(FLOOR).log())
    assert torch.isfinite(logits).all()
    assert torch.equal(box.query(SIX), p)
    assert box(SIX[:0]).shape == (0, 2)
    assert box.queries == 12


def test_labels_become_floored_one_hot_log_probabilities() -> None:
    box = BlackBox(lambda x: brightness(x).argmax(1), 2, "labels")
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    assert torch.equal(box.query(SIX), nn.functional.one_hot(labels, 2).float())
    assert set(box(SIX).flatten().tolist()) == {0.0, torch.tensor(FLOOR).log().item()}


def test_query_budget_is_checked_before_the_query() -> None:
    sizes: list[int] = []
    box = BlackBox(lambda x: sizes.append(len(x)) or brightness(x), 2, max_queries=10, batch_size=4)
    box(SIX)
    with pytest.raises(
        QueryBudgetExceeded, match=r"a budget of 10 queries, 6 of them used: a query of 6 more images was not"
    ):
        box(SIX)
    assert (box.queries, box.remaining, sum(sizes)) == (6, 4, 6)
    box(SIX[:4])
    assert (box.queries, box.remaining) == (10, 0)
    with pytest.raises(InputError, match="was not made"):
        box(SIX[:1])
    assert box(SIX[:0]).shape == (0, 2)


@pytest.mark.parametrize(
    ("predict", "output", "message"),
    [
        (lambda x: torch.zeros(len(x), 3), "probabilities", r"probabilities of shape \(6, 2\), got \(6, 3\)"),
        (lambda x: torch.zeros(len(x)), "probabilities", r"got \(6,\)"),
        (lambda x: torch.full((len(x), 2), float("nan")), "probabilities", "NaN or infinity"),
        (lambda x: torch.full((len(x), 2), 0.6), "probabilities", "sum to 1"),
        (lambda x: torch.tensor([[-1.0, 2.0]] * len(x)), "probabilities", r"from -1 and sums up to 1 \(logits\?\)"),
        (lambda x: "a cat", "probabilities", "must return numbers, got str"),
        (lambda x: torch.zeros(len(x)), "labels", "whole numbers, its labels, got torch.float32"),
        (lambda x: torch.full((len(x),), 2), "labels", "must be from 0 to 1, got 2 to 2"),
        (lambda x: [-1] * len(x), "labels", "must be from 0 to 1, got -1 to -1"),
        (lambda x: torch.zeros(len(x), 2, dtype=torch.long), "labels", r"labels of shape \(6,\), got \(6, 2\)"),
    ],
)
def test_invalid_output_raises_and_counts_as_query(predict: Any, output: Any, message: str) -> None:
    box = BlackBox(predict, 2, output)
    with pytest.raises(InputError, match=message):
        box(SIX)
    assert box.queries == 6


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"output": "logits"}, "output must be one of probabilities, labels, got 'logits'"),
        ({"max_queries": -1}, "max_queries must not be negative, got -1"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"num_classes": 1}, "num_classes must be at least 2, got 1"),
        ({"predict": nn.Flatten()}, r"plain callable, for a model BlackBox.from_model\(model\), got"),
        ({"predict": 3}, "plain callable"),
    ],
)
def test_invalid_arguments_raise(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        BlackBox(**{"predict": brightness, "num_classes": 2, **given})


def test_black_box_of_model_has_same_outputs_and_no_weights(target: nn.Module, bars: tuple[Tensor, Tensor]) -> None:
    x, _ = bars
    with pytest.raises(InputError, match=r"takes no float32 images: its weights are torch.float16, .*: model.float"):
        BlackBox.from_model(copy.deepcopy(target).half(), 3).query(x)
    box, decisions = BlackBox.from_model(target.train(), 3), BlackBox.from_model(target, 3, "labels")
    logits = target.eval()(x)
    assert torch.allclose(box(x), logits.log_softmax(1).clamp_min(torch.tensor(FLOOR).log().item()), atol=1e-5)
    assert torch.equal(decisions(x).argmax(1), logits.argmax(1))
    assert not [*box.parameters(), *box.buffers(), *box.children()]
    assert not box(x.clone().requires_grad_()).requires_grad
    assert check_target(box, x[:4], 3) is box
    assert box.queries == 2 * len(x) + 5, "four images together, and the first alone"


@pytest.mark.parametrize("name", [name for name, attack in ATTACKS.items() if attack.access == "gradients"])
def test_gradient_attack_raises(name: str, target: nn.Module, bars: tuple[Tensor, Tensor]) -> None:
    x, y = (part[:4] for part in bars)
    with pytest.raises(InputError, match="passes no gradient to its input"):
        make_attack(name, BlackBox.from_model(target, 3), Threat("linf", 0.3))(x, y)


def test_score_and_decision_attacks_run(target: nn.Module, bars: tuple[Tensor, Tensor]) -> None:
    x, y = (part[:4] for part in bars)
    box, rng = BlackBox.from_model(target, 3), torch.Generator().manual_seed(0)
    x_adv = square(box, x, y, eps=0.5, queries=20, rng=rng)
    assert (box(x_adv).argmax(1) != y).any()
    assert 0 < box.queries <= 4 * 20 + 4
    few = BlackBox.from_model(target, 3, "labels", max_queries=4000)
    x_adv = hopskipjump(few, x, y, steps=2, initial_queries=10, max_queries=300, rng=rng)
    assert (few(x_adv).argmax(1) != y).all()


def test_evaluate_on_black_box(target: nn.Module, bars: tuple[Tensor, Tensor]) -> None:
    (x, y), threat = bars, Threat("linf", 0.5)
    box, rng = BlackBox.from_model(target, 3), torch.Generator().manual_seed(0)
    plain = evaluate(make_attack("noise-sign", target, threat, rng=rng.manual_seed(1)), target, x, y, threat).row
    row = evaluate(make_attack("noise-sign", box, threat, rng=rng.manual_seed(1)), box, x, y, threat).row
    assert (row["status"], row["asr"], row["n_correct"]) == ("ok", plain["asr"], plain["n_correct"])
    failed = evaluate(make_attack("fgsm", box, threat), box, x, y, threat).row
    assert failed["status"].startswith("failed: InputError: the target passes no gradient")
    spent = BlackBox.from_model(target, 3, max_queries=60)
    row = evaluate(make_attack("square:queries=20", spent, threat, rng=rng), spent, x, y, threat).row
    assert row["status"].startswith("failed: QueryBudgetExceeded: the black box has a budget of 60 queries")
    assert spent.queries <= 60


def test_require_gradients_raises() -> None:
    require_gradients(torch.nn.Linear(2, 2))
    with pytest.raises(InputError, match="the black box has outputs only, without a gradient"):
        require_gradients(BlackBox(lambda x: x, 2))


def test_outputs_that_change_during_the_attack_are_a_failed_row() -> None:
    """A service that is replaced after three batches: the success of the attack would be that of the other model."""
    x, y = SIX.repeat(2, 1, 1, 1), torch.tensor([0, 0, 0, 1, 1, 1] * 2)

    calls: list[int] = []

    def replaced(x: Tensor) -> np.ndarray:
        calls.append(len(x))
        return brightness(x) if len(calls) <= 3 else brightness(x)[:, ::-1].copy()

    for max_queries, predict in ((None, brightness), (10**6, brightness), (None, replaced)):
        calls.clear()
        box = BlackBox(predict, 2, max_queries=max_queries)
        row = evaluate(lambda x, y: x.clone(), box, x, y, Threat("linf", 0.1), access="nothing").row
        if predict is brightness:
            assert (row["status"], row["asr"]) == ("ok", 0.0)
        else:
            assert "changed during the attack" in row["status"]
            assert (row["asr"], len(row["violations"])) == (None, 1)


def test_images_of_another_shape_are_refused_before_a_query() -> None:
    box = BlackBox(brightness, 2, image_shape=(3, 4, 4))
    with pytest.raises(InputError, match=r"takes images of shape \(3, 4, 4\), got \(1, 4, 4\)"):
        box(SIX)
    assert box.queries == 0


@pytest.mark.parametrize("scale", [1.0, 0.02])
def test_outputs_that_depend_on_the_batch_are_refused_however_near_to_uniform(scale: float) -> None:
    def centred(x: Tensor) -> Tensor:
        p = torch.from_numpy(brightness(x)) - 0.5
        return 0.5 + scale * (p - p.mean(0))

    with pytest.raises(InputError, match="depends on the batch"):
        check_target(BlackBox(centred, 2), SIX)
    check_target(BlackBox(lambda x: 0.5 + scale * (torch.from_numpy(brightness(x)) - 0.5), 2), SIX)
