"""Every recipe that is shipped is one its program understands."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import yaml

from advgan.settings import load_recipe

from .conftest import ROOT

PROGRAMS = {
    "demo-classifier": "train.classifier",
    "demo-compare": "eval.compare",
    "classics": "eval.compare",
    "tutorial": "eval.sweep",
    "mnist-transfer": "eval.transfer",
    "amortisation-mnist": "eval.amortisation",
    "defenses": "eval.defenses",
    "defenses-small": "eval.defenses",
    "detection-mnist": "eval.detection",
    "mnist-black-box": "train.substitute",
    "cifar-black-box": "train.substitute",
    "distill-mnist": "train.distill",
    "distill-mnist5k": "train.distill",
    "distillation": "eval.distillation",
    "distillation-small": "eval.distillation",
    "cifar-quick": "train.classifier",
    "head-resnet20": "train.classifier",
    "head-resnet32": "train.classifier",
    **{f"robust-{name}": "train.classifier" for name in ("fgsm", "fast", "pgd", "ensemble", "generator", "mnist5k")},
}  # all others: train.advgan


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_is_understood(path: Path) -> None:
    program = importlib.import_module(PROGRAMS.get(path.stem, "train.advgan"))
    settings, recipe = load_recipe(program.Settings, path), yaml.safe_load(path.read_text())
    assert settings.dataset == recipe["dataset"]
    root = Path(__file__).resolve().parents[1]
    assert words(settings.target) == [word.replace("../", "") for word in words(recipe["target"])]
    for path_setting in ("target_weights", "output_dir", "train_recipe", "data_dir"):
        value = getattr(settings, path_setting, None)
        for item in value if isinstance(value, tuple) else [value]:
            parts = () if item is None else item.parts if not item.is_absolute() else item.relative_to(root).parts
            assert parts[:1] in ((), ("checkpoints",), ("recipes",), ("data",)), "a place in the clone"


def words(value: str | list[str] | tuple[str, ...]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)
