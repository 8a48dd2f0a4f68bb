"""Documents: names, files, links, commands and flags in them exist, and their Python code runs."""

import builtins
import importlib
import inspect
import re
import shlex
import sys
from itertools import accumulate, takewhile
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

import advgan
from advgan import attacks, training
from advgan.cli.main import COMMANDS
from advgan.core.config import parse
from advgan.core.errors import InputError
from tests.conftest import ROOT, program_module

DOCS = [*ROOT.glob("README*.md"), ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md")]
SUFFIXES = "py|md|yaml|json|png|cff"
# In the text, in commands and in the layout; not what a glob, a placeholder or a shell variable ends.
PATH = re.compile(
    rf"(?<![\w./$}}-])((?:advgan|train|eval|recipes|docs|tests|examples)/(?:[\w./-]*\.(?:{SUFFIXES})\b|[\w/-]*/)"
    r"|checkpoints/(?!runs)[\w-]+)(?![\w*{<$\[])"
)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
NAME = re.compile(r"`(advgan(?:\.\w+)+)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
INDENTED = re.compile(r"(?:^ {4}.*\n|^\n(?= {4}))+", re.M)
SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")

each_document = pytest.mark.parametrize("path", DOCS, ids=lambda path: str(path.relative_to(ROOT)))


def code(text: str) -> list[tuple[str, str]]:
    """Code blocks of a document in order: language ("" if none is given), and content."""
    parts, blocks, end = list(FENCE.finditer(text)), [], 0
    for part in [*parts, None]:
        between = text[end : part.start() if part else None]
        plain = ("\n".join(line[4:] for line in block.splitlines()) for block in INDENTED.findall(between))
        blocks += [("", block.strip("\n")) for block in plain]
        if part:
            blocks.append((part[1], part[2]))
            end = part.end()
    return blocks


@each_document
def test_names_exist(path: Path) -> None:
    for name in set(NAME.findall(path.read_text())):
        if not name.endswith((".py", ".md")):
            resolve(name)
            assert all(imports_modules(package) for package in accumulate(name.split("."), "{}.{}".format)), name


def imports_modules(name: str) -> bool:
    """Whether the modules of package `name` are attributes after `import advgan` alone; True for what is no package."""
    module = sys.modules.get(name)
    return not hasattr(module, "__path__") or "__getattr__" in vars(module)


def resolve(name: str) -> Any:
    """The object named `name`: its longest prefix that is a module, and attributes from there on."""
    parts = name.split(".")
    for n in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:n]))
        except ModuleNotFoundError:
            continue
        for part in parts[n:]:
            found = getattr(found, part)
        return found
    raise AssertionError(f"{name} is no module")


def test_packages_are_attributes_of_a_fresh_import(program) -> None:
    """As the README writes them: `import advgan`, then `advgan.attacks.pgd(...)`."""
    names = [
        "attacks.pgd",
        "classifiers.BlackBox",
        "bridges.foolbox.AdvGAN",
        "models.generator.Generator",
        "training.detector.train_detector",
        "training.GeneratorConfig",
        "data.load_data",
    ]
    program("-c", "import advgan; print(" + ", ".join(f"advgan.{name}" for name in names) + ")")
    assert {"attacks", "training", "fit"} <= set(dir(advgan))
    assert {"art", "foolbox", "torchattacks"} <= set(dir(advgan.bridges))
    assert {"fit", "GeneratorConfig", "train_detector"} <= set(training.__all__)  # `import *`, and help(training)
    with pytest.raises(AttributeError, match="module 'advgan' has no attribute 'attack'") as error:
        advgan.attack  # noqa: B018
    assert (error.value.name, error.value.obj) == ("attack", advgan)


@pytest.mark.parametrize("name", attacks.__all__)
def test_docstrings_name_functions_of_the_package(name: str) -> None:
    text = inspect.getdoc(getattr(attacks, name)) or ""
    for used in re.findall(r"`([a-z_]+\.[a-z_]+)`", text):
        assert attrgetter(used)(attacks), used
    assert not re.search(r"`(get_loss|to_boundary|default_step_size)`", text)


@pytest.mark.parametrize("name", [name for name in training.__all__ if name.endswith("Config")])
def test_types_of_settings_can_be_evaluated(name: str) -> None:
    assert inspect.signature(getattr(training, name), eval_str=True).parameters


@pytest.mark.parametrize("name", [*advgan.__all__, *training.__all__])
def test_docstrings_name_classes_that_can_be_imported(name: str) -> None:
    """Those that a user of the function has to make or catch: XConfig, XError, Interrupted, XInputs."""
    text = inspect.getdoc(getattr(advgan if name in advgan.__all__ else training, name)) or ""
    for used in set(re.findall(r"\b(?:[A-Z][a-z]+)+(?:Config|Error|Inputs)\b|\bInterrupted\b", text)):
        assert hasattr(advgan, used) or hasattr(training, used) or hasattr(builtins, used), used


@each_document
def test_files_exist(path: Path) -> None:
    text = path.read_text()
    new = {name for name, _ in re.findall(r"^```python\n# (\S+)\n(.*?)^```$", text, re.M | re.S)}  # a worked example's
    missing = {name for name in PATH.findall(text) if not (ROOT / name).exists()} - new
    assert not missing


@each_document
def test_links_resolve(path: Path) -> None:
    for link in LINK.findall(path.read_text()):
        if link.startswith("http"):
            continue
        name, _, section = link.partition("#")
        file = path.parent / name if name else path
        assert file.exists(), link
        headings = re.findall(r"^#+ (.*)$", file.read_text(), re.M) if section else []
        anchors = {anchor(heading) for heading in headings}
        assert not section or section in anchors, f"{link}, expected one of {sorted(anchors)}"


def anchor(heading: str) -> str:
    """The anchor of a heading on GitHub and on the site."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


@each_document
def test_commands_parse(path: Path) -> None:
    text = path.read_text()
    blocks = [block for language, block in code(text) if language in ("", "sh", "bash", "console")]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    for line in [*lines, *SPAN.findall(re.sub(FENCE, "", text))]:
        for program, words in commands(line):
            parse_arguments(program, words, line)


def commands(line: str) -> list[tuple[str, list[str]]]:
    """Calls of our programs in a line of shell: the module that holds the program's settings, and the arguments."""
    if not re.search(r"\b(train|eval)/\w+\.py\b|\badvgan\b", line):
        return []
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|()<>")
    lexer.whitespace_split = True
    try:
        words = iter(list(lexer))
    except ValueError:  # prose, with an apostrophe
        return []
    found = []
    while call := list(takewhile(lambda word: word not in (";", "&&", "||"), words)):
        call = [word for word in takewhile(lambda word: word not in ("|", ">", "do"), call) if word != "..."]
        first = next((i for i, word in enumerate(call) if re.fullmatch(r"(train|eval)/\w+\.py", word)), None)
        if call[:1] in (["python"], ["accelerate"], ["torchrun"]) and first is not None:
            found.append((call[first].removesuffix(".py").replace("/", "."), call[first + 1 :]))
        if "-m" in call[:-2] and call[call.index("-m") + 1] == "advgan":
            call = call[call.index("-m") + 1 :]
        if len(call) > 2 and call[0] == "advgan":
            found.append((COMMANDS[call[1]], call[2:]))
    return found


def parse_arguments(program: str, words: list[str], line: str) -> None:
    """Parses `words` as the program does. Placeholders are in CAPITALS, optional parts in [ ]."""
    words = [re.sub(r"^\[|\]$", "", word) for word in words]
    if "--recipe" in words and re.search(r"[A-Z$*]", words[(i := words.index("--recipe")) + 1]):
        del words[i : i + 2]
    words = ["1" if re.fullmatch(r"[A-Z][A-Z0-9_]*", word) else word for word in words]
    path = f"{program.replace('.', '/')}.py"
    module = program_module(path) if program.startswith(("train.", "eval.")) else importlib.import_module(program)
    try:
        parse(module.Settings, words)
    except InputError as error:
        pytest.fail(f"{program} does not understand: {line} ({error})")
    except SystemExit:  # --help
        pass


def test_command_extraction_and_errors() -> None:
    assert commands("python -m advgan compare --eps 0.3 | tee log") == [
        ("advgan.experiments.comparison.run", ["--eps", "0.3"])
    ]
    line = "V=1; accelerate launch --cpu train/advgan.py --epz 8/255 --output-dir RUN"
    ((program, words),) = commands(line)
    assert (program, words[:2]) == ("train.advgan", ["--epz", "8/255"])
    with pytest.raises(pytest.fail.Exception, match="does not understand: V=1; accelerate"):
        parse_arguments(program, words, line)


def test_code_block_extraction() -> None:
    text = "a\n\n    one  # 1\n\n    two\n\nb\n\n```sh\nthree\n```\n\n    four\n"
    assert code(text) == [("", "one  # 1\n\ntwo"), ("sh", "three\n"), ("", "four")]


@pytest.mark.parametrize("name", ["README.md", "docs/concepts.md"])
def test_python_blocks_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the models and data that a reader is assumed to have."""
    (tmp_path / "checkpoints").symlink_to(ROOT / "checkpoints")
    monkeypatch.chdir(tmp_path)
    blocks = [block for language, block in code((ROOT / name).read_text()) if language == "python"]
    assert blocks
    for block in blocks:
        torch.manual_seed(0)
        x, mean, std = torch.rand(64, 3, 8, 8), (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)
        network = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
        y = network((x - 0.5) / 0.2).argmax(1)
        own = {
            "x": x,
            "y": y,
            "x_test": x,
            "y_test": y,
            "num_classes": 4,
            "mean": mean,
            "std": std,
            "your_network": network,
        }
        exec(compile(block, name, "exec"), own)


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_is_listed(path: Path) -> None:
    lines = (ROOT / "docs/recipes.md").read_text().splitlines()
    assert [line for line in lines if line.startswith("| ") and f"`{path.name}`" in line.split(" | ")[0]]


def test_citation_file() -> None:
    """The fields required by the Citation File Format 1.2.0, with our values."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert (citation["cff-version"], citation["license"]) == ("1.2.0", "MIT")
    assert citation["version"] == importlib.import_module("advgan").__version__
    (paper,) = citation["references"]
    assert {"type", "title", "authors"} <= paper.keys()
    assert "1801.02610" in paper["url"]
