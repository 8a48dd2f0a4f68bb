"""The MNIST classifiers that the literature attacks, layer by layer. Digits in [0, 1] need no normalisation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from advgan.errors import InputError
from advgan.targets.base import ImageShape, Target


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
        *(
            nn.Conv2d(channels, 16, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 4, stride=2, padding=1),
            nn.ReLU(),
        ),
        *(nn.Flatten(), nn.LazyLinear(100), nn.ReLU(), nn.Linear(100, num_classes)),
    )


NETS = {
    "mnist-a": model_a,
    "mnist-b": model_b,
    "mnist-c": model_c,
    "mnist-tutorial": model_tutorial,
    "mnist-small": model_small,
}


class MnistNet(Target):
    """One of `NETS`, for images of any size that its layers leave something of. Raises InputError for smaller ones."""

    natural_shape = (1, 28, 28)

    def __init__(self, name: str, image_shape: ImageShape, num_classes: int) -> None:
        super().__init__(name, image_shape, num_classes)
        self.layers = NETS[name](self.image_shape[0], num_classes)
        try:
            self.layers.eval()(torch.zeros(1, *self.image_shape))  # the lazy layer learns its width from this pass
        except RuntimeError:
            size = "x".join(map(str, self.image_shape[1:]))
            raise InputError(f"{name} was made for 28x28 images, and {size} is too small for its layers") from None
        self.layers.train()

    def chain(self) -> list[nn.Module]:
        return list(self.layers)

    def logits(self, x: Tensor) -> Tensor:
        return self.layers(x)
