"""Defenses that transform the image before the classifier, and their BPDA and EOT gradients."""

from io import BytesIO
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from advgan.core.errors import InputError
from advgan.defenses.base import EOT, Defended, adaptive


class Preprocessing(Defended):
    """logits(process(x)). A subclass implements `process`: images (n, c, h, w) in [0, 1] -> images of the same shape.

    differentiable   whether its own gradient is useful; otherwise adaptive attacks use that of
                     `bpda_approximation` (BPDA, Athalye et al. 2018, "Obfuscated gradients", section 4.1)
    draws            number of draws of the EOT mean, for random ones
    """

    differentiable: ClassVar[bool] = True
    draws = 10

    def process(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def bpda_approximation(self, x: Tensor) -> Tensor:
        """A differentiable approximation of process(x): x itself by default."""
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(self.process(x))

    def adaptive(self) -> nn.Module:
        bpda = BPDA(self)
        return EOT(bpda, self.draws) if self.random else bpda


class BPDA(nn.Module):
    """A `Preprocessing` with a useful gradient: its own, or that of its differentiable approximation."""

    def __init__(self, defense: Preprocessing) -> None:
        super().__init__()
        self.defense, self.inner = defense, adaptive(defense.inner)

    def forward(self, x: Tensor) -> Tensor:
        processed = self.defense.process(x)
        if not self.defense.differentiable:
            approximation = self.defense.bpda_approximation(x)
            processed = straight_through(processed, approximation)
        return self.inner(processed)


def straight_through(value: Tensor, x: Tensor) -> Tensor:
    """`value` with the gradient of `x`, of the same shape."""
    return x + (value - x).detach()


def clamp_straight_through(x: Tensor) -> Tensor:
    """`x` clamped to [0, 1] with the gradient of the identity: clamp has none at its bounds."""
    return straight_through(x.clamp(0, 1), x)


class BitDepth(Preprocessing):
    """`bits` per value instead of 8: round(x (2^bits - 1)) / (2^bits - 1)  (Xu et al. 2018, section 3.1)."""

    spec_name = "bit-depth"
    differentiable = False

    def __init__(self, inner: nn.Module, bits: int = 1) -> None:
        if not 1 <= bits <= 8:
            raise InputError(f"bit-depth:bits must be from 1 to 8, got {bits}")
        super().__init__(inner, bits=bits)
        self.levels = 2**bits - 1

    def process(self, x: Tensor) -> Tensor:
        return (x * self.levels).round() / self.levels


class Jpeg(Preprocessing):
    """The image written as a JPEG file of `quality` 1 to 100, and read again (Dziugaite et al. 2016; Guo et al. 2018).

    A real file, with 8 bits and chroma subsampling; its gradient is zero.
    """

    spec_name = "jpeg"
    differentiable = False

    def __init__(self, inner: nn.Module, quality: int = 75) -> None:
        if not 1 <= quality <= 100:
            raise InputError(f"jpeg:quality must be from 1 to 100, got {quality}")
        super().__init__(inner, quality=quality)
        self.quality = quality

    def process(self, x: Tensor) -> Tensor:
        levels = (x.detach() * 255).round().byte().cpu().numpy()
        files = [_jpeg_round_trip(image.transpose(1, 2, 0), self.quality) for image in levels]
        read = np.stack(files).transpose(0, 3, 1, 2) if files else levels
        return torch.from_numpy(read).to(x) / 255 + 0 * x  # x stays in the graph, with gradient 0


def _jpeg_round_trip(image: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """An image (h, w, c), grey or RGB, decoded from its JPEG file."""
    with BytesIO() as file:
        Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image).save(file, "JPEG", quality=quality)
        with Image.open(file) as read:
            return np.asarray(read).reshape(image.shape)
