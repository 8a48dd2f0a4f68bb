"""Parsing of a name with settings, "pgd:steps=100:loss=dlr"."""

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Any, get_args, get_type_hints

from advgan.core.config import LARGEST
from advgan.core.errors import InputError, did_you_mean
from advgan.core.fraction import parse_fraction
from advgan.core.json_files import check_int, check_real


def parse_spec(
    text: str, table: Mapping[str, Callable[..., Any]], reserved: Collection[str], kind: str
) -> tuple[str, dict[str, Any]]:
    """The name in `table` at the start of `text`, and its settings, each of the type declared by the function.

    reserved   arguments that are no settings: the caller passes them
    kind       noun for the entries of the table in messages: "attack"
    Raises InputError for an unknown name, an unknown or repeated setting, or a value of another type than it has.
    """
    name, *parts = text.split(":")
    if name not in table:
        suggestion = did_you_mean(name, table) or f", expected some of {', '.join(table)}"
        raise InputError(f"unknown {kind} {name[:80]!r}{suggestion}")
    run = table[name]
    function = run.func if isinstance(run, partial) else run
    fixed = run.keywords if isinstance(run, partial) else {}
    hints = get_type_hints(getattr(function, "__init__") if isinstance(function, type) else function)  # noqa: B009
    parameters = inspect.signature(function).parameters.values()
    parameter_names = [
        parameter.name
        for parameter in parameters
        if parameter.name not in reserved and parameter.kind is not parameter.VAR_KEYWORD
    ]
    texts = setting_texts(f"{kind} {name}", parts, [key for key in parameter_names if key not in fixed], reserved)
    return name, {key: _value(text, hints[key], f"{name}:{key}") for key, text in texts.items()}


def setting_texts(
    where: str, parts: Iterable[str], settable: Collection[str], reserved: Collection[str]
) -> dict[str, str]:
    """The texts of the settings "steps=100", by name. Raises InputError, with `where` at its beginning, for one that is
    not `settable`, and for one twice."""
    texts: dict[str, str] = {}
    for part in parts:
        key, equals, text = part.partition("=")
        key = key.replace("-", "_")
        if key not in settable or not equals:
            suggestion = did_you_mean(key, settable) if equals and key not in reserved else ""
            expected = f", expected setting=value with settings {', '.join(settable) or 'none'}"
            raise InputError(f"{where} cannot take {part[:80]!r}{suggestion or expected}")
        if key in texts:
            raise InputError(f"{where} sets {key} twice, expected once")
        texts[key] = text
    return texts


def _value(text: str, hint: Any, where: str) -> Any:
    """`text` as the declared type of a setting: a number, a bool, one of several options, or any text."""
    options = [option for option in get_args(hint) if option is not type(None)] or [hint]
    number: int | float | None = None
    try:
        if bool in options:
            return {"true": True, "false": False}[text.lower()]
        if int in options:
            number = int(text)
        elif float in options:
            number = parse_fraction(text)
    except (ValueError, KeyError):
        kind = next(option.__name__ for option in (bool, int, float) if option in options)
        raise InputError(f"{where} must be of type {kind}, got {text!r}") from None
    if number is not None:
        return check_int(where, number, -LARGEST, LARGEST) if int in options else check_real(where, number)
    if str not in options and text not in options:
        raise InputError(f"{where} must be one of {', '.join(map(str, options))}, got {text!r}")
    return text
