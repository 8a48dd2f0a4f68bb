"""Each way to collapse is noticed, and a healthy run is left in peace."""

from __future__ import annotations

import pytest
import torch

from advgan.diagnosis import sinks, symptoms

X = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.2 + 0.4
NOISE = 0.3 * torch.rand(X.shape, generator=torch.Generator().manual_seed(1)).sub(0.5).sign()
MIXED = torch.arange(64) % 10


@pytest.mark.parametrize(
    ("delta", "predictions", "kept", "caught", "message"),
    [
        (NOISE, MIXED, 0.8, 0.7, None),
        (NOISE, MIXED, 1.0, 1.0, "discriminator has won"),
        (NOISE, MIXED, 1.0, 0.0, "discriminator has given up"),
        (NOISE, MIXED * 0 + 3, 0.8, 0.7, "100% of the perturbed images are predicted as class 3"),
        (NOISE * 0 + 0.3, MIXED, 0.8, 0.7, r"saturated at +eps"),
        (NOISE * 0 - 0.3, MIXED, 0.8, 0.7, r"saturated at -eps"),
        (NOISE[:1].expand_as(NOISE), MIXED, 0.8, 0.7, "all images get the same perturbation"),
        (NOISE * 0, MIXED, 0.8, 0.7, "perturbation is zero"),
    ],
)
def test_symptoms(delta, predictions, kept, caught, message):
    found = symptoms(delta, X, 0.3, predictions, kept, caught, targeted=False)
    assert found == [] if message is None else any(message in line for line in found)


def test_a_targeted_attack_wants_one_class():
    assert symptoms(NOISE, X, 0.3, MIXED * 0, 0.8, 0.7, targeted=True) == []


def test_a_class_that_swallows_everything_but_keeps_its_own_is_named():
    attacked = torch.full((4,), 100.0)
    found = sinks(attacked, torch.tensor([95.0, 95.0, 10.0, 95.0]), torch.tensor([20.0, 30.0, 320.0, 30.0]))
    assert len(found) == 1
    assert "into class 2" in found[0]
    assert "10% of them fooled, 74% of all" in found[0]
    assert sinks(attacked, torch.full((4,), 95.0), attacked) == []  # success everywhere
    assert sinks(attacked, torch.tensor([95.0, 95.0, 10.0, 95.0]), attacked) == []  # hard, but no sink
