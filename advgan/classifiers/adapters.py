"""Models of other forms as modules from images to logits: one logit, a container, a function, a recorded one."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from advgan.core.errors import InputError


class OutputAdapter(nn.Module):
    """A `model` whose output is turned into logits: in its mode, with its name, image shape, classes and config."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = model.training
        for key in ("name", "image_shape", "num_classes", "classes", "config", "normalises"):
            if hasattr(model, key):
                setattr(self, key, getattr(model, key))

    def forward(self, x: Tensor) -> Any:
        return self.model(x)


class BinaryLogit(OutputAdapter):
    """A two-class `model` with one logit f, (n,) or (n, 1), as one with the logits (0, f): class 1 wins where f > 0."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.num_classes = 2

    def forward(self, x: Tensor) -> Tensor:
        return two_logits(logits_of(self.model(x)))


class ContainedLogits(OutputAdapter):
    """A `model` that returns its logits in a container, as transformers' do (`logits_of`)."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = logits_of(self.model(x))
        return logits


class FunctionModel(nn.Module):
    """A function of images (n, c, h, w) -> logits (n, k) as a module without weights, always in eval mode."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function, self.training = function, False
        self.name = getattr(function, "__name__", type(function).__name__)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Scripted(nn.Module):
    """A recorded module (TorchScript, torch.export) as one that supports hooks, always in eval mode."""

    def __init__(self, script: nn.Module) -> None:
        super().__init__()
        if not isinstance(script, torch.jit.ScriptModule):
            for part in script.modules():
                part.training = False  # no effect: its modes are those that it was exported in
        elif hasattr(script, "training"):  # a frozen one has no mode
            script.eval()
        self.script, self.training = script, False

    def train(self, mode: bool = True) -> Self:
        return self

    def forward(self, x: Tensor) -> Any:
        return self.script(x)


def image_shape_of(model: Any) -> tuple[int, int, int] | None:
    """The (c, h, w) that a model has as its attribute `image_shape`; None for another value of this name."""
    shape = getattr(model, "image_shape", None)
    whole = isinstance(shape, Sequence) and len(shape) == 3 and all(isinstance(side, int) for side in shape)
    return tuple(shape) if whole else None  # type: ignore[arg-type]


def classes_of(model: Any) -> tuple[str, ...] | None:
    """The names that a model has as its attribute `classes`, a sequence, an array, or a dict by number, or else in its
    config, as transformers' do; None for another value of this name, like their number, or a layer."""
    names: Any = getattr(model, "classes", None)
    names = _config_classes(model) if names is None else names
    if isinstance(names, Mapping):
        names = [names.get(i) for i in range(len(names))]
    names = names.tolist() if isinstance(names, np.ndarray) else names
    listed = isinstance(names, (list, tuple)) and names and all(isinstance(name, str) for name in names)
    return tuple(names) if listed else None


def _config_classes(model: Any) -> Any:
    """The `id2label` in a model's config; None where it holds the placeholders of transformers."""
    names = getattr(getattr(model, "config", None), "id2label", None)
    return None if names == {i: f"LABEL_{i}" for i in range(len(names or ()))} else names


def as_module(model: Any) -> nn.Module:
    """`model`, or a module around a function or a recorded module. Raises InputError for what cannot be called."""
    if not callable(model):
        raise InputError(f"model must be a torch.nn.Module or a function images -> logits, got {type(model).__name__}")
    if isinstance(model, type):
        raise InputError(f"model must be a module or a function images -> logits, got the class {model.__name__}")
    module = model if isinstance(model, nn.Module) else FunctionModel(model)
    return with_hooks(module)


def with_hooks(model: nn.Module) -> nn.Module:
    """`model`, or a module around one that runs no hooks: a recorded one, or one of a class with its own `__call__`."""
    if is_recorded(model):
        return Scripted(model)
    runs_them = isinstance(model, torch.fx.GraphModule) or hasattr(model, "_orig_mod")  # with calls of their own
    return model if runs_them or type(model).__call__ is nn.Module.__call__ else OutputAdapter(model)


def is_recorded(model: Any) -> bool:
    """Whether `model` is a TorchScript module, or one that torch.export made, which has no modes."""
    exported = isinstance(model, torch.fx.GraphModule) and "eval" in vars(model)
    return exported or isinstance(model, torch.jit.ScriptModule)


def check_not_recorded(model: Any) -> None:
    """Raise InputError for a module that takes no hooks and has no modes, which an attack needs."""
    if is_recorded(model):
        raise InputError(
            "a module of TorchScript or torch.export cannot be attacked directly: model = check_target(model, x, "
            "classes)"
        )


def two_logits(f: Tensor) -> Tensor:
    """Logits (n, 2), (0, f), of one logit f (n,) or (n, 1)."""
    f = f.reshape(len(f), 1)
    return torch.cat([torch.zeros_like(f), f], dim=1)


def logits_of(output: Any) -> Any:
    """The logits in a model's output: its `.logits` (transformers), a dict's "logits", a tuple's one tensor."""
    if isinstance(output, Mapping):
        return output.get("logits", output)
    if isinstance(output, (tuple, list)) and len(output) == 1:
        return output[0]
    return getattr(output, "logits", output)
