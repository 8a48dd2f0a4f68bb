"""The images of a training: read from the caller's data, labelled, checked with the classifier, split."""

from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from advgan.classifiers import BlackBox, check_target
from advgan.classifiers.checks import NORMALISATION_IMAGES, gradient_fault
from advgan.core.errors import InputError
from advgan.data import Data, Split, Stream, relabel
from advgan.data.sources import FloatSplit, Source, as_split, hold_out
from advgan.data.split import fair_order
from advgan.defenses import unwrap
from advgan.evaluation.compatibility import check_accuracy, own_input, predicted_labels
from advgan.training.defaults import size_defaults
from advgan.training.options import RunConfig


@dataclass(frozen=True)
class Images:
    """A checked classifier, and disjoint images to train on and to validate with; `classes` are their names.

    labelled   False: the labels are the classifier's predictions on the clean images
    """

    model: nn.Module
    train: Split | Stream
    validation: Split
    classes: tuple[str, ...]
    labelled: bool = True


def prepare_images(model: Any, train: Any, validation: Any, run: RunConfig, accelerator: Accelerator) -> Images:
    """Images and labels for a training against `model`, which is frozen and on the device.

    Raises InputError as `as_split` and `check_target`, for a model without gradients, and for labels beyond its logits.
    """
    if isinstance(unwrap(model), BlackBox):
        raise InputError(f"{unwrap(model).name} has outputs only: train/substitute.py attacks such models")
    device, progress = accelerator.device, run.progress and accelerator.is_main_process
    shape, resize = own_input(model) or (None, None)
    source = as_split(train, "train", shape, resize)
    held_out = None if validation is None else as_split(validation, "validation", shape, resize)
    x, y = next(source.split.first(NORMALISATION_IMAGES).batches(NORMALISATION_IMAGES))
    given = source.split.has_labels
    model = checked_model(model, x.to(device), y.to(device), given and source.classes is None)
    num_classes = logits_of(model, x[:1], device).shape[1]
    source = labelled(model, source, num_classes, "train", progress=progress)
    if held_out is None:
        source, held_out = hold_out(source, run.seed)
    else:
        if held_out.split.image_shape != source.split.image_shape:
            shapes = f"{tuple(source.split.image_shape)}, got {tuple(held_out.split.image_shape)}"
            raise InputError(f"validation images must have the shape of those to train on, {shapes}")
        held_out = labelled(model, held_out, num_classes, "validation", progress=progress)
    assert isinstance(held_out.split, Split), "a stream has no labels of all its images"
    split = held_out.split if isinstance(validation, Split) else held_out.split.take(fair_order(held_out.split.labels))
    most = run.validation_images or size_defaults(split.image_shape).validation_images
    names = getattr(unwrap(model), "classes", None) or source.classes or map(str, range(num_classes))
    return Images(model, source.split, in_memory(split.first(most)), tuple(names), given)


def checked_model(model: nn.Module, x: Tensor, y: Tensor, labelled: bool) -> nn.Module:
    """`model` as `check_target` returns it. Raises InputError where it cannot be attacked by gradients."""
    model = check_target(model, x[:8])
    if (fault := gradient_fault(model, x)) is not None:
        raise InputError(
            f"the model passes no gradient to its input ({fault}): train/substitute.py attacks such models"
        )
    if labelled and not getattr(unwrap(model), "normalises", False):
        check_accuracy(model, x, y, "train")
    return model


@torch.no_grad()
def logits_of(model: nn.Module, x: Tensor, device: torch.device) -> Tensor:
    return model(x.to(device)).float()


def labelled(model: nn.Module, source: Source, num_classes: int, name: str, *, progress: bool) -> Source:
    """A source whose labels are classes of `model`: those of class folders by their names, predictions where there are
    none. Raises InputError for labels beyond the logits."""
    split = source.split
    if isinstance(split, Stream):
        return source
    if source.classes is not None:
        data = Data("folder", split, split, split, source.classes)
        named = relabel(data, getattr(unwrap(model), "classes", None), num_classes, "the model")
        return Source(named.train, named.classes)
    if not split.has_labels:
        return Source(predicted_labels(split, model, progress=progress))
    if len(split) and int(split.labels.max()) >= num_classes:
        raise InputError(
            f"{name} has labels up to {int(split.labels.max())}, expected 0 to {num_classes - 1}: the model has "
            f"{num_classes} logits"
        )
    return source


def in_memory(split: Split) -> Split:
    """The same images, read once: validation sees the same pixels each time."""
    if split.in_memory or not isinstance(split, FloatSplit):
        return split
    return FloatSplit(split.images[range(len(split))], split.labels)
