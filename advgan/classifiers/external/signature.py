"""What a file with a model in it says of its inputs: which images it takes, and how many of them at once."""

from __future__ import annotations

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

    least, most   images at once; most None: any number
    sizes         channels, height, width; None: any
    """

    file: str
    least: int
    most: int | None
    sizes: tuple[int | None, ...]

    def fit(self, image_shape: ImageShape | None) -> ImageShape:
        """The shape of the images that it will be given: those of the data, or (None) its own. Raises InputError
        where it cannot take those, or does not say which it takes."""
        taken = " x ".join("any" if size is None else str(size) for size in self.sizes)
        if len(self.sizes) != 3:
            raise InputError(
                f"{self.file} must take images (n, c, h, w), got an input of {1 + len(self.sizes)} dimensions"
            )
        shape = self.sizes if image_shape is None else image_shape
        if None in shape:
            raise InputError(
                f"{self.file} takes images of {taken} and nobody says of which size, expected data beside it"
            )
        if any(own not in (None, wanted) for own, wanted in zip(self.sizes, shape, strict=True)):
            got = " x ".join(map(str, shape))
            hint = (
                ""
                if None in self.sizes or self.sizes[0] != shape[0]
                else f": --image-size {self.sizes[1]} resizes a folder's"
            )
            raise InputError(f"{self.file} takes images of {taken}, got {got}{hint}")
        channels, height, width = shape
        return int(channels or 0), int(height or 0), int(width or 0)

    def run(self, model: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """`model(x)` of images `x` (n, c, h, w), in parts that it takes; where it wants more, black images follow."""
        answers = []
        for part in x.split(self.most or max(len(x), 1)):
            missing = max(self.least - len(part), 0)
            whole = torch.cat([part, part.new_zeros(missing, *part.shape[1:])]) if missing else part
            answers.append(model(whole)[: len(part)])
        return torch.cat(answers)


def sha256(files: Sequence[Path]) -> str:
    """SHA-256 of what is in the `files`, one after the other. Raises InputError for one that cannot be read."""
    try:
        return sha256_of(*files)
    except OSError as error:
        raise InputError(f"cannot read {error.filename}: {error.strerror or error}") from None


def check_alone(name: str, weights: Path | str | None) -> Path:
    """The file called `name`. Raises InputError where it is none, or `weights` are given beside it."""
    if weights is not None:
        raise InputError(f"{name} holds its own weights, expected no others, got {weights}")
    if not os.path.isfile(name):
        raise InputError(f"no model at {name}: expected a file")
    return Path(name)
