"""Untrained targets by name; a new family of models is registered here."""

import torch

from advgan.classifiers import cifar, mnist, small_resnet, wide_resnet
from advgan.classifiers.base import Classifier, ImageShape
from advgan.classifiers.external import SPEC_FORMATS, source_of, suggest
from advgan.core.errors import InputError

TARGETS: dict[str, type[Classifier]] = {
    **dict.fromkeys(mnist.NETS, mnist.MnistNet),
    **dict.fromkeys(cifar.DEPTHS, cifar.CifarResNet),
    **dict.fromkeys(wide_resnet.SIZES, wide_resnet.WideResNet),
    **dict.fromkeys(small_resnet.SIZES, small_resnet.SmallResNet),
}


def target_family(name: str) -> type[Classifier]:
    """The class that builds target `name`. Raises InputError for an unknown name, with the known and similar ones."""
    if not isinstance(name, str):
        raise InputError(f"the name of a target must be a text, got {name!r:.60}")
    if source_of(name):
        raise InputError(f"{name} cannot be built here, expected a built-in target: {', '.join(TARGETS)}")
    if name not in TARGETS:
        names = f"{', '.join(TARGETS)}, or an external one: {SPEC_FORMATS}"
        raise InputError(f"unknown target {name!r}, expected one of {names}{suggest(name, tuple(TARGETS))}")
    return TARGETS[name]


def build_target(name: str, image_shape: ImageShape | None = None, num_classes: int | None = None) -> Classifier:
    """Classifier `name` with random weights (torch's seed), in training mode, for images (c, h, w).

    Shape and number of classes default to those of the data set the target was made for. Raises InputError for an
    unknown name or images that the target does not support.
    """
    family = target_family(name)
    shape = family.default_image_shape if image_shape is None else image_shape
    classes = family.default_num_classes if num_classes is None else num_classes
    model = family(name, shape, classes)
    return model.to(memory_format=torch.channels_last)
