"""A classifier that a function of the user's own Python file returns: `FILE.py:FACTORY`. Loading it runs that file.

def factory():                     # or factory(image_shape, num_classes): what it asks for, it is given
    return model                   # an nn.Module: images (n, c, h, w) in [0, 1] -> logits (n, classes); or a BlackBox

The model may have `image_shape`, the images that it was made for, and `classes`, the names of its classes.
"""

from __future__ import annotations

import inspect
import os
import reprlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from advgan.classifiers.base import ImageShape
from advgan.classifiers.black_box import BlackBox, Predict
from advgan.classifiers.checks import Scripted
from advgan.classifiers.external.base import ExternalClassifier, line_in, wrap_external
from advgan.classifiers.external.imports import Beside, attributes_digest, switches_kept
from advgan.classifiers.state_dicts import load_weights_into, match_weights, read_file, weights_file
from advgan.core.errors import InputError, did_you_mean, one_line
from advgan.core.files import sha256_of


def load(
    name: str,
    weights: Path | str | None = None,
    *,
    image_shape: ImageShape | None = None,
    num_classes: int | None = None,
) -> ExternalClassifier | BlackBox:
    """As `load_external`, by running the file. Raises InputError, with file and line, for whatever
    goes wrong in it.

    Its fingerprint counts the text of the file, and of those beside it that it imports or reads until it has answered
    one image; the plain attributes of the model, constants of the modules and closures: what the model does may depend
    on them, and not on its weights alone. The global switches that the file changes (gradients off, another default
    dtype, a seed) are put back.
    """
    path, _, word = name.rpartition(":")
    if not os.path.isfile(path):
        raise InputError(f"no Python file {path}")
    file = Path(path).resolve()
    beside = Beside(file)
    with _running(file, name), switches_kept(), beside.importing():
        module = beside.load()
        factory = getattr(module, word, None)
        if not callable(factory):
            near = did_you_mean(word, [each for each in vars(module) if not each.startswith("_")])
            raise InputError(f"{path} has no function {word!r}{near}")
        given = {"image_shape": image_shape, "num_classes": num_classes}
        model = factory if isinstance(factory, nn.Module) else factory(**_asked_for(factory, given))
    if not isinstance(model, nn.Module):
        raise InputError(f"{name} must return an nn.Module, got {type(model).__name__}")
    _check(model, name)
    _without_inference(model)
    attributes = attributes_digest(model, beside.named)
    if weights is not None:
        own, by_order = weights_file(weights)
        state = read_file(own)
        load_weights_into(model, match_weights(model, state, name, by_order=by_order), state)
    natural = getattr(model, "image_shape", None) or image_shape or (3, 224, 224)
    if isinstance(model, BlackBox):  # a service with a protocol of its own, say
        model.name, model.image_shape = name, model.image_shape or image_shape
        model.identity = f"{sha256_of(*beside.files)} {attributes}"
        model.predict = _importing(model.predict, beside)
        return model
    if isinstance(model, torch.jit.ScriptModule):
        model = Scripted(model)
    classes, imported = getattr(model, "classes", None), len(beside.modules)
    other = wrap_external(model, name, tuple(natural), image_shape, code=file, around=beside.importing, classes=classes)
    other.imports_late = len(beside.modules) > imported
    other.identity = f"{sha256_of(*beside.files)} {attributes}"  # with what it has imported to answer
    return other


def _without_inference(model: nn.Module) -> None:
    """Replace weights that were made under inference_mode, which nothing outside of it may change or differentiate."""
    copies: dict[int, torch.Tensor] = {}
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for key, tensor in tensors.items():
                if tensor is not None and tensor.is_inference():
                    copy = tensor.detach().clone()
                    copy = nn.Parameter(copy, False) if isinstance(tensor, nn.Parameter) else copy
                    tensors[key] = copies.setdefault(id(tensor), copy)  # type: ignore[assignment]


def _importing(predict: Predict, beside: Beside) -> Predict:
    """The callable of a black box, whose imports look beside its file."""

    def importing(x: torch.Tensor) -> Any:
        with beside.importing():
            return predict(x)

    return importing


def _check(model: nn.Module, name: str) -> None:
    """Raise InputError for `image_shape` or `classes` that are none, and for parameters that have no shape yet."""
    shape, classes = getattr(model, "image_shape", None), getattr(model, "classes", None)
    if shape is not None and not (
        isinstance(shape, Sequence) and len(shape) == 3 and all(isinstance(n, int) and n > 0 for n in shape)
    ):
        raise InputError(
            f"image_shape of the model of {name} must be three positive ints (channels, height, width), got "
            f"{reprlib.repr(shape)}"
        )
    if classes is not None and (
        not isinstance(classes, Sequence) or isinstance(classes, str) or not all(isinstance(c, str) for c in classes)
    ):
        raise InputError(
            f"classes of the model of {name} must be a sequence of str, as many as it has logits, got "
            f"{reprlib.repr(classes)}"
        )
    for key, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise InputError(
                f"{key} of the model of {name} is not initialised yet: expected a factory that gives its model an "
                "image once, so that its lazy layers know their size"
            )


def _asked_for(factory: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Those of the `given` arguments that a function takes."""
    if isinstance(factory, type) and inspect.getattr_static(factory, "__init__") is nn.Module.__init__:
        return {}  # a class without an __init__ of its own: nn.Module's takes any name, to refuse it
    parameters = inspect.signature(factory).parameters.values()
    if any(each.kind is each.VAR_KEYWORD for each in parameters):
        return given
    return {key: value for key, value in given.items() if key in {each.name for each in parameters}}


@contextmanager
def _running(file: Path, name: str) -> Iterator[None]:
    """The user's code: its exceptions as InputError with file and line."""
    try:
        yield
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(
            f"{name} cannot be built: {line_in(file, error)}{type(error).__name__}: {one_line(error)}"
        ) from error
