"""Each published objective against values computed by hand."""

import math

import pytest
import torch
import torch.nn.functional as F

from advgan import InputError
from advgan.models import objectives
from advgan.models.objectives import ClassDistributions

Z_ADV = torch.tensor([[3.0, 1.0, 0.0], [0.0, 2.0, 5.0]])
Z = torch.tensor([[5.0, 1.0, 1.0], [-1.0, 4.0, 4.0]])
Y = torch.tensor([0, 1])


def cross_entropy(row: list[float], label: int) -> float:
    return math.log(sum(math.exp(v) for v in row)) - row[label]


def test_relativistic_is_the_cross_entropy_of_the_change_of_the_logits() -> None:
    found = objectives.relativistic_loss(Z_ADV, Z, Y).tolist()
    assert found == pytest.approx([-cross_entropy([-2, 0, -1], 0), -cross_entropy([1, -2, 1], 1)])
    mixed = objectives.relativistic_loss(Z_ADV, Z, Y, torch.tensor([-1, 0])).tolist()
    assert mixed == pytest.approx([-cross_entropy([-2, 0, -1], 0), cross_entropy([0, 2, 5], 0)])


def test_relativistic_does_not_change_with_a_shift_of_both_logits() -> None:
    """The loss depends on the change alone: what separates it from cross-entropy."""
    shift = torch.tensor([[7.0, -3.0, 0.0]])
    torch.testing.assert_close(
        objectives.relativistic_loss(Z_ADV + shift, Z + shift, Y), objectives.relativistic_loss(Z_ADV, Z, Y)
    )


def test_features_are_a_mean_squared_distance() -> None:
    features, clean = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), torch.tensor([[[1.0, 0.0], [0.0, 4.0]]])
    assert objectives.feature_loss(features, clean).item() == pytest.approx(-(4 + 9) / 4)


def test_cosine_of_features_does_not_depend_on_their_scale() -> None:
    features, clean = torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[4.0, 3.0], [0.0, 2.0]])
    assert objectives.cosine_feature_loss(features, clean).tolist() == pytest.approx([24 / 25, 0])
    assert objectives.cosine_feature_loss(10 * features, clean).tolist() == pytest.approx([24 / 25, 0])


def test_match_is_the_mean_over_the_images_of_the_class() -> None:
    torch.manual_seed(0)
    logits, y = torch.randn(7, 3), torch.tensor([0, 1, 1, 2, 1, 0, 2])
    distributions = ClassDistributions.of([(logits[:4], y[:4]), (logits[4:], y[4:])], range(3))
    y_target = torch.tensor([1, 2])
    found = objectives.match_loss(Z_ADV, y_target, distributions)

    def divergence(p_logits: torch.Tensor, q_logits: torch.Tensor) -> torch.Tensor:
        return F.kl_div(q_logits.log_softmax(0), p_logits.softmax(0), reduction="sum")

    for q, target, value in zip(Z_ADV, y_target, found, strict=True):
        pairs = [divergence(p, q) + divergence(q, p) for p in logits[y == target]]
        torch.testing.assert_close(value, torch.stack(pairs).mean())


def test_match_is_zero_at_the_distribution_of_a_class_with_one_image() -> None:
    distributions = ClassDistributions.of([(Z_ADV, torch.tensor([2, 0]))], [0, 2])
    found = objectives.match_loss(Z_ADV + 4, torch.tensor([2, 0]), distributions)
    torch.testing.assert_close(found, torch.zeros(2), atol=1e-5, rtol=0)


def test_match_needs_an_image_of_each_target_class() -> None:
    with pytest.raises(InputError, match=r"needs a training image of each target class, got none of 1, 2$"):
        ClassDistributions.of([(Z, torch.tensor([0, 0]))], range(3))
    with pytest.raises(InputError, match="got none of 5"):
        ClassDistributions.of([], [5])


def test_a_class_without_an_image_has_the_distribution_of_a_confident_classifier() -> None:
    distributions = ClassDistributions.of([(Z_ADV, torch.tensor([2, 0]))], [])
    q = torch.tensor([[0.05, 0.9, 0.05]]).log()
    torch.testing.assert_close(
        objectives.match_loss(q, torch.tensor([1]), distributions), torch.zeros(1), atol=1e-6, rtol=0
    )


def test_random_normalization_is_what_a_classifier_of_minus_one_to_one_has_to_see() -> None:
    x = torch.rand(2, 3, 4, 4)
    seen = objectives.random_normalize(x, 0.4, 0.8)
    torch.testing.assert_close((seen - 0.5) / 0.5, (x - 0.4) / 0.8)
    assert torch.allclose(objectives.random_normalize(x, 0.5, 0.5), x)
