"""From a command line and a YAML recipe to a frozen dataclass: what every program's first line of `main` receives."""

from __future__ import annotations

import dataclasses
import io
import math
import os
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar, get_type_hints

import tyro
import yaml
from safetensors import SafetensorError
from tyro.constructors import PrimitiveConstructorSpec

from advgan.core.errors import InputError, NotFiniteError, did_you_mean, one_line
from advgan.core.files import atomic_write
from advgan.core.lock import release
from advgan.core.recipe import convert_paths, find_recipe, from_recipe, read_recipe, to_recipe
from advgan.core.shutdown import exiting_on_signals
from advgan.core.terminal import printable, safe_streams

S = TypeVar("S")


def parse_fraction(text: str) -> float:
    """'0.3' or '8/255' as a float; parsed, never evaluated. Raises InputError for anything else."""
    try:
        numerator, slash, denominator = str(text).partition("/")
        return float(numerator) / float(denominator) if slash else float(numerator)
    except (ValueError, ZeroDivisionError):
        raise InputError(f"expected a number like 0.3 or a fraction like 8/255, got {text!r}") from None


# A float flag that also understands fractions.
Real = Annotated[
    float,
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="FLOAT|A/B",
        instance_from_str=lambda words: parse_fraction(words[0]),
        is_instance=lambda value: isinstance(value, (int, float)),
        str_from_instance=lambda value: [str(value)],
    ),
]


BY_ORDER = ":by-order"  # after a file of weights: its tensors are the model's in their order, whatever their names
ByOrder = Annotated[
    bool,
    tyro.conf.arg(
        help="Load the files of weights by order: tensors of the same shapes in the same order, whatever their names"
    ),
]


def run(
    main: Callable[[S], None], settings_class: type[S], argv: Sequence[str] | None = None, prog: str | None = None
) -> None:
    """Parse `argv` into `settings_class`, call `main` with it.

    Bad input ends in one line on stderr and exit code 2; a fault of the file system (a full disk, no permission), too
    little memory or a loss that is not finite in one line and exit code 1; a closed pipe (`advgan info RUN | head`) in
    exit code 1 alone; SIGINT and SIGTERM in 130 and 143. Names from files and servers are printed without control
    characters, on terminals and pipes of any encoding.

    `prog` is what the help calls the program; None: its file.
    """
    with exiting_on_signals(), safe_streams():
        try:
            with faults_of_threads():
                main(parse(settings_class, argv, sys.modules[main.__module__].__doc__ or "", prog))
            sys.stdout.flush()
        except InputError as error:
            fail(error, 2)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python's last flush fails once more
            sys.exit(1)
        except OSError as error:
            path = error.filename2 or error.filename or "while reading or writing"
            fail(f"{error.strerror}: {path}" if error.strerror else one_line(error), 1)
        except SafetensorError as error:
            if not re.search(r"os error \d+", str(error)):  # of the file system, as its library writes it
                raise
            fail(one_line(error), 1)
        except MemoryError as error:
            fail(f"out of memory: {one_line(error)}", 1)
        except NotFiniteError as error:
            sys.exit(f"error: {error}")
        except KeyboardInterrupt:
            sys.exit(130)
        finally:
            release()


def check_signs(settings: Any, *, positive: Iterable[str] = (), not_negative: Iterable[str] = ()) -> None:
    """Raise InputError unless those settings are finite, and positive or not negative; None is left out."""
    for names, smallest, expected in ((positive, math.ulp(0.0), "be positive"), (not_negative, 0.0, "not be negative")):
        for name in names:
            value = getattr(settings, name)
            if value is not None and not smallest <= value < math.inf:
                raise InputError(f"{name} must {'be finite' if value == math.inf else expected}, got {value}")


@contextmanager
def faults_of_threads() -> Iterator[None]:
    """Raise at the end the OSError that ended a background thread (TensorBoard's writer on a full disk), not the
    traceback that Python prints.
    """
    faults: list[OSError] = []
    before = threading.excepthook

    def collect(ended: threading.ExceptHookArgs) -> None:
        if isinstance(ended.exc_value, OSError):
            faults.append(ended.exc_value)
        else:
            before(ended)

    threading.excepthook = collect
    try:
        yield
    finally:
        threading.excepthook = before
    if faults:
        raise faults[0]


def fail(problem: object, code: int) -> NoReturn:
    """End the program with exit code `code` and `problem` on one line of stderr."""
    print(f"error: {printable(' '.join(str(problem).split()))}", file=sys.stderr)
    sys.exit(code)


def parse(
    settings_class: type[S], argv: Sequence[str] | None = None, description: str = "", prog: str | None = None
) -> S:
    """The settings that a command line asks for: flags over `--recipe FILE` over the class's own defaults.

    Raises InputError for a flag that is unknown (with the nearest ones), missing, or of another type than its value.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    _check_flags(settings_class, words)
    recipe = _recipe_path(words)
    defaults = {} if recipe is None else {"default": load_recipe(settings_class, recipe)}
    return _mark_by_order(_parsed(settings_class, words, prog=prog, description=help_text(description), **defaults))


def help_text(docstring: str) -> str:
    """`docstring` as tyro shows it: the lines of a paragraph joined, commands indented, each on a line of its own."""
    paragraphs = []
    for paragraph in re.split(r"\n\s*\n", docstring.strip()):
        lines = [line.strip() for line in paragraph.splitlines()]
        if re.match(r"(python|advgan|accelerate|torchrun) ", " ".join(lines)):
            paragraphs.append("\n    ".join(["examples:", *lines]))  # tyro keeps the break before an indented line
        else:
            paragraphs.append(" ".join(lines))
    return "\n\n".join(paragraphs)


def _mark_by_order(settings: S) -> S:
    """`settings` with BY_ORDER after each file of weights, where `weights_by_order` is set."""
    if not getattr(settings, "weights_by_order", False):
        return settings
    files = {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)}  # type: ignore[arg-type]
    marked = {name: _marked(value) for name, value in files.items() if name.endswith("_weights") and value}
    if not marked:
        raise InputError(
            "weights_by_order is for files of weights, expected --target-weights or FILE:by-order, got none"
        )
    return dataclasses.replace(settings, **marked)  # type: ignore[type-var]


def _marked(files: Path | tuple[Path, ...]) -> Path | tuple[Path, ...]:
    if isinstance(files, tuple):
        return tuple(Path(f"{str(file).removesuffix(BY_ORDER)}{BY_ORDER}") for file in files)
    return Path(f"{str(files).removesuffix(BY_ORDER)}{BY_ORDER}")


def _parsed(settings_class: type[S], words: list[str], **options: Any) -> S:
    """Settings parsed from `words`. Raises InputError with the first paragraph of what it prints in a box."""
    printed = io.StringIO()
    try:
        with redirect_stderr(printed):
            return tyro.cli(settings_class, args=words, **options)
    except SystemExit as stop:
        if stop.code != 2:
            raise
    box = re.sub(r"\x1b\[[\d;]*m", "", printed.getvalue())
    lines = [line.strip("│| ") for line in box.splitlines() if not line.startswith(("╭", "╰"))]
    paragraph = takewhile(lambda line: not line.startswith("──"), lines)
    raise InputError(one_line(" ".join(paragraph)))


def _check_flags(settings_class: type, words: Sequence[str]) -> None:
    """Raise InputError, with the nearest flags, for one that `settings_class` does not have."""
    names = [field.name.replace("_", "-") for field in dataclasses.fields(settings_class)]
    flags = {*names, *(f"no-{name}" for name in names), "help", "help-verbose"}
    for word in words:
        if word == "--":
            return
        if found := re.fullmatch(r"--([A-Za-z][\w-]*)(=.*)?", word, re.DOTALL):
            name = found[1].replace("_", "-")
            if name not in flags and not name.startswith("tyro-"):
                near = did_you_mean(name, names, form="--{}")
                raise InputError(f"unknown flag --{found[1]}{near or ', --help lists the flags'}")


def load_recipe(settings_class: type[S], path: Path) -> S:
    """The class's defaults with those replaced that the YAML file `path` names. Raises InputError for a bad file.

    A recipe, also the name of a shipped one, is a mapping from flags (dashes or underscores) to values, read by the
    parser of the flags: it takes the values that the command line takes. A setting without a default that the recipe
    leaves out is tyro.MISSING: a flag has to set it. Relative paths are relative to the folder of the file.
    """
    path = find_recipe(path)
    recipe = read_recipe(path)
    fields: tuple[dataclasses.Field[Any], ...] = dataclasses.fields(settings_class)  # type: ignore[arg-type]
    known = {field.name for field in fields} - {"recipe"}
    hints = get_type_hints(settings_class, include_extras=True)
    placed = [name for name in hints if tyro.conf.Positional in getattr(hints[name], "__metadata__", ())]
    values: dict[str, Any] = {}
    for key, value in recipe.items():
        name = key.replace("-", "_")
        if name not in known:
            near = did_you_mean(name, known) or f", expected some of {', '.join(sorted(known))}"
            raise InputError(f"recipe {path} sets {key[:80]!r}{near}")
        if name in values:
            raise InputError(f"recipe {path} sets {key!r} twice")
        if isinstance(value, dict) or (isinstance(value, list) and any(isinstance(v, (list, dict)) for v in value)):
            raise InputError(f"recipe {path} sets {key!r} to nested values, expected a value or a list of values")
        values[name] = value
    values = convert_paths(settings_class, values, from_recipe(path))
    words = {name: _words(None if name in placed else name, value, hints[name]) for name, value in values.items()}
    unsaid = {f.name for f in fields if f.default is f.default_factory is dataclasses.MISSING} - words.keys()
    for name in unsaid:
        words[name] = _words(None if name in placed else name, "-", str)
    ordered = sorted(words, key=lambda name: placed.index(name) if name in placed else len(placed))
    try:
        found = _parsed(settings_class, [word for name in ordered for word in words[name]], prog=f"recipe {path}")
    except InputError as error:
        raise InputError(f"recipe {path}: {error}") from None
    later: dict[str, Any] = dict.fromkeys(unsaid, tyro.MISSING)
    return dataclasses.replace(found, **later)  # type: ignore[type-var]


def as_recipe(settings: Any) -> dict[str, Any]:
    """`settings` as `load_recipe` reads them again, but for where they were read from."""

    def plain(value: Any) -> Any:
        if isinstance(value, (tuple, list)):
            return [plain(item) for item in value]
        return str(value) if isinstance(value, Path) else value

    return {f.name: plain(getattr(settings, f.name)) for f in dataclasses.fields(settings) if f.name != "recipe"}


def absolute_paths(settings: Any) -> dict[str, Any]:
    """`as_recipe` with absolute paths: equal for settings that mean the same, wherever they were read."""
    working = Path.cwd()
    return convert_paths(type(settings), as_recipe(settings), lambda path: os.path.normpath(working / path))


def write_settings(settings: Any, directory: Path) -> None:
    """Leave the effective settings beside a result, for `--recipe` to read again: `settings-<program>.yaml`.

    Several programs share a directory, so each file has its program's name. Relative paths are written relative to the
    `directory`, as `load_recipe` reads them.
    """
    head = "# The effective settings, for --recipe to read again. Relative paths are relative to this file.\n"
    values = convert_paths(type(settings), as_recipe(settings), to_recipe(directory))
    atomic_write(settings_file(settings, directory), head + yaml.safe_dump(values, sort_keys=False))


def settings_file(settings: Any, directory: Path) -> Path:
    """Where `write_settings` leaves them: called by PROGRAM in the module of the settings, else by its file."""
    module = sys.modules[type(settings).__module__]
    program = getattr(module, "PROGRAM", Path(module.__file__ or "program").stem)
    return directory / f"settings-{program}.yaml"


def _words(name: str | None, value: Any, hint: Any) -> list[str]:
    """A setting of type `hint` as the words of a command line; without a `name` it stands for itself."""
    values = [str(item) for item in (value if isinstance(value, list) else [value])]
    if name is None:
        return values
    flag = name.replace("_", "-")
    if getattr(hint, "__origin__", hint) is bool:  # annotated or not
        switch = {"true": f"--{flag}", "false": f"--no-{flag}"}
        word = {"yes": "true", "on": "true", "no": "false", "off": "false"}.get(values[0].lower(), values[0].lower())
        if len(values) != 1 or word not in switch:
            raise InputError(f"{flag} must be true or false, got {', '.join(values)[:80]!r}")
        return [switch[word]]
    return [f"--{flag}", *values]


def _recipe_path(words: Sequence[str]) -> Path | None:
    """Where `--recipe` points; looked up before the flags are parsed, because it decides their defaults."""
    for i, word in enumerate(words):
        if word == "--recipe" and i + 1 < len(words):
            return Path(words[i + 1])
        if word.startswith("--recipe="):
            return Path(word.partition("=")[2])
    return None
