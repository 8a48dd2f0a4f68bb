"""Settings of a training: its length, and the default learning rates."""

from __future__ import annotations

import pytest

from advgan.training.options import MAX_STEPS, OptimizationConfig, TrainingConfig


@pytest.mark.parametrize(
    ("settings", "steps_per_epoch", "expected"),
    [
        ({}, 30, 600),  # 20 passes
        ({}, 390, MAX_STEPS),
        ({"epochs": 3}, 390, 1170),
        ({"epochs": 3, "max_steps": 50}, 390, 50),
        ({"max_steps": 5000}, 30, 5000),
    ],
)
def test_length_of_a_training(settings: dict[str, int], steps_per_epoch: int, expected: int) -> None:
    assert OptimizationConfig(**settings).total_steps(lambda: steps_per_epoch, "patch") == expected
    unrolled = OptimizationConfig(**settings).total_steps(lambda: steps_per_epoch, "unrolled")
    assert unrolled == (expected if settings else min(expected, 200))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({}, 1e-2), ({"architecture": "unet"}, 4e-3), ({"architecture": "unet", "learning_rate": 5e-4}, 5e-4)],
)
def test_learning_rate_depends_on_architecture(settings: dict[str, float | str], expected: float) -> None:
    assert TrainingConfig().replace(settings).learning_rate == expected
