"""A classifier made for speed: the guide of a generator that must not pay for a forward pass of its target."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from advgan.targets.base import ImageShape, Target

SIZES = {"quick": 24}  # name -> channels at half the image's resolution


def normal(inner: int, width: int, size: int = 3, stride: int = 1, *, relu: bool = True) -> nn.Sequential:
    """A convolution without bias, batch normalisation and, if wanted, ReLU."""
    conv = nn.Conv2d(inner, width, size, stride, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(width), *([nn.ReLU(inplace=True)] if relu else []))


class Block(nn.Module):
    """relu(x + F(x)), 3x3, as in a ResNet (He et al. 2016)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(normal(width, width), normal(width, width, relu=False))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.inner(x), inplace=True)


class Quick(Target):
    """`quick`: the image is halved thrice while its channels double, with a residual block at a quarter and an eighth.

    A fifth of the multiplications of `cifar-resnet20`, nearly all of them in wide layers at few positions, which a CPU
    does fastest.
    """

    natural_shape = (3, 32, 32)

    def __init__(self, name: str, image_shape: ImageShape, num_classes: int) -> None:
        super().__init__(name, image_shape, num_classes)
        width = SIZES[name]
        self.body = nn.Sequential(
            normal(self.image_shape[0], width, 4, stride=2),
            normal(width, 2 * width, stride=2),
            Block(2 * width),
            normal(2 * width, 4 * width, stride=2),
            Block(4 * width),
        )
        self.linear = nn.Linear(4 * width, num_classes)

    def logits(self, x: Tensor) -> Tensor:
        return self.linear(self.body(2 * x - 1).mean(dim=(2, 3)))
