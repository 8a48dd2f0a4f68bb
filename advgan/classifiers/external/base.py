"""A classifier that somebody else made, as a target: its normalisation inside, its answer reduced to logits."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from advgan.classifiers.base import ImageShape
from advgan.classifiers.checks import two_logits
from advgan.classifiers.state_dicts import (
    find_by_name,
    find_by_order,
    load_weights_into,
    match_weights,
    read_file,
    weights_file,
)
from advgan.core.errors import InputError, one_line


class ExternalClassifier(nn.Module):
    """Images (n, c, h, w) float32 in [0, 1] -> logits (n, num_classes) of `model`, in eval mode and frozen.

    name         the words that load it again: "torchvision:resnet50"
    channels     of the images that `model` takes, None: as many as `image_shape` says; grey ones are repeated for it
    mean, std    of the normalisation that `model` was trained with, one for each channel; None: none
    classes      the names of its classes, in the order of its logits, where it knows them
    identity     what tells it from another one where its weights cannot be seen: a file's SHA-256, an address
    around       the block in which an import that the model makes only when it is called succeeds; None: any. Each call
                 is in it, or without `imports_late` only those after an import has failed

    What `model` answers is read by `logits_of`; one logit f, (n,) or (n, 1), becomes the logits (0, f) of two classes.
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
        identity: str | None = None,
        around: Callable[[], AbstractContextManager[None]] | None = None,
    ) -> None:
        super().__init__()
        self.model, self.name, self.image_shape, self.num_classes = model, name, image_shape, num_classes
        self.around, self.imports_late = around, True
        self.channels = channels or image_shape[0]
        self.classes = None if classes is None else tuple(classes)
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
        return {"name": self.name, "image_shape": list(self.image_shape), "num_classes": self.num_classes}

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] == 1 != self.channels:
            x = x.expand(-1, self.channels, -1, -1)
        x = (x - self.mean) / self.std if self.normalises else x.clone()  # a copy: it may be changed in place
        answer = self.model(x) if self.around is None else self._answer(x)
        logits: Tensor = logits_of(answer)
        one_logit = self.num_classes == 2 and isinstance(logits, Tensor) and logits.shape in {(len(x),), (len(x), 1)}
        return two_logits(logits) if one_logit else logits

    def _answer(self, x: Tensor) -> Any:
        assert self.around is not None, "without one it is not called"
        if not self.imports_late:
            try:
                return self.model(x)
            except ImportError:
                self.imports_late = True
        with self.around():
            return self.model(x)


def logits_of(answer: Any) -> Any:
    """The logits in what a model answers: its `.logits` (transformers), a dict's "logits", a tuple's one tensor."""
    if isinstance(answer, Mapping):
        return answer.get("logits", answer)
    if isinstance(answer, (tuple, list)) and len(answer) == 1:
        return answer[0]
    return getattr(answer, "logits", answer)


def wrap_external(
    model: nn.Module,
    name: str,
    natural: ImageShape,
    image_shape: ImageShape | None = None,
    *,
    code: Path | None = None,
    **about: Any,
) -> ExternalClassifier:
    """`model` as a target, in float32, after it has answered one blank image: what says how many classes it has.

    natural       images that it was made for; `image_shape` are those that it is to take, None: the same
    code          a file of the user's, whose line an error names
    about         mean, std, classes, identity, as of `ExternalClassifier`

    Raises InputError if it cannot take the images (and says at which size it can), or returns no logits.
    """
    shape = natural if image_shape is None else image_shape
    if shape[0] not in (1, natural[0]):
        raise InputError(f"{name} takes images of {natural[0]} channels, got {shape[0]}")
    other = ExternalClassifier(model.float(), name, shape, 0, channels=natural[0], **about)
    try:
        answer = _blank(other, shape)
    except Exception as error:  # anybody's code ends in any exception
        if shape[1:] != natural[1:] and _takes(other, (shape[0], *natural[1:])):
            size = f"{natural[1]} x {natural[2]}"
            raise InputError(
                f"{name} takes images of {size} pixels, got {shape[1]} x {shape[2]} ({one_line(error)}): "
                f"--image-size {natural[1]} brings those of a folder to that size"
            ) from error
        where = "" if code is None else line_in(code, error)
        raise InputError(
            f"{name} cannot take images of shape {shape}: {where}{type(error).__name__}: {one_line(error)}"
        ) from error
    if not isinstance(answer, Tensor) or answer.shape not in {(1,), (1, answer.shape[-1])}:
        got = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
        raise InputError(f"{name} must return logits of shape (1, classes), got {got}")
    other.num_classes = max(2, answer.numel())  # one logit tells two classes apart
    if other.classes is not None and len(other.classes) != other.num_classes:
        raise InputError(
            f"{name} has {other.num_classes} logits, expected as many class names, got {len(other.classes)}"
        )
    return other


def with_weights(
    build: Callable[[int], nn.Module], counts: Sequence[int], weights: Path | str, name: str
) -> tuple[nn.Module, int]:
    """`build(number of classes)` filled from the file `weights`, for the first of the `counts` that they fit; and that.

    Raises InputError for a file that holds no weights, or those of another model.
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
def _blank(other: ExternalClassifier, shape: ImageShape) -> Any:
    """What it answers one black image."""
    device = next((tensor.device for tensor in other.model.parameters()), torch.device("cpu"))
    return other.to(device)(torch.zeros(1, *shape, device=device))


def _takes(other: ExternalClassifier, shape: ImageShape) -> bool:
    try:
        _blank(other, shape)
    except Exception:  # the question is whether there is any
        return False
    return True
