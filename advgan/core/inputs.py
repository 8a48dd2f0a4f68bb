"""Checks of a caller's images and labels; errors contain the code that corrects them."""

from __future__ import annotations

import reprlib
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from advgan.core.errors import InputError

ROUNDING = 1e-3  # tolerance of the sum of probabilities: some services print three digits


def check_images(x: Any) -> None:
    """Raise InputError unless `x` is a float32 tensor (n, c, h, w) in [0, 1]."""
    check_tensor(x, "images", "a float32 tensor (n, c, h, w) in [0, 1]", "torch.from_numpy(x)")
    shape = tuple(x.shape)
    if x.dtype != torch.float32 or x.ndim != 4:
        hint = ""
        if x.ndim == 3:
            hint = ": x[None] is a batch of one image"
        elif x.ndim == 4 and x.dtype == torch.uint8:
            hint = ": x.float() / 255"
        elif x.ndim == 4 and x.is_floating_point():
            hint = ": x.float()"
        raise InputError(f"images must be float32 of shape (n, c, h, w), got {x.dtype} {shape}{hint}")
    if shape[3] in (1, 3) and shape[1] > 4 and shape[2] > 4:
        raise InputError(
            f"images must be of shape (n, c, h, w), got {shape}, channels last: x.permute(0, 3, 1, 2).contiguous()"
        )
    if x.numel() and not (x.min() >= 0 and x.max() <= 1):  # also for NaN
        low, high = x.min().item(), x.max().item()
        hint = ""
        if low >= 0 and 2 < high <= 255:
            hint = ": grey levels? x / 255"
        elif -20 < low < 0 and high < 20:
            hint = ": normalised? that belongs inside the model: nn.Sequential(Normalize(mean, std), model)"
        raise InputError(f"images must lie in [0, 1], got {low:.4g} to {high:.4g}{hint}")


def check_labels(y: Any, n: int, name: str = "y") -> None:
    """Raise InputError unless `y` is an int64 tensor (n,) of classes from 0 on."""
    check_tensor(y, name, f"an int64 tensor of shape ({n},), one class per image", f"torch.as_tensor({name})")
    if y.shape != (n,) or y.dtype != torch.int64:
        hint = ""
        if y.ndim == 2 and len(y) == n and y.shape[1] > 1:
            hint = f": one-hot? {name}.argmax(1)"
        elif y.shape == (n, 1):
            hint = f": {name}.squeeze(1).long()"
        elif y.shape == (n,):
            hint = f": {name}.long()"
        raise InputError(
            f"{name} must be an int64 tensor of shape ({n},), one class per image, got {y.dtype} {tuple(y.shape)}{hint}"
        )
    if len(y) and int(y.min()) < 0:
        raise InputError(f"{name} must hold classes from 0 on, got {int(y.min())}")


def check_columns(logits: Any) -> None:
    """Raise InputError unless `logits` are a float tensor (n, k) with k >= 2."""
    if not isinstance(logits, Tensor):
        raise InputError(f"the target must return a tensor of logits, got {type(logits).__name__}")
    shape = tuple(logits.shape)
    if (len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)) and logits.is_floating_point():
        raise InputError(
            f"the target must return at least 2 logits, got one value per image, {shape}: "
            "model = check_target(model, x, 2) makes two logits of one"
        )
    if len(shape) != 2 or shape[1] < 2:
        raise InputError(f"the target must return logits of shape (n, classes), got {shape}")
    if not logits.is_floating_point():
        raise InputError(f"the target must return logits, got {logits.dtype} (predicted labels?)")


def is_softmax(outputs: Tensor) -> bool:
    """Whether all rows (n, k) of at least 4 sum to 1 and are not negative (logits of fewer may, by chance)."""
    return len(outputs) >= 4 and bool(outputs.min() >= 0) and bool((outputs.float().sum(1) - 1).abs().max() < ROUNDING)


def check_tensor(value: Any, name: str, expected: str, conversion: str) -> None:
    """Raise InputError for a `value` called `name` that is no tensor; `conversion`: code that converts an array."""
    if isinstance(value, Tensor):
        return
    array = hasattr(value, "dtype") and hasattr(value, "shape")
    got = f"{type(value).__name__} {value.dtype} {tuple(value.shape)}" if array else type(value).__name__
    if isinstance(value, (bool, int, float)):
        got = f"{got} {value}"
    hint = ""
    if isinstance(value, torch.utils.data.DataLoader):
        hint = ": one batch of it, x, y = next(iter(loader))"
    elif array or (name != "images" and isinstance(value, (list, tuple))):
        hint = f": {conversion}"
    elif hasattr(value, "__array_interface__") or isinstance(value, (list, tuple)):
        hint = ": torch.stack([to_tensor(image) for image in images]) (torchvision.transforms.functional)"
    raise InputError(f"{name} must be {expected}, got {got}{hint}")


def check_number(name: str, value: Any) -> None:
    """Raise InputError unless `value` is one real number; a bool and a text are none."""
    is_scalar = (
        isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex() and value.dtype != torch.bool
    )
    if isinstance(value, bool) or not (is_scalar or isinstance(value, Real)):
        raise InputError(f"{name} must be a number, got {reprlib.repr(value)}")


def check_whole(name: str, value: Any) -> None:
    """Raise InputError unless `value` is one whole number, an int or an array's."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise InputError(f"{name} must be a whole number, got {reprlib.repr(value)}")
