"""Layers of any nn.Module, by name or in the middle, and their outputs, by forward hooks."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from advgan.core.errors import InputError, did_you_mean, listing


class _ReachedLayerError(Exception):
    """Ends a forward pass at the layer whose output is wanted."""


def layer_output(model: Any, layer: nn.Module, x: Tensor) -> Tensor:
    """The output of `layer` within `model`, at its first call, for images `x`; the pass ends there.

    Raises InputError where the layer is not called, or returns no tensor of one entry per image.
    """
    outputs: list[Any] = []

    def end(module: nn.Module, arguments: Any, output: Any) -> None:
        outputs.append(output)
        raise _ReachedLayerError

    handle = layer.register_forward_hook(end)
    try:
        model(x)
    except _ReachedLayerError:
        pass
    finally:
        handle.remove()
    if not outputs:
        raise InputError(f"the layer {type(layer).__name__} is not called in a forward pass of the model")
    output = outputs[0]
    if not isinstance(output, Tensor) or not output.is_floating_point() or output.ndim < 2 or len(output) != len(x):
        got = f"{output.dtype} {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise InputError(f"the layer must return a float tensor ({len(x)}, ...) for {len(x)} images, got {got}")
    return output.float()


def find_layer(model: nn.Module, name: str | None, x: Tensor) -> str:
    """The full name in `model` of the layer `name`, or of `middle_layer` for None; checked on a few images `x`.

    A `name` without the prefixes of wrappers is enough where it is unique: "features.5" for "model.features.5". Raises
    InputError for an unknown name, and as `layer_output`.
    """
    modules = dict(model.named_modules())
    if name is None:
        full_name = middle_layer(model, x)
    else:
        matches = [name] if name and name in modules else [other for other in modules if other.endswith(f".{name}")]
        if len(matches) != 1:
            names = [other for other in modules if other]
            near = did_you_mean(name, names) or f", expected one of {listing(names) or 'none: it has no layers'}"
            several = f" is ambiguous: {listing(matches)}" if matches else f" is not one of the model's{near}"
            raise InputError(f"layer {name[:80]!r}{several}")
        full_name = matches[0]
    with torch.no_grad():
        layer_output(model, modules[full_name], x)
    return full_name


def middle_layer(model: nn.Module, x: Tensor) -> str:
    """The name of a layer in the middle of a forward pass on images `x`: of the convolutions (of fewer than three: of
    the convolutions and linear layers) in the order of their calls the middle one, or the last layer before the next of
    them, like its normalisation or activation.

    Only layers that are called once count. Raises InputError for a model without any.
    """
    calls: list[str] = []
    modules = dict(model.named_modules())
    convolutions = [name for name, module in modules.items() if isinstance(module, _ConvNd)]  # with parts, like padding
    parts = {f"{name}.{part}" for name in convolutions for part, _ in modules[name].named_modules() if part}
    handles = [
        module.register_forward_hook(lambda *_, name=name: calls.append(name))
        for name, module in modules.items()
        if name and name not in parts and (name in convolutions or not any(module.children()))
    ]
    try:
        with torch.no_grad():
            model(x)
    finally:
        for handle in handles:
            handle.remove()
    once = [name for name in calls if calls.count(name) == 1]
    weighted = [name for name in once if isinstance(modules[name], _ConvNd)]
    if len(weighted) < 3:
        weighted = [name for name in once if isinstance(modules[name], (_ConvNd, nn.Linear))]
    if not weighted:
        raise InputError("the model has no convolution and no linear layer, expected one that features are taken from")
    middle = (len(weighted) - 1) // 2
    first = once.index(weighted[middle])
    last = once.index(weighted[middle + 1]) if middle + 1 < len(weighted) else first + 1
    return once[last - 1]
