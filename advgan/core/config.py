"""Parsing of a command line and a YAML recipe to the frozen dataclass `Settings` of a program."""

import dataclasses
import errno
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
from types import NoneType
from typing import Annotated, Any, NoReturn, TypeVar, get_args, get_type_hints

import docstring_parser
import tyro
import yaml
from safetensors import SafetensorError
from tyro.constructors import PrimitiveConstructorSpec

from advgan.core.errors import InputError, NotFiniteError, did_you_mean, one_line
from advgan.core.files import atomic_write
from advgan.core.fraction import parse_fraction
from advgan.core.lock import release
from advgan.core.recipe import (
    convert_paths,
    expand_home,
    find_recipe,
    from_recipe,
    path_kind,
    read_recipe,
    to_recipe,
)
from advgan.core.shutdown import exiting_on_signals
from advgan.core.terminal import printable, safe_streams

S = TypeVar("S")
LARGEST = 2**53  # of whole numbers


# A float flag that also accepts fractions.
Real = Annotated[
    float,
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="FLOAT|A/B",
        instance_from_str=lambda texts: parse_fraction(texts[0]),
        is_instance=lambda value: isinstance(value, (int, float)),
        str_from_instance=lambda value: [str(value)],
    ),
]


BY_ORDER = ":by-order"  # suffix of a file of weights: tensors are matched by order, not by name
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
    exit code 1 alone; SIGINT, SIGTERM and SIGHUP in 130, 143 and 129. Names from files and servers are printed without
    control characters, on terminals and pipes of any encoding.

    `prog` is the program's name in the help; None: its file.
    """
    with exiting_on_signals(), safe_streams():
        try:
            with faults_of_threads():
                main(parse(settings_class, argv, sys.modules[main.__module__].__doc__ or "", prog))
            sys.stdout.flush()
        except InputError as error:
            fail(error, 2)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # otherwise Python's last flush fails again
            sys.exit(1)
        except OSError as error:
            path = error.filename2 or error.filename or "while reading or writing"
            of_input = error.errno == errno.ENAMETOOLONG  # of a path that was given
            if error.errno == errno.ENOENT and not error.filename:  # of os.getcwd
                path, of_input = "the working directory, which was removed", True
            code = 2 if of_input else 1
            fail(f"{error.strerror}: {path}" if error.strerror else one_line(error), code)
        except SafetensorError as error:
            if not re.search(r"os error \d+", str(error)):  # of the file system, in the format of safetensors
                raise
            fail(one_line(error), 1)
        except RuntimeError as error:
            if not str(error).startswith("Symlink loop from"):  # of Path.resolve
                raise
            fail(error, 2)
        except MemoryError as error:
            fail(f"out of memory: {one_line(error)}", 1)
        except NotFiniteError as error:
            sys.exit(f"error: {error}")
        except KeyboardInterrupt:
            sys.exit(130)
        finally:
            release()


def check_signs(settings: Any, *, positive: Iterable[str] = (), not_negative: Iterable[str] = ()) -> None:
    """Raise InputError unless those settings are finite, and positive or not negative; None is skipped."""
    for names, smallest, expected in ((positive, math.ulp(0.0), "be positive"), (not_negative, 0.0, "not be negative")):
        for name in names:
            value = getattr(settings, name)
            if value is not None and not smallest <= value < math.inf:
                raise InputError(f"{name} must {'be finite' if value == math.inf else expected}, got {value}")


@contextmanager
def faults_of_threads() -> Iterator[None]:
    """Raise at the end the OSError that ended a background thread (TensorBoard's writer on a full disk), without the
    traceback printed by Python.
    """
    faults: list[OSError] = []
    previous_hook = threading.excepthook

    def collect(ended: threading.ExceptHookArgs) -> None:
        if isinstance(ended.exc_value, OSError):
            faults.append(ended.exc_value)
        else:
            previous_hook(ended)

    threading.excepthook = collect
    try:
        yield
    finally:
        threading.excepthook = previous_hook
    if faults:
        raise faults[0]


def fail(problem: object, code: int) -> NoReturn:
    """End the program with exit code `code` and `problem` on one line of stderr."""
    print(f"error: {printable(' '.join(str(problem).split()))}", file=sys.stderr)
    sys.exit(code)


def parse(
    settings_class: type[S], argv: Sequence[str] | None = None, description: str = "", prog: str | None = None
) -> S:
    """The settings of a command line: flags override `--recipe FILE`, which overrides the class's defaults.

    Raises InputError for a flag that is unknown (with the nearest ones), missing, or of another type than its value.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    _check_flags(settings_class, arguments)
    recipe = _recipe_path(arguments)
    defaults = {} if recipe is None else {"default": load_recipe(settings_class, recipe)}
    return _mark_by_order(_parsed(settings_class, arguments, prog=prog, description=help_text(description), **defaults))


def help_text(docstring: str) -> str:
    """`docstring` for tyro: the lines of a paragraph joined, commands indented, one per line."""
    paragraphs = []
    for paragraph in re.split(r"\n\s*\n", docstring.strip()):
        lines = [line.strip() for line in paragraph.splitlines()]
        if re.match(r"(python|advgan|accelerate|torchrun) ", " ".join(lines)):
            paragraphs.append("\n    ".join(["examples:", *lines]))  # tyro keeps the break before an indented line
        else:
            paragraphs.append(" ".join(lines))
    return "\n\n".join(paragraphs)


@contextmanager
def joined_field_docstrings() -> Iterator[None]:
    """The docstrings of fields with their lines joined: tyro would keep each break before an indented line."""
    original = docstring_parser.parse_from_object

    def parse_joined(obj: Any, *args: Any) -> docstring_parser.Docstring:
        docstring = original(obj, *args)
        for field in docstring.params:
            field.description = field.description and re.sub(r"\s*\n\s*", " ", field.description)
        return docstring

    docstring_parser.parse_from_object = parse_joined  # type: ignore[assignment]
    try:
        yield
    finally:
        docstring_parser.parse_from_object = original


def _mark_by_order(settings: S) -> S:
    """`settings` with BY_ORDER after each file of weights, where `weights_by_order` is set."""
    if not getattr(settings, "weights_by_order", False):
        return settings

    def mark(file: Path) -> Path:
        return Path(f"{str(file).removesuffix(BY_ORDER)}{BY_ORDER}")

    files = {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)}  # type: ignore[arg-type]
    marked = {
        name: tuple(map(mark, value)) if isinstance(value, tuple) else mark(value)
        for name, value in files.items()
        if name.endswith("_weights") and value
    }
    if not marked:
        raise InputError(
            "weights_by_order is for files of weights, expected --target-weights or FILE:by-order, got none"
        )
    return dataclasses.replace(settings, **marked)  # type: ignore[type-var]


def _parsed(settings_class: type[S], arguments: list[str], **options: Any) -> S:
    """Settings parsed from `arguments`. Raises InputError with the first paragraph of tyro's message."""
    printed = io.StringIO()
    try:
        with redirect_stderr(printed), joined_field_docstrings():
            return _expand_homes(_check_sizes(tyro.cli(settings_class, args=arguments, **options)))
    except SystemExit as stop:
        if stop.code != 2:
            raise
    box = re.sub(r"\x1b\[[\d;]*m", "", printed.getvalue())
    lines = [line.strip("│| ") for line in box.splitlines() if not line.startswith(("╭", "╰"))]
    lines = lines[2:] if len(lines) > 1 and lines[1].startswith("---") else lines  # the title, where no box is possible
    paragraph = takewhile(lambda line: not line.startswith(("──", "---")), lines)
    raise InputError(_plainer(one_line(" ".join(paragraph))))


def _check_sizes(settings: S) -> S:
    """`settings` itself. Raises InputError for whole numbers beyond those that torch and Python's floats take."""
    for field in dataclasses.fields(settings):  # type: ignore[arg-type]
        value = getattr(settings, field.name)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int) and not -LARGEST <= number <= LARGEST:
                raise InputError(f"{field.name} must be from {-LARGEST} to {LARGEST}, got {number}")
    return settings


def _expand_homes(settings: S) -> S:
    """`settings` with the home directory in the paths that begin with "~/"."""
    hints = get_type_hints(type(settings), include_extras=True)

    def expand(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(expand, value))
        return type(value)(expand_home(str(value))) if isinstance(value, (str, Path)) else value

    values = {name: getattr(settings, name) for name, hint in hints.items() if path_kind(hint) is not None}
    return dataclasses.replace(settings, **{name: expand(value) for name, value in values.items()})  # type: ignore[type-var]


def _plainer(message: str) -> str:
    """tyro's message for a value of another type, without Python's types; any other one unchanged."""
    value = re.match(r"Error parsing (\S+): .*?(?:could be instantiated from \[(.+?)\]|for int\(\).*?: (.+))", message)
    if value is None:
        return message
    expected = "a number like 0.3 or a fraction like 8/255" if "FLOAT|A/B" in message else "a whole number"
    known = "FLOAT|A/B" in message or "INT" in message or value[3] is not None
    return f"Error parsing {value[1]}: expected {expected}, got {value[2] or value[3]}" if known else message


def _check_flags(settings_class: type, arguments: Sequence[str]) -> None:
    """Raise InputError for empty text, which as a path would be the working directory, and, with similar flags, for a
    flag that `settings_class` does not have."""
    names = [field.name.replace("_", "-") for field in dataclasses.fields(settings_class)]
    flags = {*names, *(f"no-{name}" for name in names), "help", "help-verbose"}
    for i, argument in enumerate(arguments):
        if not argument or re.fullmatch(r"--[\w-]+=", argument):
            before = next((word for word in reversed(arguments[: i + 1]) if word.startswith("--")), "the command")
            raise InputError(f"empty text after {before}, expected a value (a variable of the shell without one?)")
        if argument == "--":
            return
        if match := re.fullmatch(r"--([A-Za-z][\w-]*)(=.*)?", argument, re.DOTALL):
            name = match[1].replace("_", "-")
            if name not in flags and not name.startswith("tyro-"):
                suggestion = did_you_mean(name, names, form="--{}")
                raise InputError(f"unknown flag --{match[1]}{suggestion or ', --help lists the flags'}")


def load_recipe(settings_class: type[S], path: Path) -> S:
    """The class's defaults overridden by the YAML file `path`. Raises InputError for an invalid file.

    A recipe, or the name of a shipped one, is a mapping from flags (dashes or underscores) to values, parsed like
    flags. A setting without a default and not in the recipe is tyro.MISSING: a flag has to set it. Relative paths are
    relative to the folder of the file.
    """
    path = find_recipe(path)
    recipe = read_recipe(path)
    fields: tuple[dataclasses.Field[Any], ...] = dataclasses.fields(settings_class)  # type: ignore[arg-type]
    field_names = {field.name for field in fields} - {"recipe"}
    hints = get_type_hints(settings_class, include_extras=True)
    placed = [name for name in hints if tyro.conf.Positional in getattr(hints[name], "__metadata__", ())]
    values: dict[str, Any] = {}
    for key, value in recipe.items():
        name = key.replace("-", "_")
        if name not in field_names:
            suggestion = did_you_mean(name, field_names) or f", expected one of {', '.join(sorted(field_names))}"
            raise InputError(f"recipe {path} sets {key[:80]!r}{suggestion}")
        if name in values:
            raise InputError(f"recipe {path} sets {key!r} twice")
        if isinstance(value, dict) or (isinstance(value, list) and any(isinstance(v, (list, dict)) for v in value)):
            raise InputError(f"recipe {path} sets {key!r} to nested values, expected a value or a list of values")
        items = value if isinstance(value, list) else [value]
        if flag := next((item for item in items if re.match(r"--?[A-Za-z]", str(item))), None):
            raise InputError(f"recipe {path} sets {key!r} to {flag[:80]!r}, expected a value, got a flag")
        if None in items and (isinstance(value, list) or NoneType not in get_args(hints[name])):
            raise InputError(f"recipe {path} sets {key!r} to nothing, expected a value")
        values[name] = value
    values = convert_paths(settings_class, values, from_recipe(path))
    arguments = {
        name: _as_arguments(None if name in placed else name, value, hints[name]) for name, value in values.items()
    }
    required = {f.name for f in fields if f.default is f.default_factory is dataclasses.MISSING} - arguments.keys()
    for name in required:
        arguments[name] = _as_arguments(None if name in placed else name, "-", str)
    ordered = sorted(arguments, key=lambda name: placed.index(name) if name in placed else len(placed))
    try:
        settings = _parsed(
            settings_class, [argument for name in ordered for argument in arguments[name]], prog=f"recipe {path}"
        )
    except InputError as error:
        raise InputError(f"recipe {path}: {error}") from None
    later: dict[str, Any] = dict.fromkeys(required, tyro.MISSING)
    return dataclasses.replace(settings, **later)  # type: ignore[type-var]


def as_recipe(settings: Any) -> dict[str, Any]:
    """`settings` in the form of a recipe, without the path of their own recipe."""

    def to_yaml(value: Any) -> Any:
        if isinstance(value, (tuple, list)):
            return [to_yaml(item) for item in value]
        return str(value) if isinstance(value, Path) else value

    return {f.name: to_yaml(getattr(settings, f.name)) for f in dataclasses.fields(settings) if f.name != "recipe"}


def absolute_paths(settings: Any) -> dict[str, Any]:
    """`as_recipe` with absolute paths: equal for equal settings, in any working directory."""
    working = Path.cwd()
    return convert_paths(type(settings), as_recipe(settings), lambda path: os.path.normpath(working / path))


def write_settings(settings: Any, directory: Path) -> None:
    """Write the effective settings to `settings-<program>.yaml` beside a result, as a recipe.

    Several programs share a directory, so each file has its program's name. Relative paths are relative to the
    `directory`, as `load_recipe` expects.
    """
    header = "# The effective settings, a file for --recipe. Relative paths are relative to this file.\n"
    values = convert_paths(type(settings), as_recipe(settings), to_recipe(directory))
    atomic_write(settings_file(settings, directory), header + yaml.safe_dump(values, sort_keys=False))


def settings_file(settings: Any, directory: Path) -> Path:
    """The file of `write_settings`, named by PROGRAM in the module of the settings, else by its file (of a run.py,
    its folder)."""
    module = sys.modules[type(settings).__module__]
    file = Path(module.__file__ or "program")
    program = getattr(module, "PROGRAM", file.parent.name if file.stem == "run" else file.stem)
    return directory / f"settings-{program}.yaml"


def _as_arguments(name: str | None, value: Any, hint: Any) -> list[str]:
    """A setting of type `hint` as command line arguments; without a `name` the values only."""
    values = [str(item) for item in (value if isinstance(value, list) else [value])]
    if name is None:
        return values
    flag = name.replace("_", "-")
    optional = set(get_args(hint)) == {bool, NoneType}
    if optional or getattr(hint, "__origin__", hint) is bool:  # annotated or not
        text = {"yes": "true", "on": "true", "no": "false", "off": "false"}.get(values[0].lower(), values[0].lower())
        if len(values) != 1 or text not in ("true", "false", *["none"] * optional):
            raise InputError(f"{flag} must be true or false, got {', '.join(values)[:80]!r}")
        if optional:
            return [f"--{flag}", text.capitalize()]
        return [f"--{flag}" if text == "true" else f"--no-{flag}"]
    return [f"--{flag}", *values]


def _recipe_path(arguments: Sequence[str]) -> Path | None:
    """The path after `--recipe`; needed before the flags are parsed, because it sets their defaults."""
    for i, argument in enumerate(arguments):
        if argument == "--recipe" and i + 1 < len(arguments):
            return Path(expand_home(arguments[i + 1]))
        if argument.startswith("--recipe="):
            return Path(expand_home(argument.partition("=")[2]))
    return None
