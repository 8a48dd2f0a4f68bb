"""A perturbation of a classifier's input carried back to the photo that the input is made of."""

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from advgan.core.errors import InputError
from advgan.data.model_input import ModelInput

ITERATIONS = 12  # of the projected gradient
CELLS = 2  # unknowns along a side of an input pixel, at least
BAYER = 8  # side of the dither matrix


def carry_back(photo: Tensor, delta: Tensor, model_input: ModelInput, eps: float | None = None) -> Tensor:
    """An adversarial photo whose input differs from that of `photo` by `delta`, as nearly as ball and box allow.

    The input of a photo p is D p, D linear (`ModelInput.weights`). Minimises ||D d - delta||_2 over the perturbations d
    of the photo with ||d||_inf <= eps and photo + d in the box, by the accelerated projected gradient (FISTA, Beck and
    Teboulle 2009, with constant step), on cells of several pixels where the photo is much larger than the input. d is
    dithered to whole grey levels, since its means over many pixels count. D averages: a perturbation of the photo
    within eps moves the input by less than eps where neighbours of `delta` differ in sign.

    photo   uint8 (c, H, W)
    delta   float (c, model_input.height, model_input.width), in units of [0, 1]
    eps     linf radius of the photo's perturbation; None: the box alone

    Returns uint8 (c, H, W), equal to `photo` outside of the crop. Raises InputError for other shapes.
    """
    size = model_input.height, model_input.width
    if photo.ndim != 3 or photo.dtype != torch.uint8 or delta.shape != (photo.shape[0], *size):
        raise InputError(
            f"expected a uint8 photo (c, h, w) and a perturbation (c, {size[0]}, {size[1]}), got {photo.dtype} "
            f"{tuple(photo.shape)} and {tuple(delta.shape)}"
        )
    weights = model_input.weights(*photo.shape[1:])
    used = [(side > 0).any(0).nonzero() for side in weights]  # the photo's pixels that count
    (top, bottom), (left, right) = spans = [(int(side[0]), int(side[-1]) + 1) for side in used]
    part = photo[:, top:bottom, left:right]
    rows, columns = (side[:, first:last] for side, (first, last) in zip(weights, spans, strict=True))
    most = 255 if eps is None else min(255, math.floor(255 * eps + 1e-4))  # grey levels
    levels = _dithered(_solve(part, 255 * delta.cpu().float(), rows, columns, most), part.shape[1:])
    changed = photo.clone()
    changed[:, top:bottom, left:right] = (part.short() + levels).clamp_(0, 255).to(torch.uint8)
    return changed


class _Cells:
    """D on a photo that is constant in cells: `sides` of a cell in pixels, `forward` and `adjoint` (h, w, c)."""

    def __init__(self, rows: Tensor, columns: Tensor) -> None:
        self.sides = [max(1, side.shape[1] // (CELLS * len(side))) for side in (rows, columns)]
        pooled = [  # the sums of the weights in cells of `length` pixels
            F.pad(side, (0, -side.shape[1] % length)).unflatten(1, (-1, length)).sum(2)
            for side, length in zip((rows, columns), self.sides, strict=True)
        ]
        self.lipschitz = math.prod(float(torch.linalg.matrix_norm(side, 2)) ** 2 for side in pooled)
        self.forward, self.adjoint = _separable(*pooled), _separable(*(side.T for side in pooled))

    def mean(self, image: Tensor) -> Tensor:
        """The means of an image (c, h, w) in the cells, (h, w, c)."""
        height, width = self.sides
        padded = F.pad(image[None], (0, -image.shape[2] % width, 0, -image.shape[1] % height), mode="replicate")
        return F.avg_pool2d(padded, (height, width))[0].permute(1, 2, 0).contiguous()

    def expand(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        """The image (c, *size) of one value (h, w, c) in each cell."""
        height, width = self.sides
        whole = image.permute(2, 0, 1).repeat_interleave(height, 1).repeat_interleave(width, 2)
        return whole[:, : size[0], : size[1]]


def _separable(rows: Tensor, columns: Tensor) -> Callable[[Tensor], Tensor]:
    """image (h, w, c) -> rows @ image @ columns.T in each channel; sparse: a few pixels count for each."""
    sides = [side.float().to_sparse() for side in (rows, columns)]

    def run(image: Tensor) -> Tensor:
        for side in sides:
            image = torch.sparse.mm(side, image.flatten(1)).unflatten(1, image.shape[1:]).transpose(0, 1).contiguous()
        return image

    return run


def _solve(part: Tensor, delta: Tensor, rows: Tensor, columns: Tensor, most: int) -> Tensor:
    """The perturbation of `part` in grey levels, (c, h, w) float."""
    cells, x, goal = _Cells(rows, columns), part.float(), delta.permute(1, 2, 0).contiguous()
    low, high = -cells.mean(x.clamp_max(most)), cells.mean((255 - x).clamp_max(most))
    d, momentum, t = torch.zeros_like(low), torch.zeros_like(low), 1.0
    for _ in range(ITERATIONS):
        residual = goal - cells.forward(momentum)
        step = momentum.add_(cells.adjoint(residual), alpha=1 / cells.lipschitz).clamp_(low, high)
        t_next = (1 + math.sqrt(1 + 4 * t * t)) / 2
        momentum = step + (t - 1) / t_next * (step - d)
        d, t = step, t_next
    return cells.expand(d, (part.shape[1], part.shape[2]))


def _dithered(levels: Tensor, size: torch.Size) -> Tensor:
    """Whole numbers int16 (c, h, w) with the means of `levels`, by ordered dithering (Bayer 1973)."""
    height, width = size
    threshold = torch.from_numpy(np.tile(_bayer(BAYER), (-(-height // BAYER), -(-width // BAYER))))[:height, :width]
    return (levels + threshold).floor_().short()


def _bayer(n: int) -> np.ndarray:
    """Thresholds (n, n) in (0, 1), each once: n a power of 2."""
    matrix = np.zeros((1, 1))
    while len(matrix) < n:
        matrix = np.block([[4 * matrix, 4 * matrix + 2], [4 * matrix + 3, 4 * matrix + 1]])
    return ((matrix + 0.5) / n**2).astype(np.float32)
