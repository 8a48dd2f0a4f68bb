"""Wide ResNets of Zagoruyko & Komodakis 2016 (arXiv:1605.07146), the CIFAR models of Madry et al. and of AdvGAN."""

import torch.nn.functional as F
from torch import Tensor, nn

from advgan.classifiers.base import Classifier, ImageShape
from advgan.classifiers.cifar import NORMALISATION, Normalize

SIZES = {"cifar-wrn-34-10": (34, 10)}  # depth 6n + 4, how many times as wide as a ResNet


class Block(nn.Module):
    """x' + bn-relu-conv-bn-relu-conv(x), x' by a 1x1 convolution of the first relu where the shape changes."""

    def __init__(self, inner: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv1 = nn.Conv2d(inner, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.shortcut = None if inner == width else nn.Conv2d(inner, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        activation = F.relu(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(activation)
        return shortcut + self.conv2(F.relu(self.bn2(self.conv1(activation))))


class WideResNet(Classifier):
    """`cifar-wrn-34-10`: 46 million parameters. Pixels are normalised inside, as for the ResNets."""

    default_image_shape = (3, 32, 32)

    def __init__(self, name: str, image_shape: ImageShape, num_classes: int) -> None:
        super().__init__(name, image_shape, num_classes)
        depth, widen = SIZES[name]
        blocks, widths = (depth - 4) // 6, [16, 16 * widen, 32 * widen, 64 * widen]
        self.normalize = Normalize(*NORMALISATION[self.image_shape[0]])
        self.conv1 = nn.Conv2d(self.image_shape[0], 16, 3, padding=1, bias=False)
        self.layers = nn.Sequential(
            *(
                Block(inner if i == 0 else width, width, stride if i == 0 else 1)
                for inner, width, stride in zip(widths, widths[1:], (1, 2, 2), strict=False)
                for i in range(blocks)
            )
        )
        self.bn = nn.BatchNorm2d(widths[-1])
        self.linear = nn.Linear(widths[-1], num_classes)

    def logits(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.layers(self.conv1(self.normalize(x)))))
        return self.linear(x.mean(dim=(2, 3)))
