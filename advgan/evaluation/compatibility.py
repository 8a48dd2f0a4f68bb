"""Compatibility of a classifier with the data: shapes, normalisation, and the order of the classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from advgan.classifiers import BlackBox, check_normalised, check_target
from advgan.classifiers.checks import NORMALISATION_IMAGES, check_batch_of, gradient_fault
from advgan.core.errors import InputError
from advgan.data import Data, relabel
from advgan.defenses import unwrap


def prepare_model_and_data(model: Any, data: Data) -> tuple[nn.Module, Data]:
    """The loaded classifier `model` as a target, and `data` with labels and class names as it has them.

    Raises InputError if it cannot be attacked with these data, checked on a few validation images: as `check_target`,
    `relabel` and, for external classifiers, `check_normalised`. A black box without a budget is queried with five
    images: four in one batch, and the first alone; one with a budget with none.
    """
    undefended = unwrap(model)
    data = relabel(data, *class_info(model))
    if isinstance(model, BlackBox):
        if model.max_queries is None:  # each of its outputs is checked; these queries test for dependence on the batch
            check_batch_of(model.query, next(data.validation.first(4).batches(4))[0], model.name)
        return model, data
    x, y = next(data.validation.first(NORMALISATION_IMAGES).batches(NORMALISATION_IMAGES))
    target = check_target(model, x[:8], data.num_classes)
    if not getattr(undefended, "normalises", True):
        if missing := NORMALISATION_IMAGES - len(x):  # a few validation images show little
            more_x, more_y = next(data.train.first(missing).batches(missing))
            x, y = torch.cat([x, more_x]), torch.cat([y, more_y])
        check_normalised(target, x, y)
    return target, data


def gradient_fault_of(model: Any) -> str | None:
    """Why a loaded classifier has no gradients: a black box, or no gradient at its input; None if it has."""
    undefended = unwrap(model)
    if isinstance(undefended, BlackBox):
        return f"{undefended.name} has outputs only, without a gradient"
    shape = getattr(undefended, "image_shape", None)
    if shape is None:
        return None
    x = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0))
    fault = gradient_fault(model, x.to(next((tensor.device for tensor in model.parameters()), x.device)))
    return None if fault is None else f"{undefended.name} passes no gradient to its input ({fault})"


def is_black_box(model: Any) -> bool:
    """Whether a target, or the classifier behind its defenses, has no gradients."""
    return gradient_fault_of(model) is not None


def require_gradients(model: Any) -> None:
    """Raise InputError for a target without gradients."""
    if fault := gradient_fault_of(model):
        raise InputError(f"{fault}: train/substitute.py attacks such targets")


def class_info(model: Any) -> tuple[Sequence[str] | None, int, str]:
    """The class names of a loaded classifier (None: it has none), the number of its classes, and its name."""
    undefended = unwrap(model)
    return getattr(undefended, "classes", None), undefended.num_classes, undefended.name
