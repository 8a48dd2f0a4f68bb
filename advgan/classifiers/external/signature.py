"""The input of a model in a file: shape of the images, and batch size."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from advgan.classifiers.base import ImageShape
from advgan.core.errors import InputError
from advgan.core.files import sha256_of


@dataclass(frozen=True)
class Signature:
    """The input of the model in `file`.

    min_batch, max_batch   limits of the batch size; max_batch None: none
    sizes         channels, height, width; None: any
    """

    file: str
    min_batch: int
    max_batch: int | None
    sizes: tuple[int | None, ...]

    def resolve_shape(self, image_shape: ImageShape | None) -> ImageShape:
        """The shape of its images: that of the data, or (None) its own. Raises InputError for images that it does not
        accept, and for its own shape where that is not fixed."""
        taken = " x ".join("any" if size is None else str(size) for size in self.sizes)
        if len(self.sizes) != 3:
            raise InputError(
                f"{self.file} must take images (n, c, h, w), got an input of {1 + len(self.sizes)} dimensions"
            )
        shape = self.sizes if image_shape is None else image_shape
        if None in shape:
            raise InputError(
                f"{self.file} takes images of {taken}, no fixed size, expected --image-size (in Python image_shape) or "
                "a data set"
            )
        if any(size not in (None, given) for size, given in zip(self.sizes, shape, strict=True)):
            got = " x ".join(map(str, shape))
            hint = (
                ""
                if None in self.sizes or self.sizes[0] != shape[0]
                else f": --image-size {self.sizes[1]} (in Python image_shape) resizes a folder's"
            )
            raise InputError(f"{self.file} takes images of {taken}, got {got}{hint}")
        channels, height, width = shape
        return int(channels or 0), int(height or 0), int(width or 0)

    def run(self, model: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """`model(x)` of images `x` (n, c, h, w) in batches of its size, the last one padded with black images."""
        outputs = []
        for part in x.split(self.max_batch or max(len(x), 1)):
            n_padding = max(self.min_batch - len(part), 0)
            padded = torch.cat([part, part.new_zeros(n_padding, *part.shape[1:])]) if n_padding else part
            outputs.append(model(padded)[: len(part)])
        return torch.cat(outputs)


def sha256(files: Sequence[Path]) -> str:
    """SHA-256 of the concatenated `files`. Raises InputError for one that cannot be read."""
    try:
        return sha256_of(*files)
    except OSError as error:
        raise InputError(f"cannot read {error.filename}: {error.strerror or error}") from None


def check_alone(name: str, weights: Path | str | None) -> Path:
    """The file `name`. Raises InputError for a missing file, and for separate `weights`."""
    if weights is not None:
        raise InputError(f"{name} holds its own weights, expected no others, got {weights}")
    if not os.path.isfile(name):
        raise InputError(f"no model at {name}: expected a file")
    return Path(name)
