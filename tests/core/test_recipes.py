"""Shipped recipes: each is valid for its program, and found by its name."""

import dataclasses
import importlib
from pathlib import Path

import pytest
import yaml

from advgan.core.config import load_recipe, parse
from advgan.core.errors import InputError
from advgan.core.recipe import NameOrPath
from tests.conftest import ROOT

PROGRAMS = {
    "demo-classifier": "advgan.training.classifier",
    "demo-compare": "advgan.experiments.comparison.run",
    "classics": "advgan.experiments.comparison.run",
    "tutorial": "advgan.experiments.sweep.run",
    "mnist-transfer": "advgan.experiments.transfer.run",
    "imagenet-transfer": "advgan.experiments.transfer.run",
    "frontier-mnist": "advgan.experiments.frontier.run",
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
}  # all others: train/advgan.py


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_recipe_is_valid(path: Path) -> None:
    program = importlib.import_module(PROGRAMS.get(path.stem, "advgan.training.program"))
    settings, recipe = load_recipe(program.Settings, path), yaml.safe_load(path.read_text())
    assert settings.dataset == recipe["dataset"]
    assert as_list(settings.target) == [name.replace("../", "") for name in as_list(recipe["target"])]
    for path_setting in ("target_weights", "output_dir", "train_recipe", "data_dir"):
        value = getattr(settings, path_setting, None)
        for item in value if isinstance(value, tuple) else [value]:
            parts = () if item is None else item.parts if not item.is_absolute() else item.relative_to(ROOT).parts
            assert parts[:1] in ((), ("checkpoints",), ("recipes",), ("data",)), "a place in the clone"


def as_list(value: str | list[str] | tuple[str, ...]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of a program with paths of both kinds."""

    recipe: Path | None = None
    target: NameOrPath = "mnist-c"
    generator_recipe: Path | None = None
    output_dir: Path = Path("out")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of shipped files of an installed package, with one recipe; the working directory is another."""
    folder = tmp_path / "site-packages/advgan/shipped"
    (folder / "recipes").mkdir(parents=True)
    (folder / "checkpoints/net").mkdir(parents=True)
    (folder / "recipes/small.yaml").write_text(
        "target: ../checkpoints/net\ngenerator-recipe: small.yaml\noutput-dir: ../checkpoints/runs/small\n"
    )
    monkeypatch.setattr("advgan.core.shipped.INSTALLED", folder)
    monkeypatch.setattr("advgan.core.recipe.INSTALLED", folder)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return folder


@pytest.mark.parametrize("name", ["small", "small.yaml", "recipes/small.yaml"])
def test_recipe_name_finds_shipped_recipe(name: str, installed: Path) -> None:
    settings = parse(Settings, ["--recipe", name])
    assert settings.target == str(installed / "checkpoints/net")
    assert settings.generator_recipe == installed / "recipes/small.yaml"
    assert settings.output_dir == Path("checkpoints/runs/small"), "results belong into the working directory"


def test_recipe_path_wins_over_shipped_name(installed: Path) -> None:
    Path("small").mkdir()
    assert parse(Settings, ["--recipe", "small"]).output_dir.name == "small", "a folder is no recipe"
    Path("small.yaml").write_text("output-dir: here\n")
    assert parse(Settings, ["--recipe", "small.yaml"]).output_dir == Path("here")


def test_unknown_recipe_lists_shipped_recipes(installed: Path) -> None:
    with pytest.raises(InputError, match=r"recipe smal: no such file or shipped recipe; did you mean small\?.* small$"):
        parse(Settings, ["--recipe", "smal"])
    with pytest.raises(InputError, match=r"cannot read recipe runs/small\.yaml"):
        parse(Settings, ["--recipe", "runs/small.yaml"])
