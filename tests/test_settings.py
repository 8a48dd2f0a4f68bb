"""Flags over recipe over defaults; fractions; one line and exit code 2 for what cannot be used."""

from __future__ import annotations

import dataclasses
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import get_args, get_origin, get_type_hints

import pytest
import tyro
import yaml

from advgan.errors import InputError
from advgan.settings import Real, load_recipe, parse, parse_fraction, run, settings_file, write_settings

from .conftest import ROOT


@dataclass(frozen=True)
class Settings:
    """A small program's."""

    recipe: Path | None = None
    """YAML file"""
    eps: Real = 0.3
    """Radius"""
    y_target: int | None = None
    """A class"""
    attacks: tuple[str, ...] = ("fgsm",)
    """Names"""
    resume: bool = False
    """Go on"""


def test_fractions():
    assert parse_fraction("8/255") == 8 / 255
    assert parse_fraction("0.3") == 0.3
    for bad in ("x", "1/0", "1/2/3", "__import__('os')", ""):
        with pytest.raises(InputError, match="expected a number like"):
            parse_fraction(bad)


def test_flags_override_the_recipe_which_overrides_the_defaults(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("eps: 16/255\ny-target: 3\nattacks: [ifgsm, deepfool]\nresume: true\n")
    found = parse(Settings, ["--recipe", str(recipe), "--eps", "8/255"])
    assert found == Settings(recipe, 8 / 255, 3, ("ifgsm", "deepfool"), True)
    assert parse(Settings, [f"--recipe={recipe}", "--y-target", "None", "--no-resume"]).y_target is None
    assert parse(Settings, []) == Settings()


@pytest.mark.parametrize(
    ("text", "message"),
    [("epsilon: 1", "sets 'epsilon', expected some of"), ("- 1", "must be a mapping"), ("a: [", "is not YAML"),
     (None, "cannot read recipe")],
)  # fmt: skip
def test_bad_recipes(tmp_path, text, message):
    recipe = tmp_path / "recipe.yaml"
    if text is not None:
        recipe.write_text(text)
    with pytest.raises(InputError, match=message):
        parse(Settings, ["--recipe", str(recipe)])


def test_a_recipe_of_the_wrong_type_is_refused_like_a_flag(tmp_path, capsys):
    (tmp_path / "r.yaml").write_text("eps: big")
    for words in (["--recipe", str(tmp_path / "r.yaml")], ["--eps", "big"]):
        with pytest.raises(SystemExit) as exit_:
            parse(Settings, words)
        assert exit_.value.code == 2
        assert "expected a number like 0.3" in " ".join(capsys.readouterr().err.replace("│", "").split())


def test_bad_input_is_one_line_and_exit_code_2(capsys):
    def main(settings: Settings) -> None:
        raise InputError(f"eps must be\n smaller, got {settings.eps}")

    with pytest.raises(SystemExit) as exit_:
        run(main, Settings, ["--eps", "1/4"])
    assert exit_.value.code == 2
    assert capsys.readouterr().err == "error: eps must be smaller, got 0.25\n"


def test_every_flag_is_documented(capsys):
    with pytest.raises(SystemExit):
        parse(Settings, ["--help"])
    text = capsys.readouterr().out
    for word in ("--eps FLOAT|A/B", "Radius", "--y-target", "A class", "--attacks", "Names", "--resume", "Go on"):
        assert word in text


PROGRAMS = [
    *("advgan.commands." + path.stem for path in (ROOT / "advgan" / "commands").glob("[!_]*.py")),
    *(f"{folder}.{path.stem}" for folder in ("train", "eval") for path in (ROOT / folder).glob("*.py")),
]


@pytest.mark.parametrize("name", sorted(PROGRAMS))
def test_what_a_program_writes_it_reads_again(name, tmp_path):
    module = importlib.import_module(name)
    settings_class = getattr(module, "Settings", None)
    if settings_class is None or "recipe" not in settings_class.__dataclass_fields__:
        return  # no program, or nothing to set
    required = {f.name: "some where" for f in dataclasses.fields(settings_class) if f.default is dataclasses.MISSING}
    given = load_recipe(settings_class, recipe(tmp_path, required))
    for settings in (given, changed(given)):
        write_settings(settings, tmp_path)
        assert load_recipe(settings_class, settings_file(settings, tmp_path)) == settings
        path = settings_file(settings, tmp_path)
        assert parse(settings_class, ["--recipe", str(path)]) == dataclasses.replace(settings, recipe=path)


def recipe(directory, values):
    path = directory / "values.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def changed(settings):
    """The same with other values in each field whose type says what they may be."""
    found = {}
    for name, hint in get_type_hints(type(settings)).items():
        if name == "recipe":
            continue
        kinds = {hint, *get_args(hint)}
        if bool in kinds:
            found[name] = not getattr(settings, name)
        elif float in kinds:
            found[name] = (1 / 3,) if get_origin(hint) is tuple else 1 / 3
        elif int in kinds:
            found[name] = (7, 8) if get_origin(hint) is tuple else 7
        elif Path in kinds or str in kinds:
            value = (Path if Path in kinds else str)("some/where: 'else' #1")
            found[name] = (value, value) if get_origin(hint) is tuple else value
    return dataclasses.replace(settings, **found)


def test_the_recipe_of_what_has_no_default(tmp_path):
    @dataclass(frozen=True)
    class Placed:
        source: tyro.conf.Positional[str]
        """IN"""
        output_dir: tyro.conf.Positional[Path]
        """OUT"""
        generator: str
        """Who"""
        recipe: Path | None = None
        """YAML file"""

    some = recipe(tmp_path, {"output-dir": "out", "generator": "g"})
    assert parse(Placed, ["in", "--recipe", str(some)]) == Placed("in", Path("out"), "g", some)
    assert parse(Placed, ["in", "o", "--generator", "h", "--recipe", str(some)]) == Placed("in", Path("o"), "h", some)
    with pytest.raises(SystemExit):
        parse(Placed, ["--recipe", str(some)])
