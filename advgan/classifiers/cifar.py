"""The CIFAR ResNets of He et al. 2016: 6n + 2 layers, widths 16, 32, 64, shortcuts without parameters ("option A")."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advgan.classifiers.base import Classifier, ImageShape

DEPTHS = {f"cifar-resnet{depth}": depth for depth in (20, 32, 44, 56, 110)}

# Mean and standard deviation by number of channels: ImageNet's, with which the public CIFAR weights were trained; for
# grey images the same averaged over the channels.
NORMALISATION = {3: ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), 1: ((0.449,), (0.226,))}


class Normalize(nn.Module):
    """(x - mean) / std for each channel, by constants that are no part of the weights."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class Block(nn.Module):
    """relu(x' + F(x)), x' being x with every second pixel dropped and zero channels added where the shape changes."""

    def __init__(self, inner: int, width: int) -> None:
        super().__init__()
        self.stride, self.added = (1, 0) if inner == width else (2, (width - inner) // 2)
        self.conv1 = nn.Conv2d(inner, width, 3, self.stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        if self.added:
            shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.added, self.added))
        return F.relu(shortcut + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class CifarResNet(Classifier):
    """`cifar-resnet20` and deeper ones (arXiv:1512.03385, section 4.2); parameter names as in public weights.

    Pixels are normalised inside, by constants that are no part of the weights: third-party weights load unchanged.
    """

    default_image_shape = (3, 32, 32)

    def __init__(self, name: str, image_shape: ImageShape, num_classes: int) -> None:
        super().__init__(name, image_shape, num_classes)
        blocks = (DEPTHS[name] - 2) // 6
        self.normalize = Normalize(*NORMALISATION[self.image_shape[0]])
        self.conv1 = nn.Conv2d(self.image_shape[0], 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*(Block(16, 16) for _ in range(blocks)))
        self.layer2 = nn.Sequential(*(Block(16 if i == 0 else 32, 32) for i in range(blocks)))
        self.layer3 = nn.Sequential(*(Block(32 if i == 0 else 64, 64) for i in range(blocks)))
        self.linear = nn.Linear(64, num_classes)

    def logits(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(self.normalize(x))))
        return self.linear(self.layer3(self.layer2(self.layer1(x))).mean(dim=(2, 3)))
