"""Smoothing filters before the classifier, differentiable in torch."""

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advgan.core.errors import InputError
from advgan.defenses.base import checked_positive
from advgan.defenses.preprocessing import Preprocessing, clamp_straight_through

MEDIAN_SCALE = 0.05  # of the range [0, 1]


def neighbourhoods(x: Tensor, size: int) -> Tensor:
    """The `size` x `size` values around each pixel, (n, c, h, w, size^2), the border repeated."""
    padded = F.pad(x, (size // 2,) * 4, mode="replicate")
    return padded.unfold(2, size, 1).unfold(3, size, 1).flatten(4)


def soft_median(x: Tensor, size: int) -> Tensor:
    """A soft median of `neighbourhoods`, with a gradient to all values within about `MEDIAN_SCALE` of the median."""
    windows = neighbourhoods(x, size)
    distance = (windows - windows.median(-1, keepdim=True).values).detach().abs()
    return (windows * (-distance / MEDIAN_SCALE).softmax(-1)).sum(-1)


class Median(Preprocessing):
    """Each pixel the median of the `size` x `size` around it, the border repeated: scipy.ndimage.median_filter with
    mode "nearest" (Xu et al. 2018, section 3.2). Channels apart.

    Its gradient reaches one value of nine only, although neighbours replace it after a small step; adaptive attacks use
    that of `soft_median`.
    """

    spec_name = "median"
    differentiable = False

    def __init__(self, inner: nn.Module, size: int = 3) -> None:
        if size < 3 or size % 2 == 0:
            raise InputError(f"median:size must be odd and at least 3, a window with a middle, got {size}")
        super().__init__(inner, size=size)
        self.size = size

    def process(self, x: Tensor) -> Tensor:
        return neighbourhoods(x, self.size).median(-1).values

    def bpda_approximation(self, x: Tensor) -> Tensor:
        return soft_median(x, self.size)


class Gaussian(Preprocessing):
    """A Gaussian filter of `sigma` pixels, the border repeated: scipy.ndimage.gaussian_filter with mode "nearest"."""

    spec_name = "gaussian"

    def __init__(self, inner: nn.Module, sigma: float = 1.0) -> None:
        super().__init__(inner, sigma=checked_positive("gaussian:sigma", sigma, ", a number of pixels"))
        self.sigma = sigma

    def process(self, x: Tensor) -> Tensor:
        rows, columns = (_blur(side, self.sigma).to(x) for side in x.shape[-2:])
        return clamp_straight_through(rows @ x @ columns.T)


@lru_cache(maxsize=8)
def _blur(side: int, sigma: float) -> Tensor:
    """The matrix (side, side) that filters a column: scipy's filter of the identity's columns."""
    from scipy.ndimage import gaussian_filter1d  # a second to import

    return torch.from_numpy(gaussian_filter1d(np.eye(side), sigma, axis=0, mode="nearest"))


class TotalVariation(Preprocessing):
    """Near the image that minimises TV(z) + ||z - x||^2 / (2 weight): less noise, the same edges (Rudin et al. 1992).

    `steps` of Chambolle's projection from zero (2004, J. Math. Imaging and Vision 20, eq. 9), which are differentiable.
    Channels apart. Guo et al. 2018 defend with it, there on a random part of the pixels.
    """

    spec_name = "total-variation"

    def __init__(self, inner: nn.Module, weight: float = 0.1, steps: int = 20) -> None:
        checked_positive("total-variation:weight", weight)
        if steps < 1:
            raise InputError(f"total-variation:steps must be at least 1, got {steps}")
        super().__init__(inner, weight=weight, steps=steps)
        self.weight, self.steps = weight, steps

    def process(self, x: Tensor) -> Tensor:
        dual = torch.zeros_like(_slope(x))
        for _ in range(self.steps):
            slope = _slope(_divergence(dual) - x / self.weight)
            length = (slope.square().sum(0) + 1e-12).sqrt()  # the root has no derivative at 0
            dual = (dual + slope / 4) / (1 + length / 4)
        return clamp_straight_through(x - self.weight * _divergence(dual))


def _slope(x: Tensor) -> Tensor:
    """To the next pixel below and to the right, (2, n, c, h, w); zero at the border."""
    down = F.pad(x[..., 1:, :] - x[..., :-1, :], (0, 0, 0, 1))
    return torch.stack([down, F.pad(x[..., 1:] - x[..., :-1], (0, 1))])


def _divergence(p: Tensor) -> Tensor:
    """Minus the transpose of `_slope`, for p (2, n, c, h, w) that is zero at the border as slopes are."""
    down, right = p
    return down - F.pad(down, (0, 0, 1, 0))[..., :-1, :] + right - F.pad(right, (1, 0))[..., :-1]
