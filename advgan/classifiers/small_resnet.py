"""A fast classifier, as the guide of a generator that is to be faster than a forward pass of its target."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from advgan.classifiers.base import Classifier, ImageShape

SIZES = {"quick": 24}  # name -> channels at half the image's resolution


class ConvBN(nn.Module):
    """A convolution without bias, batch normalisation and, with `relu`, ReLU.

    In eval mode the normalisation is folded into the convolution's weights at each call, in a tenth of its time.
    """

    def __init__(self, inner: int, width: int, size: int = 3, stride: int = 1, *, relu: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inner, width, size, stride, padding=1, bias=False)
        self.norm, self.relu = nn.BatchNorm2d(width), relu

    def forward(self, x: Tensor) -> Tensor:
        mean, variance = self.norm.running_mean, self.norm.running_var
        hooked = bool(self.conv._forward_hooks)  # e.g. by a learned backward pass
        if self.training or hooked or mean is None or variance is None:
            x = self.norm(self.conv(x))
        else:
            scale = self.norm.weight * torch.rsqrt(variance + self.norm.eps)
            weight, bias = self.conv.weight * rearrange(scale, "o -> o 1 1 1"), self.norm.bias - mean * scale
            x = F.conv2d(x, weight, bias, self.conv.stride, self.conv.padding)
        return F.relu(x, inplace=True) if self.relu else x


class Block(nn.Module):
    """relu(x + F(x)), 3x3, as in a ResNet (He et al. 2016)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(ConvBN(width, width), ConvBN(width, width, relu=False))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.inner(x), inplace=True)


class SmallResNet(Classifier):
    """`quick`: the image is halved thrice while its channels double, with a residual block at a quarter and an eighth.

    A fifth of the multiplications of `cifar-resnet20`, nearly all of them in wide layers at few positions, which a CPU
    does fastest.
    """

    default_image_shape = (3, 32, 32)

    def __init__(self, name: str, image_shape: ImageShape, num_classes: int) -> None:
        super().__init__(name, image_shape, num_classes)
        width = SIZES[name]
        self.body = nn.Sequential(
            ConvBN(self.image_shape[0], width, 4, stride=2),
            ConvBN(width, 2 * width, stride=2),
            Block(2 * width),
            ConvBN(2 * width, 4 * width, stride=2),
            Block(4 * width),
        )
        self.linear = nn.Linear(4 * width, num_classes)

    def logits(self, x: Tensor) -> Tensor:
        return self.linear(self.body(x - 0.5).mean(dim=(2, 3)))
