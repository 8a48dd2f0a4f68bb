"""Shifted and mirrored training images, equal after a resume and for any number of processes."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from advgan.core.errors import InputError


def check_shift(shift: int, image_shape: tuple[int, int, int]) -> None:
    """Raise InputError for a `shift` that would move an image (c, h, w) out of its frame."""
    side = min(image_shape[1:])
    if shift >= side:
        raise InputError(f"shift must be below the image's side, {side} pixels, got {shift}")


def augment(x: Tensor, *, shift: int, flip: bool, seed: int, step: int, rank: int = 0, world: int = 1) -> Tensor:
    """Images `x` (n, c, h, w), each moved by up to `shift` pixels each way (zeros come in at the border) and, with
    `flip`, mirrored or not.

    `x` is the part of process `rank` of a batch split over `world` processes. The moves are a function of seed and
    step, drawn for the whole batch.
    """
    if not shift and not flip:
        return x
    rng = np.random.default_rng((seed, step))
    n, _, height, width = x.shape
    part = slice(rank * n, (rank + 1) * n)
    down, right = torch.from_numpy(rng.integers(0, 2 * shift + 1, (2, n * world)))[:, part]
    flipped = torch.from_numpy(rng.random(n * world) < 0.5)[part]
    rows = down[:, None] + torch.arange(height)
    columns = right[:, None] + torch.arange(width)
    if flip:
        columns = torch.where(flipped[:, None], columns.flip(1), columns)
    padded = F.pad(x, [shift] * 4).movedim(1, -1)
    return padded[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]].movedim(-1, 1)
