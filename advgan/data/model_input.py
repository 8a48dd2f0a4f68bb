"""The input of a classifier of one size, made of photos of any size; and the linear map that makes it."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from advgan.data.image_file import check_sizes, cropped


class Sampling(NamedTuple):
    """The places of the output pixels along one side of a photo: pixel i has its centre at start + (i + 1/2) step, in
    pixels of the photo."""

    start: float
    step: float


@dataclass(frozen=True)
class ModelInput:
    """Photos resized (bilinear, antialiased) until the shorter side has `resize` pixels (None: until `height` x `width`
    is just covered), and the centre crop of `height` x `width`, as `advgan.data` reads the files of a folder.

    Raises InputError as `check_sizes`.
    """

    height: int
    width: int
    resize: int | None = None

    def __post_init__(self) -> None:
        check_sizes(min(self.height, self.width), None)
        check_sizes(max(self.height, self.width), self.resize)

    def __str__(self) -> str:
        size = f"{self.width} x {self.height}"
        if self.resize is None:
            return f"the largest centre crop, resized to {size}"
        return f"shorter side to {self.resize}, centre crop to {size}"

    def __call__(self, photo: Image.Image) -> Image.Image:
        """The input that is made of a photo."""
        if self.resize is None and photo.size == (self.width, self.height):
            return photo
        return cropped(photo, self.width, self.height, self.resize)

    def weights(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """(rows, columns) for a photo of `height` x `width` pixels: its input is rows @ photo @ columns.T, up to the
        rounding to 8 bits. rows is (self.height, height), columns (self.width, width), float64; each row sums to 1."""
        sides = zip(self._sampling(height, width), (self.height, self.width), (height, width), strict=True)
        rows, columns = (_triangle(sampling, n_out, n_in) for sampling, n_out, n_in in sides)
        return rows, columns

    def _sampling(self, height: int, width: int) -> tuple[Sampling, Sampling]:
        """Of the rows and of the columns."""
        short = min(height, width)
        if self.resize is None:  # the largest rectangle of this shape in the middle
            step = min(height / self.height, width / self.width)
            starts = ((side - step * n) / 2 for side, n in ((height, self.height), (width, self.width)))
            rows, columns = (Sampling(start, step) for start in starts)
            return rows, columns
        samplings = []
        for side, n in ((height, self.height), (width, self.width)):
            resized = int(self.resize * side / short)
            step = side / resized
            samplings.append(Sampling(round((resized - n) / 2) * step, step))
        return samplings[0], samplings[1]


def _triangle(sampling: Sampling, n_out: int, n_in: int) -> Tensor:
    """Weights (n_out, n_in) of linear interpolation, wide enough to average over all pixels where they become fewer."""
    centres = sampling.start + (torch.arange(n_out, dtype=torch.float64) + 0.5) * sampling.step
    pixels = torch.arange(n_in, dtype=torch.float64) + 0.5
    weights = (1 - (pixels - centres[:, None]).abs() / max(sampling.step, 1.0)).clamp_min(0)
    return weights / weights.sum(1, keepdim=True)
