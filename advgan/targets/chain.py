"""The parts of a classifier that is a chain of layers, beside PyTorch's own: what a mirror can turn around."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Normalised(nn.Module):
    """(x - mean) / std for each channel, by constants that are no part of the weights."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class Shortcut(nn.Module):
    """x with only every `stride`-th pixel, and `added` channels of zeros on both sides."""

    def __init__(self, stride: int, added: int) -> None:
        super().__init__()
        self.stride, self.added = stride, added

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.added, self.added)) if self.added else x


class Residual(nn.Module):
    """relu(shortcut(x) + inner(x)), where `inner` is a chain of its own."""

    shortcut: Shortcut

    def inner(self) -> list[nn.Module]:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.shortcut(x) + passed(self.inner(), x))


class Average(nn.Module):
    """The mean over all positions: (n, c, h, w) -> (n, c)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3))


def passed(layers: Iterable[nn.Module], x: Tensor) -> Tensor:
    """`x` after all `layers`, one after the other."""
    for layer in layers:
        x = layer(x)
    return x
