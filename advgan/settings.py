"""From a command line and a YAML recipe to a frozen dataclass: what every program's first line of `main` receives."""

from __future__ import annotations

import dataclasses
import errno
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import tyro
import yaml
from tyro.constructors import PrimitiveConstructorSpec

from advgan.errors import InputError
from advgan.lock import release

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


def run(main: Callable[[S], None], settings_class: type[S], argv: Sequence[str] | None = None) -> None:
    """Parse `argv` into `settings_class`, call `main` with it; bad input ends in one line on stderr and exit code 2,
    a full disk in one and exit code 1."""
    try:
        main(parse(settings_class, argv, description=sys.modules[main.__module__].__doc__ or ""))
    except InputError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(f"error: {error.strerror}: {error.filename or 'while writing'}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:  # before or after the part of a program that saves and stops
        sys.exit(130)
    finally:
        release()


def parse(settings_class: type[S], argv: Sequence[str] | None = None, description: str = "") -> S:
    """The settings that a command line asks for: flags over `--recipe FILE` over the class's own defaults."""
    words = list(sys.argv[1:] if argv is None else argv)
    recipe = _recipe_path(words)
    defaults = settings_class() if recipe is None else load_recipe(settings_class, recipe)
    return tyro.cli(settings_class, args=words, default=defaults, description=description)


def load_recipe(settings_class: type[S], path: Path) -> S:
    """The class's defaults with those replaced that the YAML file `path` names. Raises InputError for a bad file.

    A recipe is a mapping from flags (dashes or underscores) to values. It is read through the flags' own parser, so
    that a recipe understands what the command line understands, and refuses what it refuses.
    """
    try:
        recipe = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read recipe {path}: {error}") from None
    except yaml.YAMLError as error:
        raise InputError(f"recipe {path} is not YAML: {error}") from None
    if not isinstance(recipe, dict):
        raise InputError(f"recipe {path} must be a mapping of settings, got {type(recipe).__name__}")
    known = {field.name for field in dataclasses.fields(settings_class)} - {"recipe"}  # type: ignore[arg-type]
    words: list[str] = []
    for key, value in recipe.items():
        name = str(key).replace("-", "_")
        if name not in known:
            raise InputError(f"recipe {path} sets {key!r}, expected some of {', '.join(sorted(known))}")
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", *(str(item) for item in (value if isinstance(value, list) else [value]))]
    return tyro.cli(settings_class, args=words, prog=f"recipe {path}")


def _recipe_path(words: Sequence[str]) -> Path | None:
    """Where `--recipe` points; looked up before the flags are parsed, because it decides their defaults."""
    for i, word in enumerate(words):
        if word == "--recipe" and i + 1 < len(words):
            return Path(words[i + 1])
        if word.startswith("--recipe="):
            return Path(word.partition("=")[2])
    return None
