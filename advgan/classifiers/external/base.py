"""An external classifier as a target: its normalisation inside, its output reduced to logits."""

import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from advgan.classifiers.adapters import logits_of, two_logits
from advgan.classifiers.base import ImageShape
from advgan.classifiers.state_dicts import (
    find_by_name,
    find_by_order,
    load_weights_into,
    match_weights,
    read_file,
    weights_file,
)
from advgan.core.errors import InputError, one_line
from advgan.core.weights import device_of


class ExternalClassifier(nn.Module):
    """Images (n, c, h, w) float32 in [0, 1] -> logits (n, num_classes) of `model`, in eval mode and frozen.

    name         its name for `load_external`: "torchvision:resnet50"
    channels     of the images that `model` takes, None: those of `image_shape`; grey images are repeated
    mean, std    of the normalisation that `model` was trained with, per channel; None: none
    classes      the names of its classes, in the order of its logits; None: unknown
    resize       shorter side in pixels to which photos are resized before the centre crop of `image_shape`; None: the
                 crop's, or unknown
    head         name in `model` of a new last layer; None: as it was
    identity     what distinguishes it beside its weights: a file's SHA-256, an address
    import_context   context manager for calls of a model that imports modules late; None: none needed. Each call is in
                 it, or without `imports_late` only those after an import has failed

    The output of `model` is read by `logits_of`; one logit f, (n,) or (n, 1), becomes the logits (0, f) of two classes.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: nn.Module,
        name: str,
        image_shape: ImageShape,
        num_classes: int,
        *,
        channels: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        classes: Sequence[str] | None = None,
        resize: int | None = None,
        identity: str | None = None,
        import_context: Callable[[], AbstractContextManager[None]] | None = None,
    ) -> None:
        super().__init__()
        self.model, self.name, self.image_shape, self.num_classes = model, name, image_shape, num_classes
        self.import_context, self.imports_late = import_context, True
        self.channels = channels or image_shape[0]
        self.classes = None if classes is None else tuple(classes)
        self.resize = resize
        self.head: str | None = None
        for key, values, neutral in (("mean", mean, 0.0), ("std", std, 1.0)):
            column = torch.tensor([neutral] * self.channels if values is None else list(values), dtype=torch.float32)
            self.register_buffer(key, column.view(-1, 1, 1), persistent=False)
        self.normalises = mean is not None or std is not None
        # The same weights behind another normalisation are another classifier.
        inside = f"mean {mean} std {std}" if self.normalises else ""
        self.identity = f"{identity or ''} {inside}".strip() or None
        self.eval().requires_grad_(False)

    @property
    def config(self) -> dict[str, Any]:
        config = {"name": self.name, "image_shape": list(self.image_shape), "num_classes": self.num_classes}
        if self.head is None:
            return config
        return config | {"head": self.head} | ({} if self.classes is None else {"classes": list(self.classes)})

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] == 1 != self.channels:
            x = x.expand(-1, self.channels, -1, -1)
        x = (x - self.mean) / self.std if self.normalises else x.clone()  # a copy: it may be changed in place
        output = self.model(x) if self.import_context is None else self._call_in_context(x)
        logits: Tensor = logits_of(output)
        one_logit = self.num_classes == 2 and isinstance(logits, Tensor) and logits.shape in {(len(x),), (len(x), 1)}
        return two_logits(logits) if one_logit else logits

    def _call_in_context(self, x: Tensor) -> Any:
        assert self.import_context is not None, "called with a context only"
        if not self.imports_late:
            try:
                return self.model(x)
            except ImportError:
                self.imports_late = True
        with self.import_context():
            return self.model(x)


def resolve_shape(name: str, sizes: Sequence[int | None], image_shape: ImageShape | None) -> ImageShape:
    """The shape of the images of a model that takes `sizes`, None for any: that of the data, or (None) its own. Raises
    InputError for images that it does not accept, and for its own shape where that is not fixed."""
    taken = " x ".join("any" if size is None else str(size) for size in sizes)
    if len(sizes) != 3:
        raise InputError(f"{name} must take images (n, c, h, w), got an input of {1 + len(sizes)} dimensions")
    shape = sizes if image_shape is None else image_shape
    if None in shape:
        expected = "expected --image-size (in Python image_shape) or a data set"
        raise InputError(f"{name} takes images of {taken}, no fixed size, {expected}")
    if any(size not in (None, given) for size, given in zip(sizes, shape, strict=True)):
        resizable = None not in sizes and sizes[0] == shape[0]
        hint = f": --image-size {sizes[1]} (in Python image_shape) resizes a folder's" if resizable else ""
        raise InputError(f"{name} takes images of {taken}, got {' x '.join(map(str, shape))}{hint}")
    channels, height, width = shape
    return int(channels or 0), int(height or 0), int(width or 0)


def wrap_external(
    model: nn.Module,
    name: str,
    default_image_shape: ImageShape,
    image_shape: ImageShape | None = None,
    *,
    code: Path | None = None,
    **metadata: Any,
) -> ExternalClassifier:
    """`model` as a target, in float32; the number of classes is that of its output for one blank image.

    default_image_shape   of the images that it was made for
    image_shape   of the images that it will get; None: the default
    code          the user's Python file: errors name the line in it
    metadata      mean, std, classes, resize, identity, as of `ExternalClassifier`; no resize for images of another size

    Raises InputError if it does not accept the images (with the size that it accepts), or returns no logits.
    """
    shape = default_image_shape if image_shape is None else image_shape
    channels, height, width = default_image_shape
    if shape[0] not in (1, channels):
        raise InputError(f"{name} takes images of {channels} channels, got {shape[0]}")
    if shape[1:] != (height, width):
        metadata["resize"] = None
    classifier = ExternalClassifier(model.float(), name, shape, 0, channels=channels, **metadata)
    try:
        output = blank_output(classifier, shape)
    except Exception as error:  # a user's code may raise anything
        if shape[1:] != (height, width) and _accepts(classifier, (shape[0], height, width)):
            raise InputError(
                f"{name} takes images of {height} x {width} pixels, got {shape[1]} x {shape[2]} ({one_line(error)}): "
                f"--image-size {height} (in Python image_shape) resizes those of a folder"
            ) from error
        where = "" if code is None else line_in(code, error)
        guessed = code is not None and image_shape is None and getattr(model, "image_shape", None) is None
        hint = (
            "; its size is unknown: expected an attribute image_shape (c, h, w), or --image-size (in Python "
            "image_shape)"
            if guessed
            else ""
        )
        raise InputError(
            f"{name} cannot take images of shape {shape}: {where}{type(error).__name__}: {one_line(error)}{hint}"
        ) from error
    if not isinstance(output, Tensor) or output.shape not in {(1,), (1, output.shape[-1])}:
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise InputError(f"{name} must return logits of shape (1, classes), got {got}")
    classifier.num_classes = max(2, output.numel())  # one logit: two classes
    if classifier.classes is not None and len(classifier.classes) != classifier.num_classes:
        raise InputError(
            f"{name} has {classifier.num_classes} logits, expected as many class names, got {len(classifier.classes)}"
        )
    return classifier


def with_weights(
    build: Callable[[int], nn.Module], counts: Sequence[int], weights: Path | str, name: str
) -> tuple[nn.Module, int]:
    """`build(num_classes)` with weights from a file, for the first of the `counts` that fits; and this count.

    Raises InputError for a file without weights, or with those of another model.
    """
    path, by_order = weights_file(weights)
    file = read_file(path)
    for count in dict.fromkeys(counts):
        model = build(count)
        if (find_by_order if by_order else find_by_name)(model, file) is not None:
            break
    about = f"{name} with {' or '.join(map(str, dict.fromkeys(counts)))} classes"
    return load_weights_into(model, match_weights(model, file, about, by_order=by_order), file), count


def line_in(file: Path, error: BaseException) -> str:
    """The last line of `file` that an exception passed through: "model.py, line 12: "; "" where it did not."""
    if isinstance(error, SyntaxError) and error.filename == str(file):
        return f"{file}, line {error.lineno}: "
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    return f"{file}, line {lines[-1]}: " if lines else ""


@torch.no_grad()
def blank_output(classifier: ExternalClassifier, shape: ImageShape) -> Any:
    """Output for one black image."""
    device = device_of(classifier.model)
    return classifier.to(device)(torch.zeros(1, *shape, device=device))


def _accepts(classifier: ExternalClassifier, shape: ImageShape) -> bool:
    try:
        blank_output(classifier, shape)
    except Exception:  # any exception: not accepted
        return False
    return True
