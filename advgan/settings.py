"""From a command line and a YAML recipe to a frozen dataclass: what every program's first line of `main` receives."""

from __future__ import annotations

import dataclasses
import errno
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import tyro
import yaml
from tyro.constructors import PrimitiveConstructorSpec

from advgan.errors import InputError
from advgan.lock import release
from advgan.shutdown import exiting_on_signals
from advgan.storage import write_file

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


def run(
    main: Callable[[S], None], settings_class: type[S], argv: Sequence[str] | None = None, prog: str | None = None
) -> None:
    """Parse `argv` into `settings_class`, call `main` with it; bad input ends in one line on stderr and exit code 2,
    a full disk in one and exit code 1, SIGINT and SIGTERM without any and 130 or 143.

    `prog` is what the help calls the program; None: its file.
    """
    with exiting_on_signals():
        _run(main, settings_class, argv, prog)


def _run(main: Callable[[S], None], settings_class: type[S], argv: Sequence[str] | None, prog: str | None) -> None:
    try:
        main(parse(settings_class, argv, sys.modules[main.__module__].__doc__ or "", prog))
    except InputError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(f"error: {error.strerror}: {error.filename or 'while writing'}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        release()


def parse(
    settings_class: type[S], argv: Sequence[str] | None = None, description: str = "", prog: str | None = None
) -> S:
    """The settings that a command line asks for: flags over `--recipe FILE` over the class's own defaults."""
    words = list(sys.argv[1:] if argv is None else argv)
    recipe = _recipe_path(words)
    if recipe is None:
        return tyro.cli(settings_class, args=words, prog=prog, description=description)
    defaults = load_recipe(settings_class, recipe)
    return tyro.cli(settings_class, args=words, default=defaults, prog=prog, description=description)


def load_recipe(settings_class: type[S], path: Path) -> S:
    """The class's defaults with those replaced that the YAML file `path` names. Raises InputError for a bad file.

    A recipe is a mapping from flags (dashes or underscores) to values. It is read through the flags' own parser, so
    that a recipe understands what the command line understands, and refuses what it refuses. A setting that has no
    default, and that the recipe does not name, is tyro.MISSING: a flag has to say it.
    """
    try:
        recipe = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read recipe {path}: {error}") from None
    except yaml.YAMLError as error:
        raise InputError(f"recipe {path} is not YAML: {error}") from None
    if not isinstance(recipe, dict):
        raise InputError(f"recipe {path} must be a mapping of settings, got {type(recipe).__name__}")
    fields: tuple[dataclasses.Field[Any], ...] = dataclasses.fields(settings_class)  # type: ignore[arg-type]
    known = {field.name for field in fields} - {"recipe"}
    hints = get_type_hints(settings_class, include_extras=True)
    placed = [name for name in hints if tyro.conf.Positional in getattr(hints[name], "__metadata__", ())]
    words: dict[str, list[str]] = {}
    for key, value in recipe.items():
        name = str(key).replace("-", "_")
        if name not in known:
            raise InputError(f"recipe {path} sets {key!r}, expected some of {', '.join(sorted(known))}")
        words[name] = _words(None if name in placed else name, value)
    unsaid = {f.name for f in fields if f.default is f.default_factory is dataclasses.MISSING} - words.keys()
    for name in unsaid:
        words[name] = _words(None if name in placed else name, "-")
    ordered = sorted(words, key=lambda name: placed.index(name) if name in placed else len(placed))
    found = tyro.cli(settings_class, args=[word for name in ordered for word in words[name]], prog=f"recipe {path}")
    later: dict[str, Any] = dict.fromkeys(unsaid, tyro.MISSING)
    return dataclasses.replace(found, **later)  # type: ignore[type-var]


def as_recipe(settings: Any) -> dict[str, Any]:
    """`settings` as `load_recipe` reads them again, but for where they were read from."""

    def plain(value: Any) -> Any:
        if isinstance(value, (tuple, list)):
            return [plain(item) for item in value]
        return str(value) if isinstance(value, Path) else value

    return {f.name: plain(getattr(settings, f.name)) for f in dataclasses.fields(settings) if f.name != "recipe"}


def write_settings(settings: Any, directory: Path) -> None:
    """Leave the effective settings beside a result, for `--recipe` to read again: `settings-<program>.yaml`.

    Several programs share a directory, so each file has its program's name.
    """
    head = "# The effective settings, for --recipe to read again.\n"
    write_file(settings_file(settings, directory), head + yaml.safe_dump(as_recipe(settings), sort_keys=False))


def settings_file(settings: Any, directory: Path) -> Path:
    """Where `write_settings` leaves them: the program is called as its file is."""
    program = Path(sys.modules[type(settings).__module__].__file__ or "program").stem
    return directory / f"settings-{program}.yaml"


def _words(name: str | None, value: Any) -> list[str]:
    """A setting as the words of a command line; without a `name` it stands for itself."""
    values = [str(item) for item in (value if isinstance(value, list) else [value])]
    if name is None:
        return values
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    return [f"--{flag}", *values]


def _recipe_path(words: Sequence[str]) -> Path | None:
    """Where `--recipe` points; looked up before the flags are parsed, because it decides their defaults."""
    for i, word in enumerate(words):
        if word == "--recipe" and i + 1 < len(words):
            return Path(words[i + 1])
        if word.startswith("--recipe="):
            return Path(word.partition("=")[2])
    return None
