"""The MNIST classifiers that the literature attacks, layer by layer. Digits in [0, 1] need no normalisation."""

import math
from collections.abc import Iterable

from torch import Tensor, nn

from advgan.classifiers.base import Classifier, ImageShape
from advgan.core.errors import InputError


def model_a(channels: int, num_classes: int) -> nn.Sequential:
    """Model A of Tramer et al. 2018 (arXiv:1705.07204, table 5)."""
    return nn.Sequential(
        *(nn.Conv2d(channels, 64, 5), nn.ReLU(), nn.Conv2d(64, 64, 5), nn.ReLU(), nn.Dropout(0.25)),
        *(nn.Flatten(), nn.LazyLinear(128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, num_classes)),
    )


def model_b(channels: int, num_classes: int) -> nn.Sequential:
    """Model B of Tramer et al. 2018; padding 3 is TensorFlow's "same" for images of even size."""
    return nn.Sequential(
        *(nn.Dropout(0.2), nn.Conv2d(channels, 64, 8, stride=2, padding=3), nn.ReLU()),
        *(nn.Conv2d(64, 128, 6, stride=2), nn.ReLU(), nn.Conv2d(128, 128, 5), nn.ReLU(), nn.Dropout(0.5)),
        *(nn.Flatten(), nn.LazyLinear(num_classes)),
    )


def model_c(channels: int, num_classes: int) -> nn.Sequential:
    """The MNIST net of Carlini & Wagner 2017 (arXiv:1608.04644, table 1), which AdvGAN's followers use as C."""
    return nn.Sequential(
        *(nn.Conv2d(channels, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.LazyLinear(200), nn.ReLU(), nn.Dropout(0.5)),
        *(nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, num_classes)),
    )


def model_tutorial(channels: int, num_classes: int) -> nn.Sequential:
    """The net of the PyTorch MNIST example (github.com/pytorch/examples, mnist/main.py)."""
    return nn.Sequential(
        *(nn.Conv2d(channels, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.25)),
        *(nn.Flatten(), nn.LazyLinear(128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, num_classes)),
    )


def model_small(channels: int, num_classes: int) -> nn.Sequential:
    """The small net of Wong & Kolter 2018 (arXiv:1711.00851), on which fast adversarial training is measured."""
    return nn.Sequential(
        *(nn.Conv2d(channels, 16, 4, stride=2, padding=1), nn.ReLU()),
        *(nn.Conv2d(16, 32, 4, stride=2, padding=1), nn.ReLU()),
        *(nn.Flatten(), nn.LazyLinear(100), nn.ReLU(), nn.Linear(100, num_classes)),
    )


NETS = {
    "mnist-a": model_a,
    "mnist-b": model_b,
    "mnist-c": model_c,
    "mnist-tutorial": model_tutorial,
    "mnist-small": model_small,
}


def flat_features(layers: Iterable[nn.Module], image_shape: ImageShape) -> int:
    """Number of features per image at the first Flatten, after convolutions and pools; 0 for too small an image."""
    channels, *sides = image_shape
    for layer in layers:
        if isinstance(layer, nn.Flatten):
            break
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d):
            kernel, stride, padding = layer.kernel_size, layer.stride, layer.padding
            sizes = [value if isinstance(value, tuple) else (value, value) for value in (kernel, stride, padding)]
            sides = [(side + 2 * p - k) // s + 1 for side, k, s, p in zip(sides, *sizes, strict=True)]
            if min(sides) < 1:
                return 0
        if isinstance(layer, nn.Conv2d):
            channels = layer.out_channels
    return int(channels * math.prod(sides))


class MnistNet(Classifier):
    """One of `NETS`, for images of any size with an output of its layers. Raises InputError for smaller ones."""

    default_image_shape = (1, 28, 28)

    def __init__(self, name: str, image_shape: ImageShape, num_classes: int) -> None:
        super().__init__(name, image_shape, num_classes)
        self.layers = NETS[name](self.image_shape[0], num_classes)
        width = flat_features(self.layers, self.image_shape)
        if width < 1:
            size = "x".join(map(str, self.image_shape[1:]))
            raise InputError(f"{name} was made for 28x28 images, and {size} is too small for its layers")
        i, lazy = next((i, layer) for i, layer in enumerate(self.layers) if isinstance(layer, nn.LazyLinear))
        self.layers[i] = nn.Linear(width, lazy.out_features)

    def logits(self, x: Tensor) -> Tensor:
        return self.layers(x)
