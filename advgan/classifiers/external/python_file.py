"""A classifier returned by a function in the user's Python file: `FILE.py:FACTORY`. Loading it runs that file.

def factory():                     # or factory(image_shape, num_classes): those of the data are passed
    return model                   # an nn.Module: images (n, c, h, w) in [0, 1] -> logits (n, classes); or a BlackBox

The model may have `image_shape`, the shape of images that it was made for, `resize`, the shorter side to which photos
are resized before the centre crop of that shape, and `classes`, the names of its classes, or "imagenet" for ImageNet's.
"""

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

from advgan.classifiers.adapters import Scripted, classes_of, is_recorded
from advgan.classifiers.base import ImageShape
from advgan.classifiers.black_box import BlackBox, Predict
from advgan.classifiers.external.base import ExternalClassifier, line_in, wrap_external
from advgan.classifiers.external.imports import ImportFolder, attributes_digest, preserve_global_state
from advgan.classifiers.state_dicts import load_weights_into, match_weights, read_file, weights_file
from advgan.core.errors import InputError, did_you_mean, one_line
from advgan.core.files import sha256_of
from advgan.core.imagenet import class_names
from advgan.core.weights import check_weights

MAX_SIDE = 2**16  # of an image, and of its channels
IMAGENET = "imagenet"  # the attribute `classes` of a model with ImageNet's 1,000 classes, in their order


def load(
    name: str, weights: Path | str | None, *, image_shape: ImageShape | None, num_classes: int | None
) -> ExternalClassifier | BlackBox:
    """As `load_external`, by running the file. Raises InputError, with file and line, for errors in it.

    The output may depend on more than the weights: the fingerprint covers the text of the file and of those beside it
    that are imported or read up to the first forward pass, plain attributes of the model, and constants of modules and
    closures. Global switches that the file changes (gradients off, another default dtype, a seed) are restored.
    """
    path, _, factory_name = name.rpartition(":")
    if not os.path.isfile(path):
        raise InputError(f"no Python file {path}")
    file = Path(path).resolve()
    import_folder = ImportFolder(file)
    with _running(file, name), preserve_global_state(), import_folder.importing():
        module = import_folder.load()
        factory = getattr(module, factory_name, None)
        if not callable(factory):
            near = did_you_mean(
                factory_name, [public_name for public_name in vars(module) if not public_name.startswith("_")]
            )
            raise InputError(f"{path} has no function {factory_name!r}{near}")
        arguments = {"image_shape": image_shape, "num_classes": num_classes}
        model = factory if isinstance(factory, nn.Module) else factory(**_accepted_arguments(factory, arguments))
    if not isinstance(model, nn.Module):
        raise InputError(f"{name} must return an nn.Module, got {type(model).__name__}")
    _replace_inference_tensors(model)
    _check_model(model, name)
    attributes = attributes_digest(model, import_folder.named)
    if weights is not None:
        weights_path, by_order = weights_file(weights)
        state = read_file(weights_path)
        load_weights_into(model, match_weights(model, state, name, by_order=by_order), state)
    default_image_shape = getattr(model, "image_shape", None) or image_shape or (3, 224, 224)
    if isinstance(model, BlackBox):  # e.g. a service with another protocol
        model.name, model.image_shape = name, model.image_shape or image_shape
        model.identity = f"{sha256_of(*import_folder.files)} {attributes}"
        model.predict = _with_imports(model.predict, import_folder)
        return model
    model = Scripted(model) if is_recorded(model) else model
    resize = getattr(model, "resize", None)
    named_imagenet = isinstance(getattr(model, "classes", None), str)  # the only text that `_check_model` accepts
    classes, imported = class_names() if named_imagenet else classes_of(model), len(import_folder.modules)
    classifier = wrap_external(
        model,
        name,
        tuple(default_image_shape),
        image_shape,
        code=file,
        import_context=import_folder.importing,
        classes=classes,
        resize=resize if type(resize) is int else None,  # else a method, or a layer
    )
    classifier.imports_late = len(import_folder.modules) > imported
    # With modules imported by the first forward pass.
    classifier.identity = f"{sha256_of(*import_folder.files)} {attributes}"
    return classifier


def _replace_inference_tensors(model: nn.Module) -> None:
    """Replace weights created under inference_mode, which cannot be changed or differentiated outside of it."""
    copies: dict[int, torch.Tensor] = {}
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for key, tensor in tensors.items():
                if tensor is not None and not is_lazy(tensor) and tensor.is_inference():
                    copy = tensor.detach().clone()
                    copy = nn.Parameter(copy, False) if isinstance(tensor, nn.Parameter) else copy
                    tensors[key] = copies.setdefault(id(tensor), copy)  # type: ignore[assignment]


def _with_imports(predict: Predict, import_folder: ImportFolder) -> Predict:
    """`predict` of a black box, whose imports are searched beside its file first."""

    def predict_with_imports(x: torch.Tensor) -> Any:
        with import_folder.importing():
            return predict(x)

    return predict_with_imports


def _check_model(model: nn.Module, name: str) -> None:
    """Raise InputError for an invalid `image_shape` or `classes`, and for parameters without a shape."""
    shape, classes = getattr(model, "image_shape", None), getattr(model, "classes", None)
    if shape is not None and not (
        isinstance(shape, Sequence) and len(shape) == 3 and all(isinstance(n, int) and 0 < n <= MAX_SIDE for n in shape)
    ):
        raise InputError(
            f"image_shape of the model of {name} must be three positive ints (channels, height, width), got "
            f"{reprlib.repr(shape)}"
        )
    names = not (isinstance(classes, int) or callable(classes))  # else their number, or a layer
    named = classes_of(model) is not None or (isinstance(classes, str) and classes == IMAGENET)
    if classes is not None and names and not named:
        raise InputError(
            f"classes of the model of {name} must be a list of str, or a dict from 0 on, as many as it has logits, or "
            f"{IMAGENET!r}, got {reprlib.repr(classes)}"
        )
    check_weights(model)


def _accepted_arguments(factory: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """Those of the `arguments` that a function accepts."""
    if isinstance(factory, type) and inspect.getattr_static(factory, "__init__") is nn.Module.__init__:
        return {}  # no __init__ of its own: nn.Module's accepts any name, and then raises
    parameters = inspect.signature(factory).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return arguments
    return {key: value for key, value in arguments.items() if key in {parameter.name for parameter in parameters}}


@contextmanager
def _running(file: Path, name: str) -> Iterator[None]:
    """Exceptions of the user's code in the block as InputError with file and line."""
    try:
        yield
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(
            f"{name} cannot be built: {line_in(file, error)}{type(error).__name__}: {one_line(error)}"
        ) from error
