"""A name and its settings on a command line, "pgd:steps=100:loss=dlr": what they call, and with which arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any, get_args, get_type_hints

from advgan.core.config import parse_fraction
from advgan.core.errors import InputError, did_you_mean


def parse_spec(
    text: str, table: Mapping[str, Callable[..., Any]], given: Collection[str], kind: str
) -> tuple[str, dict[str, Any]]:
    """The name in `table` that `text` begins with, and its settings, each of the type that the function declares.

    given   arguments that are no settings: the caller passes them
    kind    what the table holds, for the message: "attack"
    Raises InputError for an unknown name, an unknown setting, or a value of another type than the setting has.
    """
    name, *words = text.split(":")
    if name not in table:
        near = did_you_mean(name, table) or f", expected some of {', '.join(table)}"
        raise InputError(f"unknown {kind} {name[:80]!r}{near}")
    run = table[name]
    function = run.func if isinstance(run, partial) else run
    fixed = run.keywords if isinstance(run, partial) else {}
    hints = get_type_hints(getattr(function, "__init__") if isinstance(function, type) else function)  # noqa: B009
    parameters = inspect.signature(function).parameters.values()
    known = [each.name for each in parameters if each.name not in given and each.kind is not each.VAR_KEYWORD]
    settings = {}
    for word in words:
        key, equals, value = word.partition("=")
        key = key.replace("-", "_")
        if key not in known or key in fixed or not equals:
            settable = [k for k in known if k not in fixed]
            near = did_you_mean(key, settable) if equals and key not in given else ""
            wanted = f", expected setting=value with settings {', '.join(settable) or 'none'}"
            raise InputError(f"{kind} {name} cannot take {word[:80]!r}{near or wanted}")
        settings[key] = _value(value, hints[key], f"{name}:{key}")
    return name, settings


def _value(text: str, hint: Any, where: str) -> Any:
    """`text` as the type that a setting declares: a number, a switch, one of some words, or any text."""
    options = [option for option in get_args(hint) if option is not type(None)] or [hint]
    try:
        if bool in options:
            return {"true": True, "false": False}[text.lower()]
        if int in options:
            return int(text)
        if float in options:
            return parse_fraction(text)
    except (ValueError, KeyError):
        kind = next(option.__name__ for option in (bool, int, float) if option in options)
        raise InputError(f"{where} must be of type {kind}, got {text!r}") from None
    if str not in options and text not in options:
        raise InputError(f"{where} must be one of {', '.join(map(str, options))}, got {text!r}")
    return text
