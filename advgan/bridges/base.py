"""Shared by the bridges: properties and settings of a library's attacks."""

import inspect
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from advgan.attacks.registry import AttackerAccess, AttackKind
from advgan.classifiers import BlackBox
from advgan.core.errors import InputError
from advgan.core.fraction import parse_fraction
from advgan.core.spec_strings import setting_texts

Call = Callable[[Tensor, Tensor, Tensor | None], Any]  # x (n, c, h, w), y (n,), y_target (n,) or None -> x_adv


@dataclass(frozen=True)
class AttackProperties:
    """Properties of an attack in another library, as in `advgan.attacks.Attack`."""

    kind: AttackKind
    norm: str | None
    targeted: bool = True
    access: AttackerAccess = "gradients"


def parameters(make: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Parameters of an attack's constructor, by name."""
    return dict(inspect.signature(make).parameters)


def read_settings(
    name: str, make: Callable[..., Any], texts: list[str], reserved: Collection[str]
) -> dict[str, bool | int | float | str | None]:
    """The settings "steps=10" by the library's names, except the `reserved` ones.

    Few libraries declare types: `parse_value` infers them. Raises InputError for an unknown setting, for a text instead
    of a number or a bool, and for a missing setting without default.
    """
    settable = {
        k: parameter
        for k, parameter in parameters(make).items()
        if k not in reserved and parameter.kind is not parameter.VAR_KEYWORD
    }
    settings = {}
    for key, text in setting_texts(f"attack {name}", texts, settable, reserved).items():
        parsed, default = parse_value(text), settable[key].default
        if isinstance(default, bool) and not isinstance(parsed, bool):
            raise InputError(f"{name}:{key} must be true or false, got {text!r}")
        if isinstance(default, (int, float)) and not isinstance(parsed, (int, float)):
            raise InputError(f"{name}:{key} must be a number, got {text!r}")
        settings[key] = parsed
    missing = [
        key for key, parameter in settable.items() if parameter.default is parameter.empty and key not in settings
    ]
    if missing:
        raise InputError(f"attack {name} needs {missing[0]}=..., for which {name.partition(':')[0]} has no default")
    return settings


def parse_value(text: str) -> bool | int | float | str | None:
    """`text` with its inferred type: true, none, 10, 0.5, 8/255, or a text."""
    constants: dict[str, bool | None] = {"true": True, "false": False, "none": None}
    if text.lower() in constants:
        return constants[text.lower()]
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
    """Number of classes of a model for images like `x`: of a caller's by a forward of a black image."""
    if isinstance(model, BlackBox):  # whose queries have a price
        return model.num_classes
    return int(model(x.new_zeros(1, *x.shape[1:])).shape[1])
