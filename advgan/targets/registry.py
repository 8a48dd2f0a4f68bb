"""From a name to an untrained target. A family of models joins by adding its names here."""

from __future__ import annotations

import torch

from advgan.errors import InputError
from advgan.targets import cifar, mnist, quick, wide_resnet
from advgan.targets.base import ImageShape, Target

TARGETS: dict[str, type[Target]] = {
    **dict.fromkeys(mnist.NETS, mnist.MnistNet),
    **dict.fromkeys(cifar.DEPTHS, cifar.CifarResNet),
    **dict.fromkeys(wide_resnet.SIZES, wide_resnet.WideResNet),
    **dict.fromkeys(quick.SIZES, quick.Quick),
}


def target_family(name: str) -> type[Target]:
    """The class that builds target `name`. Raises InputError with the known names for any other."""
    if name not in TARGETS:
        raise InputError(f"unknown target {name!r}, expected one of {', '.join(TARGETS)}")
    return TARGETS[name]


def build_target(name: str, image_shape: ImageShape | None = None, num_classes: int | None = None) -> Target:
    """Target `name` with random weights (torch's seed), in training mode, for images (c, h, w).

    Shape and number of classes default to those of the data set the target was made for. Raises InputError for an
    unknown name or images that the target cannot take.
    """
    family = target_family(name)
    shape = family.natural_shape if image_shape is None else image_shape
    classes = family.natural_classes if num_classes is None else num_classes
    model = family(name, shape, classes)
    return model.to(memory_format=torch.channels_last)
