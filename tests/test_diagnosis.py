"""Each way to collapse is noticed, and a healthy run is left in peace."""

from __future__ import annotations

import pytest
import torch

from advgan.diagnosis import symptoms

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
