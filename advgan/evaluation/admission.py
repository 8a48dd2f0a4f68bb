"""A classifier and the data that it is attacked on: do they fit each other, and call the classes alike?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from advgan.data import Data, relabel
from advgan.defenses import undefended
from advgan.errors import InputError
from advgan.targets import BlackBox, check_normalised, check_target


def admitted(model: Any, data: Data) -> tuple[nn.Module, Data]:
    """The loaded classifier `model` as a target, and `data` with labels and class names as it has them.

    Raises InputError if it cannot be attacked with these data, seen on a few validation images: as `check_target`,
    `relabel` and, for other people's, `check_normalised`.
    """
    plain = undefended(model)
    data = relabel(data, *said_of(model))
    if isinstance(model, BlackBox):
        return model, data  # each of its answers is checked, and each question may cost
    x, y = next(data.validation.first(64).batches(64))
    target = check_target(model, x[:8], data.num_classes)
    if not getattr(plain, "normalises", True):
        check_normalised(target, x, y)
    return target, data


def only_answers(model: Any) -> bool:
    """Whether a target, or what stands behind its defences, answers queries and has no gradients."""
    return isinstance(undefended(model), BlackBox)


def check_gradients(model: Any) -> None:
    """Raise InputError for a target that only answers queries: nothing by gradients is made on it."""
    if only_answers(model):
        name = undefended(model).name
        raise InputError(f"{name} only answers queries, without a gradient: train/substitute.py attacks such targets")


def said_of(model: Any) -> tuple[Sequence[str] | None, int, str]:
    """The names of a loaded classifier's classes (None: it has none), their number, and what it is called."""
    plain = undefended(model)
    return getattr(plain, "classes", None), plain.num_classes, plain.name
