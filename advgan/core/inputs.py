"""Checks of a caller's images and labels; errors contain the code that corrects them."""

import math
import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import fields
from fractions import Fraction
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import torch
from torch import Tensor

from advgan.core.errors import InputError

INTEGERS = (torch.int16, torch.int32, torch.int64)  # that may hold 8-bit pixels
OVERSHOOT = 0.1  # of pixels beyond [0, 1]: a bicubic filter of contrasts within [0, 1] exceeds them by less
ROUNDING = 1e-3  # tolerance of the sum of probabilities: some services print three digits


def check_images(x: Any) -> None:
    """Raise InputError unless `x` is a float32 tensor (n, c, h, w) in [0, 1]."""
    check_tensor(x, "images", "a float32 tensor (n, c, h, w) in [0, 1]", "torch.from_numpy(x)")
    check_shape(x)
    check_range(x)


def check_shape(x: Tensor) -> None:
    """Raise InputError unless the tensor `x` is float32 of a shape (n, c, h, w)."""
    shape = tuple(x.shape)
    if x.dtype != torch.float32 or x.ndim != 4:
        hint = ""
        if x.ndim == 3:
            hint = ": x[None] is a batch of one image" if len(x) in (1, 3, 4) else ": grey images? x[:, None]"
        elif x.ndim == 4 and (x.dtype == torch.uint8 or (x.dtype in INTEGERS and len(x) and 1 < x.max() <= 255)):
            hint = ": x.float() / 255"
        elif x.ndim == 4 and x.is_floating_point():
            hint = ": x.float()"
        raise InputError(f"images must be float32 of shape (n, c, h, w), got {x.dtype} {shape}{hint}")
    if 0 in shape[1:]:
        raise InputError(f"images must have pixels, got {shape}")
    if channels_last(shape):
        raise InputError(
            f"images must be of shape (n, c, h, w), got {shape}, channels last: x.permute(0, 3, 1, 2).contiguous()"
        )


def check_range(x: Tensor) -> None:
    """Raise InputError unless all pixels of the float tensor `x` lie in [0, 1]."""
    if (fault := range_fault(x)) is not None:
        measured, remedy = fault
        raise InputError(f"images must lie in [0, 1], got {measured}{remedy and f': {remedy}'}")


def range_fault(x: Tensor) -> tuple[str, str] | None:
    """The range of float images `x` and its remedy ("": unknown), where they do not lie in [0, 1]; else None."""
    if not x.numel() or bool(x.min() >= 0 and x.max() <= 1):  # false for NaN
        return None
    if count := int((~x.isfinite()).flatten(1).any(1).sum()):
        return f"NaN or infinity in {count} of {len(x)} images", "leave these images out"
    low, high = x.min().item(), x.max().item()
    if low >= -OVERSHOOT and high <= 1 + OVERSHOOT:  # more digits, 1.0000001 is not 1
        return f"{low:.9g} to {high:.9g}", "rounding, or a bicubic resize? x.clamp(0, 1)"
    remedy = ""
    if low >= 0 and 2 < high <= 255:
        remedy = "grey levels? x / 255"
    elif -20 < low < 0 and high < 20:
        remedy = "normalised? that belongs inside the model: nn.Sequential(Normalize(mean, std), model)"
    return f"{low:.4g} to {high:.4g}", remedy


def channels_last(shape: tuple[int, ...]) -> bool:
    """Whether images of this shape are (n, h, w, c) by all appearances."""
    return shape[3] in (1, 3) and shape[1] > 4 and shape[2] > 4


def check_labels(y: Any, n: int, name: str = "y") -> None:
    """Raise InputError unless `y` is an int64 tensor (n,) of classes from 0 on."""
    variable = name if name.isidentifier() else "labels"  # in the code of a hint
    check_tensor(y, name, f"an int64 tensor of shape ({n},), one class per image", f"torch.as_tensor({variable})")
    if y.shape != (n,) or y.dtype != torch.int64:
        hint = ""
        if y.ndim == 2 and len(y) == n and y.shape[1] > 1:
            hint = f": one-hot? {variable}.argmax(1)"
        elif y.shape == (n, 1):
            hint = f": {variable}.squeeze(1).long()"
        elif y.shape == (n,):
            hint = f": {variable}.long()"
        raise InputError(
            f"{name} must be an int64 tensor of shape ({n},), one class per image, got {y.dtype} {tuple(y.shape)}{hint}"
        )
    if len(y) and int(y.min()) < 0:
        raise InputError(f"{name} must hold classes from 0 on, got {int(y.min())}")


def as_images(value: Any) -> Tensor:
    """Images (n, c, h, w) as float32 in [0, 1] on the CPU: of an array or a tensor of floats, or of uint8 in 0..255.

    Raises InputError as `check_images`.
    """
    x = as_float_images(value).cpu()
    check_range(x)
    return x


def as_float_images(value: Any) -> Tensor:
    """The same in any range, and where they are. Raises InputError for other types and shapes."""
    x = array_as_tensor(value, "images")
    check_tensor(x, "images", "a tensor or an array (n, c, h, w)", "torch.as_tensor(x)")
    x = x.detach().float() / 255 if x.dtype == torch.uint8 else x.detach()
    x = x.float() if x.is_floating_point() else x
    check_shape(x)
    return x


def as_labels(values: Any, n: int, name: str = "y") -> Tensor:
    """Labels of `n` images, a tensor, an array or a list of whole numbers from 0 on, as int64 (n,) on the CPU.

    Raises InputError for others, called `name`.
    """
    labels = array_as_tensor(values, name)
    try:
        labels = labels if isinstance(labels, Tensor) else torch.as_tensor([_number(label) for label in labels])
    except (TypeError, ValueError, RuntimeError):
        others = [v for v in values if not isinstance(v, Real)] if isinstance(values, (list, tuple)) else []
        got = type([*others, values][0]).__name__
        raise InputError(f"{name} must be whole numbers, one per image, got {got}") from None
    check_tensor(labels, name, "whole numbers, one per image", "")
    whole = not labels.is_floating_point() and labels.dtype != torch.bool and not labels.is_complex()
    y = labels.detach().cpu()
    check_labels(y.long() if whole else y, n, name)
    return y.long()


def _number(label: Any) -> Any:
    """A label of a list as a number that torch can hold: of an array of one value, this value."""
    return label.item() if isinstance(label, (Tensor, np.ndarray)) else label


def check_columns(logits: Any) -> None:
    """Raise InputError unless `logits` are a float tensor (n, k) with k >= 2."""
    if not isinstance(logits, Tensor):
        raise InputError(f"the target must return a tensor of logits, got {described(logits)}")
    shape = tuple(logits.shape)
    if (len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)) and logits.is_floating_point():
        raise InputError(
            f"the target must return at least 2 logits, got one value per image, {shape}: "
            "model = check_target(model, x, 2) makes two logits of one"
        )
    if not logits.is_floating_point():
        raise InputError(f"the target must return logits, got {logits.dtype} (predicted labels?)")
    if len(shape) != 2 or shape[1] < 2:
        raise InputError(f"the target must return logits of shape (n, classes), got {shape}")


def described(output: Any) -> str:
    """The type of a model's output; of a tensor its dtype and shape, of a container those of the tensors in it."""
    if isinstance(output, Tensor):
        return f"{output.dtype} {tuple(output.shape)}"
    name = type(output).__name__
    entries = (
        output.items()
        if isinstance(output, Mapping)
        else enumerate(output)
        if isinstance(output, (tuple, list))
        else ()
    )
    parts = [f"[{key!r}] {tuple(part.shape)}" for key, part in entries if isinstance(part, Tensor)]
    return f"{name} with {', '.join(parts[:4])}" if parts else name


def at_least_float32(logits: Tensor) -> Tensor:
    """Logits as float32; those of float64 as they are: rounded, several may be the largest."""
    return logits if logits.dtype == torch.float64 else logits.float()


def predicted(logits: Tensor) -> tuple[Tensor, Tensor]:
    """(confidence, class), (n,) each, of `logits` (n, k): the class of the largest logit, also where float32
    probabilities of several classes are equal."""
    k = logits.argmax(1)
    return at_least_float32(logits).softmax(1).gather(1, k[:, None]).squeeze(1).float(), k


def is_softmax(outputs: Tensor) -> bool:
    """Whether all rows (n, k) of at least 4 sum to 1 and are not negative (logits of fewer may, by chance)."""
    return len(outputs) >= 4 and bool(outputs.min() >= 0) and bool((outputs.float().sum(1) - 1).abs().max() < ROUNDING)


def check_default_device() -> None:
    """Raise InputError where new tensors would hold no values."""
    if torch.empty(0).is_meta:  # torch.get_default_device() fails below two devices in torch < 2.10
        raise InputError("torch's default device is meta, without values: torch.set_default_device('cpu')")


def check_tensor(value: Any, name: str, expected: str, conversion: str) -> None:
    """Raise InputError for a `value` called `name` that is no tensor of values in memory; `conversion`: code that
    converts an array."""
    check_default_device()
    if isinstance(value, Tensor):
        if value.is_meta:
            raise InputError(f"{name} must be {expected}, got a tensor on the device meta, which holds no values")
        if value.is_nested:
            raise InputError(f"{name} must be {expected}, got a nested tensor: torch.stack(x.unbind())")
        if value.layout != torch.strided:
            raise InputError(f"{name} must be {expected}, got {value.layout}: {name}.to_dense()")
        return
    array = hasattr(value, "dtype") and hasattr(value, "shape")
    got = f"{type(value).__name__} {value.dtype} {tuple(value.shape)}" if array else type(value).__name__
    if isinstance(value, (bool, int, float)):
        got = f"{got} {value}"
    hint = ""
    if isinstance(value, torch.utils.data.DataLoader):
        hint = ": one batch of it, x, y = next(iter(loader))"
    elif isinstance(value, torch.utils.data.Dataset):
        hint = ": a batch of it, x, y = next(iter(DataLoader(dataset, 1000)))"
    elif isinstance(value, (list, tuple)) and value and all(isinstance(part, Tensor) for part in value):
        hint = f": torch.{'cat' if value[0].ndim == 4 else 'stack'}({'x' if name == 'images' else name})"
    elif array or (name != "images" and isinstance(value, (list, tuple))):
        hint = f": {conversion}"
    elif hasattr(value, "__array_interface__") or isinstance(value, (list, tuple)):
        hint = ": torch.stack([to_tensor(image) for image in images]) (torchvision.transforms.functional)"
    raise InputError(f"{name} must be {expected}, got {got}{hint}")


def array_as_tensor(value: Any, name: str) -> Any:
    """A NumPy array as a tensor, whatever its strides and byte order; other values as they are.

    Raises InputError for an array of texts or objects.
    """
    if not isinstance(value, np.ndarray):
        return value
    if value.dtype.kind not in "biufc":
        raise InputError(f"{name} must be numbers, got an array of {value.dtype}")
    return torch.from_numpy(np.ascontiguousarray(value, value.dtype.newbyteorder("=")))


def copy_images(_: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """A forward pre-hook: the module gets a copy of its images, so that in-place normalisation changes neither them nor
    the gradient."""
    return (inputs[0].clone(), *inputs[1:])


def plain(value: Any) -> Any:
    """One number of NumPy or torch, or a Fraction, as one of Python that JSON takes; other values as they are."""
    if isinstance(value, Fraction):
        return float(value)
    return value.item() if isinstance(value, (np.generic, np.ndarray, Tensor)) and not value.shape else value


def check_number(name: str, value: Any) -> None:
    """Raise InputError unless `value` is one real number; a bool and a text are none."""
    number = value.item() if isinstance(value, (Tensor, np.ndarray)) and math.prod(value.shape) == 1 else value
    if isinstance(number, (bool, np.bool_)) or not isinstance(number, Real):
        raise InputError(f"{name} must be a number, got {reprlib.repr(value)}")


def check_whole(name: str, value: Any) -> None:
    """Raise InputError unless `value` is one whole number, an int or an array's."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise InputError(f"{name} must be a whole number, got {reprlib.repr(value)}")


def check_types(settings: Any, names: Any = ()) -> None:
    """Raise InputError for the first field of a dataclass that is not of its annotated type: a number (not NaN), a
    whole number, true or false, a text, or one of a few values. Fields of other types are skipped.

    names   field -> what it is called
    """
    hints = get_type_hints(type(settings))
    for field in fields(settings):
        value, allowed = getattr(settings, field.name), list(_alternatives(hints[field.name]))
        known = all(kind in _KINDS or isinstance(kind, str) for kind in allowed)
        if known and not any(value == kind if isinstance(kind, str) else _KINDS[kind](value) for kind in allowed):
            words = [kind if isinstance(kind, str) else _WORDS[kind] for kind in allowed]
            name = dict(names).get(field.name, field.name)
            raise InputError(f"{name} must be {' or '.join(words)}, got {reprlib.repr(value)}")


def _alternatives(hint: Any) -> Iterator[Any]:
    """The types and the values of an annotation."""
    if get_origin(hint) in (Union, UnionType, Literal):
        for part in get_args(hint):
            yield from [part] if isinstance(part, str) else _alternatives(part)
    else:
        yield hint


_KINDS = {
    bool: lambda value: isinstance(value, (bool, np.bool_)),
    int: lambda value: isinstance(value, Integral) and not isinstance(value, bool),
    float: lambda value: isinstance(value, Real) and not isinstance(value, bool) and value == value,
    str: lambda value: isinstance(value, str),
    NoneType: lambda value: value is None,
}
_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", NoneType: "None"}
