"""JSON objects from files of any origin: bounded in size and depth, without NaN and duplicate keys, with a SHA-256."""

import hashlib
import json
import math
from collections.abc import Collection, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NoReturn

from advgan.core.errors import InputError, one_line
from advgan.core.files import read_bytes
from advgan.core.terminal import utf8

MAX_BYTES = 64 << 20
MAX_DEPTH = 64  # brackets within brackets
MAX_DIGITS = 40  # of one number
DIGEST = "sha256"  # the entry of a sealed object


def as_json(value: Any) -> Any:
    """`value` of a setting for JSON: paths as text, text in UTF-8, tuples as lists."""
    if isinstance(value, (list, tuple)):
        return [*map(as_json, value)]
    return utf8(str(value)) if isinstance(value, (str, Path)) else value


def read_object(path: Path, *, finite: bool = True) -> dict[str, Any]:
    """The JSON object in the file `path`. Raises InputError, in one line, for anything else.

    finite   whether NaN and Infinity, which are no JSON, raise an error
    """
    try:
        return parse_object(read_bytes(path, MAX_BYTES), finite=finite)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {one_line(error)}") from None


def parse_object(content: str | bytes, *, finite: bool = True) -> dict[str, Any]:
    """The JSON object in `content`. Raises ValueError for anything else, and beyond the limits above."""
    if len(content) > MAX_BYTES:
        raise ValueError(f"larger than {MAX_BYTES >> 20} MiB")
    text = content if isinstance(content, str) else content.decode()
    value = parse_value(text, finite=finite)
    if not isinstance(value, dict):
        raise ValueError(f"a JSON object expected, got {text.strip():.60}")
    _check_structure(value)
    return value


def parse_value(text: str | bytes, *, finite: bool = True) -> Any:
    """Any JSON value. Raises ValueError for other texts, for a key that comes twice and for numbers as above."""
    constant = _constant if finite else float
    number = _finite if finite else float
    try:
        return json.loads(text, parse_int=_int, parse_float=number, parse_constant=constant, object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels") from None


def object_digest(content: Mapping[str, Any]) -> str:
    """SHA-256 of a JSON object, whatever the order of its keys and the spaces between them."""
    normalised = json.loads(json.dumps(content))  # tuples are lists, keys are text
    return hashlib.sha256(json.dumps(normalised, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def sealed(content: Mapping[str, Any]) -> str:
    """`content` as the text of a JSON file that holds its own SHA-256."""
    return json.dumps({**content, DIGEST: object_digest(content)}, indent=2) + "\n"


def read_sealed(path: Path) -> dict[str, Any]:
    """The object in a file of `sealed`, or an object without a digest. Raises InputError for a changed one."""
    content = read_object(path, finite=False)
    expected = content.pop(DIGEST, None)
    if expected is not None and object_digest(content) != expected:
        raise InputError(f"{path} was changed after saving (its SHA-256 differs): restore it from a copy, or delete it")
    return content


def check_int(name: str, value: Any, minimum: int, maximum: int) -> int:
    """`value`, if it is a whole number (no bool) in that range. Raises InputError for any other."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise InputError(f"{name} must be a whole number, got {value!r:.60}")
    number = int(value)
    if number < minimum:
        raise InputError(f"{name} must {'not be negative' if minimum == 0 else f'be at least {minimum}'}, got {value}")
    if number > maximum:
        raise InputError(f"{name} must be at most {maximum:,}, got {value}")
    return number


def check_real(name: str, value: Any) -> float:
    """`value`, if it is a finite number (no bool). Raises InputError for any other."""
    if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value):
        raise InputError(f"{name} must be a finite number, got {value!r:.60}")
    return float(value)


def check_keys(
    where: str, config: Mapping[str, Any], required: Collection[str], optional: Collection[str] = ()
) -> None:
    """Raise InputError unless `config` has every required key, and no other but the optional ones."""
    unknown, missing = sorted(config.keys() - set(required) - set(optional)), sorted(set(required) - config.keys())
    if unknown:
        raise InputError(f"{where} has an unknown entry {unknown[0]!r:.60}, expected {', '.join(sorted(required))}")
    if missing:
        raise InputError(f"{where} lacks {', '.join(missing[:4])}")


def _int(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _finite(digits: str) -> float:
    if not math.isfinite(float(digits)):
        raise ValueError(f"a number beyond any float: {digits:.20}")
    return float(digits)


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        duplicate = next(key for key in content if keys.count(key) > 1)
        raise ValueError(f"the key {duplicate!r:.60} comes twice")
    return content


def _check_structure(value: dict[str, Any]) -> None:
    """Raise ValueError for too deep nesting, and for lone surrogates."""
    todo: list[tuple[Any, int]] = [(value, 1)]
    while todo:
        part, depth = todo.pop()
        if depth > MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(part, str):
            part.encode()  # a UnicodeEncodeError is a ValueError
        elif isinstance(part, dict):
            todo += [(element, depth + 1) for item in part.items() for element in item]
        elif isinstance(part, list):
            todo += [(element, depth + 1) for element in part]
