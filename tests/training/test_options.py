"""Settings of a training: its length, and the default learning rates."""

from typing import Any

import pytest

from advgan.core.errors import InputError, note
from advgan.training.defaults import PHOTOS, SMALL, size_defaults
from advgan.training.options import FLAGS, OptimizationConfig, TrainingConfig


@pytest.mark.parametrize(
    ("settings", "steps_per_epoch", "expected"),
    [
        ({}, 30, 600),  # 20 passes
        ({}, 390, SMALL.max_steps),
        ({"epochs": 3}, 390, 1170),
        ({"epochs": 3, "max_steps": 50}, 390, 50),
        ({"max_steps": 5000}, 30, 5000),
    ],
)
def test_length_of_a_training(settings: dict[str, int], steps_per_epoch: int, expected: int) -> None:
    assert OptimizationConfig(**settings).total_steps(lambda: steps_per_epoch, SMALL) == expected
    unrolled = size_defaults((3, 32, 32), "unrolled")
    steps = OptimizationConfig(**settings).total_steps(lambda: steps_per_epoch, unrolled)
    assert steps == (expected if settings else min(expected, 200))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({}, 1e-2), ({"architecture": "unet"}, 4e-3), ({"architecture": "unet", "learning_rate": 5e-4}, 5e-4)],
)
def test_learning_rate_depends_on_architecture(settings: dict[str, float | str], expected: float) -> None:
    assert TrainingConfig().replace(settings).learning_rate == expected


def test_defaults_depend_on_the_size_of_the_images() -> None:
    config = TrainingConfig()
    small, photos = config.resolved((1, 28, 28)).generator, config.resolved((3, 224, 224)).generator
    assert (small.architecture, small.width, small.levels) == (SMALL.architecture, SMALL.width, SMALL.levels)
    assert (photos.architecture, photos.width, photos.levels) == (PHOTOS.architecture, PHOTOS.width, PHOTOS.levels)
    assert size_defaults((3, 95, 224)) is SMALL
    assert size_defaults((3, 96, 96)) is PHOTOS


@pytest.mark.parametrize(
    ("settings", "problem", "expected"),
    [
        ({}, {"classes": 1000}, ("relativistic", 2.0)),
        ({}, {"classes": 2}, ("margin", 1.0)),
        ({}, {"classes": 1000, "targeted": True}, ("margin", 1.0)),
        ({"any_class": True}, {"classes": 1000}, ("margin", 1.0)),
        ({}, {"classes": 1000, "one_eps": False}, ("relativistic", 1.0)),
        ({"eps_min": 0.01}, {"classes": 1000}, ("relativistic", 1.0)),
        ({"architecture": "unrolled"}, {"classes": 1000}, ("relativistic", 1.0)),
        ({"adversarial": "margin", "kappa": 10.0}, {"classes": 1000}, ("margin", 2.0)),
        ({"curriculum": 1.0}, {"classes": 1000}, ("relativistic", 1.0)),
    ],
)
def test_objective_of_photos_of_many_classes(
    settings: dict[str, Any], problem: dict[str, Any], expected: tuple[str, float]
) -> None:
    """docs/results-log.md, "Photos of 224 pixels": the margin loss learns one universal perturbation there."""
    config = TrainingConfig().replace(settings).resolved((3, 224, 224), **problem)
    assert (config.loss.adversarial, config.optimization.curriculum) == expected
    small = TrainingConfig().resolved((3, 32, 32), **problem)
    assert (small.loss.adversarial, small.optimization.curriculum) == ("margin", 1.0)


def test_kappa_without_the_margin_loss_is_an_error() -> None:
    config = TrainingConfig().replace({"kappa": 10.0})
    config.check()
    assert config.resolved((1, 28, 28)).loss.kappa == 10.0
    for adversarial, classes in (("cross-entropy", 10), (None, 1000)):
        with pytest.raises(InputError, match="kappa does nothing without adversarial margin, got 10"):
            config.replace({"adversarial": adversarial}).resolved((3, 224, 224), classes=classes)


def test_chosen_settings_are_not_replaced_by_defaults() -> None:
    chosen = {"architecture": "unet", "width": 8, "levels": 1}
    config = TrainingConfig().replace(chosen)
    for shape in ((1, 28, 28), (3, 224, 224)):
        resolved = config.resolved(shape).to_dict()
        assert {name: resolved[name] for name in chosen} == chosen
    assert config.resolved((3, 224, 224), "unrolled").generator.architecture == "unrolled"  # the caller's own


def test_levels_without_effect_are_an_error_once_the_architecture_is_known() -> None:
    config = TrainingConfig().replace({"levels": 3})
    config.check()
    assert config.resolved((3, 224, 224)).generator.levels == 3
    with pytest.raises(InputError, match="levels does nothing without architecture unet, got 3"):
        config.resolved((1, 28, 28))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"alpha": 0.0, "gan": "hinge"}, "gan does nothing without alpha above 0, got hinge"),
        ({"alpha": 0.0, "discriminator_learning_rate": 0.1}, "discriminator_learning_rate does nothing without alpha"),
        ({"beta": 0.0, "hinge_threshold": 2.0}, "hinge_c does nothing without beta above 0, got 2.0"),
        ({"architecture": "resnet", "patch": 2}, "patch does nothing without architecture patch or unet, got 2"),
        ({"architecture": "paper", "width": 8}, "width does nothing without another architecture than paper, got 8"),
        ({"architecture": "paper", "depth": 3}, "depth does nothing without another architecture than paper, got 3"),
        ({"alpha": 0.0, "beta": 0.0, "architecture": "paper"}, ""),
        ({"gan": "hinge", "hinge_threshold": 2.0, "patch": 2, "width": 8, "depth": 3}, ""),
    ],
)
def test_settings_without_effect_are_noted(
    settings: dict[str, Any], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    note.cache_clear()
    TrainingConfig().replace(settings).note_unused(FLAGS)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == bool(expected)
    assert all(line.startswith(f"note: {expected}") for line in lines)
