"""Settings: flags override recipes, recipes override defaults; fractions, paths, one-line errors with exit code 2."""

import dataclasses
import importlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import get_args, get_origin, get_type_hints

import pytest
import tyro
import yaml

from advgan.cli.main import COMMANDS
from advgan.core.config import Real, load_recipe, parse, run, settings_file, write_settings
from advgan.core.errors import InputError
from advgan.core.fraction import parse_fraction
from advgan.core.program import program_module
from advgan.core.recipe import NameOrPath, PathOrAddress
from advgan.experiments.comparison import run as compare
from tests.conftest import ROOT


@dataclass(frozen=True)
class Settings:
    """Settings of a small program."""

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


def test_parse_fraction():
    assert parse_fraction("8/255") == 8 / 255
    assert parse_fraction("0.3") == 0.3
    for bad in ("x", "1/0", "1/2/3", "__import__('os')", ""):
        with pytest.raises(InputError, match="expected a number like"):
            parse_fraction(bad)


def test_flags_override_recipe_and_defaults(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("eps: 16/255\ny-target: 3\nattacks: [ifgsm, deepfool]\nresume: true\n")
    settings = parse(Settings, ["--recipe", str(recipe), "--eps", "8/255"])
    assert settings == Settings(recipe, 8 / 255, 3, ("ifgsm", "deepfool"), True)
    assert parse(Settings, [f"--recipe={recipe}", "--y-target", "None", "--no-resume"]).y_target is None
    assert parse(Settings, []) == Settings()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("xyzzy: 1", "sets 'xyzzy', expected one of"),
        ("epsilon: 1", "sets 'epsilon'; did you mean eps"),
        ("- 1", "must be a mapping"),
        ("", "must be a mapping"),
        ("a: [", "is not YAML"),
        ("eps:\t0.1\n\teps: 2", "is not YAML"),
        (None, "cannot read recipe"),
        ("eps: 2020-13-45", "expected a number like 0.3"),
        ("y-target: 0b_", "y-target"),
        ("y-target: " + "9" * 5000, "y-target"),
        ("y-target: 1:30", "y-target"),  # 90 in YAML 1.1
        ("attacks: " + "[" * 20000, "nests too deep"),
        ("{" * 20000, "nests too deep"),
        ("a: &x [l]\nattacks: [*x, *x]", "no anchors and aliases"),
        ("eps: !!python/object/apply:os.getcwd []", "no tags"),
        ("eps: 0.1\neps: 0.2", "'eps' twice"),
        ("y-target: 1\ny_target: 2", "twice"),
        ("eps: 1\n--- \neps: 2", "several documents"),
        ("eps: {a: 1}", "nested values"),
        ("resume: 7", "must be true or false"),
        ("attacks: [fgsm, --eps, '1']", "sets 'attacks' to '--eps', expected a value, got a flag"),
        ("attacks: -h", "expected a value, got a flag"),
        ("eps:", "sets 'eps' to nothing"),
        ("attacks: [fgsm, ~]", "sets 'attacks' to nothing"),
        (b"eps: 0.1 # \xff", "cannot read recipe"),
        ("eps: 0.1".encode("utf-16"), "cannot read recipe"),
        (b"\0" * 10, "is not YAML"),
        ("# " + "x" * 1_000_001, "at most 1,000,000 bytes"),
    ],
)
def test_invalid_recipe_raises(tmp_path, text, message):
    recipe = tmp_path / "recipe.yaml"
    if text is not None:
        recipe.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(InputError, match=message) as error:
        parse(Settings, ["--recipe", str(recipe)])
    assert len(str(error.value)) < 600


@pytest.mark.parametrize("path", [".", "/dev/zero", "pipe"])
def test_recipe_must_be_a_regular_file(tmp_path, path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="a regular file expected"):
        parse(Settings, ["--recipe", str(tmp_path / path)])


def test_recipe_with_byte_order_mark_and_plain_values(tmp_path):
    (tmp_path / "r.yaml").write_bytes(b"\xef\xbb\xbfeps: 1e-1\nattacks: ['null', \"on\"]\ny-target: ~\nresume: yes\n")
    path = tmp_path / "r.yaml"
    assert parse(Settings, ["--recipe", str(path)]) == Settings(path, 0.1, None, ("null", "on"), True)


@dataclass(frozen=True)
class Paths:
    """Settings with paths."""

    recipe: Path | None = None
    """YAML file"""
    target: tuple[NameOrPath, ...] = ()
    """Names or paths"""
    generator: PathOrAddress = "generator"
    """A folder"""
    prepare: tuple[NameOrPath, ...] = ()
    """Commands"""
    data_dir: Path = Path("data")
    """A folder"""
    weights: tuple[Path, ...] = ()
    """Files"""


PATHS = {
    "target": [
        *("mnist-c", "a/net.py:build", "net.onnx", "hf:user/model", "https://host/a/b", "8/255"),
        "vote:members=x/y,../z",
    ],
    "generator": "generators",
    "prepare": ["train/classifier.py --eps 8/255 --recipe sub/r.yaml --output-dir=../runs/x"],
    "weights": ["w.pt", "/absolute/w.pt"],
}  # fmt: skip


def test_recipe_paths_are_relative_to_the_recipe(tmp_path, monkeypatch):
    folder = tmp_path / "work" / "recipes"
    folder.mkdir(parents=True)
    (folder / "r.yaml").write_text(yaml.safe_dump(PATHS))
    monkeypatch.chdir(tmp_path / "work")
    settings = parse(Paths, ["--recipe", "recipes/r.yaml"])
    assert settings.target == (
        *("mnist-c", "recipes/a/net.py:build", "recipes/net.onnx", "hf:user/model", "https://host/a/b", "8/255"),
        "vote:members=recipes/x/y,z",
    )
    assert settings.generator == "recipes/generators"
    assert settings.prepare == ("train/classifier.py --eps 8/255 --recipe recipes/sub/r.yaml --output-dir=runs/x",)
    assert settings.weights == (Path("recipes/w.pt"), Path("/absolute/w.pt"))
    assert settings.data_dir == Path("data"), "a default is relative to the working directory"
    monkeypatch.chdir(folder)
    assert parse(Paths, ["--recipe", "r.yaml", "--data-dir", "d"]).weights[0] == Path("w.pt")
    monkeypatch.chdir("/")
    assert parse(Paths, ["--recipe", str(folder / "r.yaml")]).generator == str(folder / "generators").lstrip("/")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert parse(Paths, ["--recipe", str(folder / "r.yaml")]).generator == str(folder / "generators")


def test_home_directory_is_expanded_where_the_shell_leaves_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "r.yaml").write_text("generator: ~/run\nweights: [~/a.pt, ~nobody-here/b.pt]\n")
    settings = parse(Paths, ["--recipe=~/r.yaml", "--data-dir=~/data", "--target", "~/net.py:build"])
    assert (settings.data_dir, settings.target) == (tmp_path / "data", (f"{tmp_path}/net.py:build",))
    assert settings.generator == f"{tmp_path}/run"
    assert settings.weights == (tmp_path / "a.pt", tmp_path / "~nobody-here/b.pt")
    assert parse(Settings, ["--attacks", "~/x"]).attacks == ("~/x",), "no path"


def test_written_settings_name_the_same_files_from_anywhere(tmp_path, monkeypatch):
    (tmp_path / "work" / "out").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "work" / "out")
    monkeypatch.chdir(tmp_path / "work")
    settings = Paths(
        None, ("mnist-c", "runs/net.py:f"), "hf://user/model", ("train/a.py --x ./y",), weights=(Path("w.pt"),)
    )
    write_settings(settings, Path("out"))
    path = settings_file(settings, Path("out"))
    assert load_recipe(Paths, path) == dataclasses.replace(settings, prepare=("train/a.py --x y",))
    monkeypatch.chdir(tmp_path)
    for recipe in (tmp_path / "work" / path, tmp_path / "link" / path.name):
        loaded = load_recipe(Paths, recipe)
        assert loaded.weights == (Path("work/w.pt"),)
        assert loaded.target == ("mnist-c", "work/runs/net.py:f")
        assert (loaded.generator, loaded.data_dir) == ("hf://user/model", Path("work/data"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--resme"], "unknown flag --resme; did you mean --resume?"),
        (["--epsilon", "1"], "unknown flag --epsilon; did you mean --eps?"),
        (["--target=1"], "unknown flag --target; did you mean --y-target?"),
        (["--yt", "1"], "unknown flag --yt; did you mean --y-target?"),
        (["--recipe="], "empty text after --recipe=, expected a value"),
        (["--recipe", ""], "empty text after --recipe, expected a value"),
        (["--zzz"], "unknown flag --zzz, --help lists the flags"),
        (["--y-target", "one"], "Error parsing --y-target: expected a whole number, got 'one'"),
        (
            ["--eps", "0,3"],
            "Error parsing --eps: expected a number like 0.3 or a fraction like 8/255, got '0,3'",
        ),
        (["--y-target", "9" * 22], "y_target must be from -9007199254740992 to 9007199254740992, got 9999"),
        (["one"], "Unrecognized options: one"),
        (["--eps"], "--eps"),
    ],
)
def test_invalid_flag_suggests_nearest(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        run(lambda settings: None, Settings, arguments)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert error.startswith("error: ")


def test_wrong_type_in_recipe_raises_like_in_flag(tmp_path):
    (tmp_path / "r.yaml").write_text("eps: big")
    for arguments in (["--recipe", str(tmp_path / "r.yaml")], ["--eps", "big"]):
        with pytest.raises(InputError, match=r"expected a number like 0\.3"):
            parse(Settings, arguments)


def test_input_error_is_one_line_and_exit_code_2(capsys):
    def main(settings: Settings) -> None:
        raise InputError(f"eps must be\n smaller, got {settings.eps}")

    with pytest.raises(SystemExit) as exit_:
        run(main, Settings, ["--eps", "1/4"])
    assert exit_.value.code == 2
    assert capsys.readouterr().err == "error: eps must be smaller, got 0.25\n"


def test_help_documents_every_flag(capsys):
    with pytest.raises(SystemExit):
        parse(Settings, ["--help"])
    text = capsys.readouterr().out
    for word in ("--eps FLOAT|A/B", "Radius", "--y-target", "A class", "--attacks", "Names", "--resume", "Go on"):
        assert word in text


@dataclass(frozen=True)
class LongHelp:
    eps: float = 0.3
    """A text that goes on
    in a second line, and
    in a third"""


def test_help_of_a_flag_has_no_breaks_of_the_source(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    with pytest.raises(SystemExit):
        parse(LongHelp, ["--help"])
    assert "A text that goes on in a second line, and in a third (default: 0.3)" in capsys.readouterr().out


def test_help_shows_each_example_as_a_line(capsys):
    text = "What it does,\nin two lines.\n\npython a.py --x 1   first\ntorchrun b.py ...\n\n(More)\nto say.\n"
    with pytest.raises(SystemExit):
        parse(Settings, ["--help"], text)
    expected = "What it does, in two lines.\n\nexamples:\n    python a.py --x 1   first\n    torchrun b.py ...\n"
    assert expected in capsys.readouterr().out


PROGRAMS = [
    *COMMANDS.values(),
    *(f"{folder}.{path.stem}" for folder in ("train", "eval") for path in (ROOT / folder).glob("*.py")),
]


@pytest.mark.parametrize("name", sorted(PROGRAMS))
def test_help_of_a_program_has_lines_of_examples(name, capsys):
    module = importlib.import_module(name)
    if not hasattr(module, "Settings") or not hasattr(module, "main"):
        return
    with pytest.raises(SystemExit) as stop:
        run(module.main, module.Settings, ["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    examples = re.search(r"^examples:\n((?:    .+\n)+)\n", text, re.M)
    assert examples, text[:500]
    for line in examples[1].splitlines():
        assert re.match(r" {4}(python|advgan|torchrun|accelerate) ", line), line


@pytest.mark.parametrize("name", sorted(PROGRAMS))
def test_written_settings_are_read_back_by_every_program(name, tmp_path):
    module = importlib.import_module(name)
    settings_class = getattr(module, "Settings", None)
    if settings_class is None or "recipe" not in settings_class.__dataclass_fields__:
        return  # no program, or nothing to set
    required = {f.name: "some where" for f in dataclasses.fields(settings_class) if f.default is dataclasses.MISSING}
    given = load_recipe(settings_class, recipe(tmp_path, required))
    for settings in (given, with_other_values(given)):
        write_settings(settings, tmp_path)
        assert load_recipe(settings_class, settings_file(settings, tmp_path)) == settings
        path = settings_file(settings, tmp_path)
        assert parse(settings_class, ["--recipe", str(path)]) == dataclasses.replace(settings, recipe=path)


def recipe(directory, values):
    path = directory / "values.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def with_other_values(settings):
    """The settings with another value in each field whose type determines its values."""
    changes = {}
    for name, hint in get_type_hints(type(settings)).items():
        if name in ("recipe", "weights_by_order"):  # which changes the files of weights
            continue
        kinds = {hint, *get_args(hint)}
        if bool in kinds:
            changes[name] = not getattr(settings, name)
        elif float in kinds:
            changes[name] = (1 / 3,) if get_origin(hint) is tuple else 1 / 3
        elif int in kinds:
            changes[name] = (7, 8) if get_origin(hint) is tuple else 7
        elif Path in kinds or str in kinds:
            value = (Path if Path in kinds else str)("some/where: 'else' #1")
            changes[name] = (value, value) if get_origin(hint) is tuple else value
    return dataclasses.replace(settings, **changes)


def test_recipe_of_required_settings(tmp_path):
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

    file = recipe(tmp_path, {"output-dir": "/out", "generator": "g"})
    assert parse(Placed, ["in", "--recipe", str(file)]) == Placed("in", Path("/out"), "g", file)
    assert parse(Placed, ["in", "o", "--generator", "h", "--recipe", str(file)]) == Placed("in", Path("o"), "h", file)
    with pytest.raises(InputError, match="Missing"):
        parse(Placed, ["--recipe", str(file)])


def test_weights_by_order_marks_every_weights_file() -> None:
    settings = parse(compare.Settings, ["--target-weights", "a.pt", "b.pt:by-order", "--weights-by-order"])
    assert settings.target_weights == (Path("a.pt:by-order"), Path("b.pt:by-order"))
    assert parse(compare.Settings, ["--target-weights", "a.pt"]).target_weights == (Path("a.pt"),)
    with pytest.raises(InputError, match="weights_by_order is for files of weights, expected --target-weights"):
        parse(compare.Settings, ["--weights-by-order"])


@pytest.mark.parametrize("file", [*(ROOT / "train").glob("*.py"), *(ROOT / "eval").glob("*.py")], ids=lambda f: f.stem)
def test_settings_have_the_name_of_their_program(file, tmp_path):
    settings = object.__new__(program_module(file).Settings)
    assert settings_file(settings, tmp_path).name == f"settings-{file.stem}.yaml"
