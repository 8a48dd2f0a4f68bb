"""Every shipped recipe is valid for its program."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import yaml

from advgan.core.config import load_recipe
from tests.conftest import ROOT

PROGRAMS = {
    "demo-classifier": "advgan.training.classifier",
    "demo-compare": "eval.compare",
    "classics": "eval.compare",
    "tutorial": "advgan.experiments.sweep.run",
    "mnist-transfer": "advgan.experiments.transfer.run",
    "amortisation-mnist": "advgan.experiments.amortisation.run",
    "defenses": "advgan.experiments.defenses.run",
    "defenses-small": "advgan.experiments.defenses.run",
    "detection-mnist": "advgan.experiments.detection.run",
    "mnist-black-box": "advgan.training.substitute",
    "cifar-black-box": "advgan.training.substitute",
    "distill-mnist": "advgan.training.distillation",
    "distill-mnist5k": "advgan.training.distillation",
    "distillation": "advgan.experiments.distillation.run",
    "distillation-small": "advgan.experiments.distillation.run",
    "cifar-quick": "advgan.training.classifier",
    "head-resnet20": "advgan.training.classifier",
    "head-resnet32": "advgan.training.classifier",
    **{
        f"robust-{name}": "advgan.training.classifier"
        for name in ("fgsm", "fast", "pgd", "ensemble", "generator", "mnist5k")
    },
}  # all others: train.advgan


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_recipe_is_valid(path: Path) -> None:
    program = importlib.import_module(PROGRAMS.get(path.stem, "train.advgan"))
    settings, recipe = load_recipe(program.Settings, path), yaml.safe_load(path.read_text())
    assert settings.dataset == recipe["dataset"]
    assert words(settings.target) == [word.replace("../", "") for word in words(recipe["target"])]
    for path_setting in ("target_weights", "output_dir", "train_recipe", "data_dir"):
        value = getattr(settings, path_setting, None)
        for item in value if isinstance(value, tuple) else [value]:
            parts = () if item is None else item.parts if not item.is_absolute() else item.relative_to(ROOT).parts
            assert parts[:1] in ((), ("checkpoints",), ("recipes",), ("data",)), "a place in the clone"


def words(value: str | list[str] | tuple[str, ...]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)
