"""Defenses that crop, shrink or shift the image before the classifier; attacks may depend on its exact position."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advgan.defenses.base import checked_share
from advgan.defenses.preprocessing import Preprocessing, clamp_straight_through

SIDES = "of each side of the image"


class CropResize(Preprocessing):
    """The middle of the image, `share` of each side, enlarged to the whole (after Guo et al. 2018, section 3.1).

    Bilinear, as in all of these.
    """

    spec_name = "crop-resize"

    def __init__(self, inner: nn.Module, share: float = 0.9) -> None:
        super().__init__(inner, share=checked_share(f"{self.spec_name}:share", share, SIDES))
        self.share = share

    def process(self, x: Tensor) -> Tensor:
        return cropped(x, self.share, 0.5, 0.5)


class RandomCrop(CropResize):
    """The same from a random place, another for each image (Guo et al. 2018, section 3.1)."""

    spec_name = "random-crop"
    random = True

    def process(self, x: Tensor) -> Tensor:
        draws = torch.rand(len(x), 2, generator=self.rng).tolist()
        return torch.cat(
            [x[:0], *(cropped(image, self.share, *at) for image, at in zip(x.split(1), draws, strict=False))]
        )


class RandomWindow(Preprocessing):
    """Each image through a window of random size, `share` of each side or more, at a random place."""

    random = True

    def __init__(self, inner: nn.Module, share: float, window: Callable[[Tensor, float, float, float], Tensor]) -> None:
        """`window` of an image (1, c, h, w), share and place as of `_place`."""
        super().__init__(inner, share=checked_share(f"{self.spec_name}:share", share, SIDES))
        self.share, self.window = share, window

    def process(self, x: Tensor) -> Tensor:
        draws = torch.rand(len(x), 3, generator=self.rng).tolist()
        shares = (self.share + (1 - self.share) * draw[0] for draw in draws)
        images = zip(x.split(1), shares, draws, strict=False)
        return torch.cat([x[:0], *(self.window(image, share, *place) for image, share, (_, *place) in images)])


class RandomPad(RandomWindow):
    """Each image shrunk to a random size, `share` of each side or more, at a random place among zeros (Xie et al. 2018,
    "Mitigating adversarial effects through randomization", section 3; there enlarged, with a net for larger images).
    """

    spec_name = "random-pad"

    def __init__(self, inner: nn.Module, share: float = 0.8) -> None:
        super().__init__(inner, share, _padded)


def cropped(x: Tensor, share: float, down: float, right: float) -> Tensor:
    """A window of the images `x` (n, c, h, w), enlarged to the whole."""
    h, w = x.shape[-2:]
    (top, height), (left, width) = _place(h, share, down), _place(w, share, right)
    return resized(x[..., top : top + height, left : left + width], (h, w))


def _padded(x: Tensor, share: float, down: float, right: float) -> Tensor:
    """The images `x` (n, c, h, w), shrunk into a window, zeros around it."""
    h, w = x.shape[-2:]
    (top, height), (left, width) = _place(h, share, down), _place(w, share, right)
    return F.pad(resized(x, (height, width)), (left, w - left - width, top, h - top - height))


def _place(side: int, share: float, at: float) -> tuple[int, int]:
    """Start of a window of `share` of a `side`, at fraction `at` in [0, 1) of the positions; and its length."""
    length = max(round(side * share), 1)
    return int(at * (side - length + 1)), length


def resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    if not len(x):  # which interpolate does not take
        return x.new_empty(*x.shape[:2], *size)
    return clamp_straight_through(F.interpolate(x, size, mode="bilinear", align_corners=False))
