"""What the bridges share: the facts of a library's attack, and how its settings are read."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from advgan.attacks.registry import AttackerAccess, AttackKind
from advgan.core.config import parse_fraction
from advgan.core.errors import InputError, did_you_mean

Call = Callable[[Tensor, Tensor, Tensor | None], Any]  # x (n, c, h, w), y (n,), y_target (n,) or None -> x_adv


@dataclass(frozen=True)
class Kind:
    """Of an attack in another library, what `advgan.attacks.Attack` says of ours."""

    protocol: AttackKind
    norm: str | None
    targeted: bool = True
    access: AttackerAccess = "gradients"


def parameters(make: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """What an attack is made with, by name."""
    return dict(inspect.signature(make).parameters)


def read_settings(
    name: str, make: Callable[..., Any], words: list[str], given: Collection[str]
) -> dict[str, bool | int | float | str | None]:
    """The settings "steps=10" by the library's own names, but for those that are `given`.

    Few libraries say types: a value is what it looks like. Raises InputError for a setting that is not there, for a
    word in place of a number or a switch, and for one left out that has no default.
    """
    known = {k: each for k, each in parameters(make).items() if k not in given and each.kind is not each.VAR_KEYWORD}
    settings = {}
    for word in words:
        key, equals, text = word.partition("=")
        key = key.replace("-", "_")
        if key not in known or not equals:
            near = did_you_mean(key, known) if equals and key not in given else ""
            wanted = f", expected setting=value with settings {', '.join(known) or 'none'}"
            raise InputError(f"attack {name} cannot take {word[:80]!r}{near or wanted}")
        found, usual = value(text), known[key].default
        if isinstance(usual, bool) and not isinstance(found, bool):
            raise InputError(f"{name}:{key} must be true or false, got {text!r}")
        if isinstance(usual, (int, float)) and not isinstance(found, (int, float)):
            raise InputError(f"{name}:{key} must be a number, got {text!r}")
        settings[key] = found
    missing = [key for key, each in known.items() if each.default is each.empty and key not in settings]
    if missing:
        raise InputError(f"attack {name} needs {missing[0]}=..., for which {name.partition(':')[0]} has no default")
    return settings


def value(text: str) -> bool | int | float | str | None:
    """`text` as what it looks like: true, none, 10, 0.5, 8/255, or a word."""
    named: dict[str, bool | None] = {"true": True, "false": False, "none": None}
    if text.lower() in named:
        return named[text.lower()]
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return parse_fraction(text)
    except InputError:
        return text


@torch.no_grad()
def num_classes(model: nn.Module, x: Tensor) -> int:
    """How many classes a model of images like `x` tells apart: as it says, else by a forward of a black one."""
    known: int | None = getattr(model, "num_classes", None)
    return int(model(x.new_zeros(1, *x.shape[1:])).shape[1]) if known is None else known
