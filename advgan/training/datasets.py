"""The images of a training, read from the caller's data, labelled, checked with the classifier, split; and the
classifiers that a generator is trained against, with what its adversarial loss needs of each.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from advgan.classifiers import BlackBox, check_target
from advgan.classifiers.adapters import classes_of
from advgan.classifiers.checks import NORMALISATION_IMAGES, gradient_fault
from advgan.classifiers.layers import find_layer
from advgan.core.errors import InputError, note
from advgan.data import Split, Stream
from advgan.data.sources import FloatSplit, Source, as_split, by_name, hold_out, note_shared
from advgan.data.split import fair_order
from advgan.defenses import adaptive, unwrap
from advgan.evaluation.compatibility import check_accuracy, own_input, predicted_labels
from advgan.models.objectives import CONFIDENT, ClassDistributions
from advgan.training.defaults import size_defaults
from advgan.training.gan import FEATURE_LOSSES, SourceModel
from advgan.training.options import RunConfig, TrainingConfig


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

    @property
    def score(self) -> str:
        return score_name(self.labelled)


def score_name(labelled: bool) -> str:
    """The name of the success rate: with predicted labels it is the fooling rate."""
    return "ASR" if labelled else "fooling rate"


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
    model = checked_model(model, x.to(device))
    num_classes, classes = logits_of(model, x[:1], device).shape[1], classes_of(unwrap(model))
    source = by_name(source, classes, num_classes)
    if given:
        y = y if isinstance(source.split, Stream) else source.split.labels[: len(x)]
        check_labels(model, x.to(device), y.to(device))
    source = labelled(model, source, num_classes, "train", progress=progress)
    if held_out is None:
        source, held_out = hold_out(source, run.seed)
    else:
        if held_out.split.image_shape != source.split.image_shape:
            shapes = f"{tuple(source.split.image_shape)}, got {tuple(held_out.split.image_shape)}"
            raise InputError(f"validation images must have the shape of those to train on, {shapes}")
        held_out = by_name(held_out, classes or source.classes, num_classes)
        held_out = labelled(model, held_out, num_classes, "validation", progress=progress)
        note_shared(source.split, held_out.split)
    assert isinstance(held_out.split, Split), "a stream has no labels of all its images"
    split = held_out.split if isinstance(validation, Split) else held_out.split.take(fair_order(held_out.split.labels))
    most = run.validation_images or size_defaults(split.image_shape).validation_images
    names = classes or source.classes or tuple(map(str, range(num_classes)))
    if len(names) != num_classes:
        raise InputError(f"classes of the model must be as many as its {num_classes} logits, got {len(names)}")
    return Images(model, source.split, in_memory(split.first(most)), names, given)


def checked_model(model: nn.Module, x: Tensor) -> nn.Module:
    """`model` as `check_target` returns it. Raises InputError where it cannot be attacked by gradients."""
    model = check_target(model, x[:8])
    if (fault := gradient_fault(model, x)) is not None:
        raise InputError(
            f"the model passes no gradient to its input ({fault}): train/substitute.py attacks such models"
        )
    return model


def check_labels(model: nn.Module, x: Tensor, y: Tensor) -> None:
    """Raises InputError as `check_accuracy`, of a model that does not normalise for sure."""
    if not getattr(unwrap(model), "normalises", False):
        check_accuracy(model, x, y, "train")


@torch.no_grad()
def logits_of(model: nn.Module, x: Tensor, device: torch.device) -> Tensor:
    return model(x.to(device)).float()


def labelled(model: nn.Module, source: Source, num_classes: int, name: str, *, progress: bool) -> Source:
    """A source with labels: predictions of `model` where there are none. Raises InputError for labels beyond its
    logits."""
    split = source.split
    if isinstance(split, Stream):
        return source
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
    read = FloatSplit(split.images[range(len(split))], split.labels)
    read.random = True
    return read


CLASS_IMAGES = 20_000  # training images, the first ones, that the distributions of classes are taken from


def checked_ensemble(first: nn.Module, others: Sequence[Any], x: Tensor, y: Tensor) -> list[nn.Module]:
    """Further classifiers of an ensemble, checked as the `first` on a few images `x` (n, c, h, w) with labels `y`.

    Raises InputError for one that cannot be attacked by gradients, and for other classes than those of the first.
    """
    k, names = logits_of(first, x[:1], x.device).shape[1], classes_of(unwrap(first))
    models = []
    for number, other in enumerate(others, 2):
        model = checked_model(other, x)
        check_labels(model, x, y)
        count, other_names = logits_of(model, x[:1], x.device).shape[1], classes_of(unwrap(model))
        if count != k:
            raise InputError(f"model {number} of the ensemble must have {k} classes like the first, got {count}")
        if names and other_names and names != other_names:
            raise InputError(f"model {number} of the ensemble must have the classes of the first, in the same order")
        models.append(model)
    return models


def build_sources(
    models: Sequence[nn.Module],
    config: TrainingConfig,
    train: Split | Stream,
    y_target: int | None,
    device: torch.device,
) -> tuple[list[SourceModel], list[str]]:
    """Each classifier with what the loss needs of it, and the names of their feature layers, if there are any.

    Raises InputError for an unknown layer, and for a target class without a training image.
    """
    sources, layers, loss = [], [], config.loss
    x, _ = next(train.first(2).batches(2))
    for model in models:
        layer = distributions = None
        if loss.adversarial in FEATURE_LOSSES:
            view = adaptive(model)
            layers.append(find_layer(view, loss.layer, x.to(device)))
            layer = view.get_submodule(layers[-1])
        if loss.adversarial == "match":
            target = None if config.generator.any_class else y_target
            distributions = class_distributions(model, train, target, device)
        sources.append(SourceModel(model, layer, loss.adversarial == "relativistic", distributions))
    return sources, layers


def class_distributions(
    model: nn.Module, train: Split | Stream, y_target: int | None, device: torch.device
) -> ClassDistributions:
    """The distributions of `model` over the training images of class `y_target`, or of every class for None: of the
    first `CLASS_IMAGES` images. Raises InputError where `y_target` has no image; of all classes those without one are
    in a note (`ClassDistributions.of`)."""
    seen: set[int] = set()

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for x, y in train.first(CLASS_IMAGES).batches(100):
            chosen = torch.ones_like(y, dtype=torch.bool) if y_target is None else y == y_target
            seen.update(y.tolist())
            if chosen.any():
                yield logits_of(model, x[chosen], device), y[chosen].to(device)

    distributions = ClassDistributions.of(batches(), [] if y_target is None else [y_target])
    missing = len(distributions.probs) - len(seen)
    if y_target is None and missing:
        note(
            f"{missing} of {len(distributions.probs)} classes have no training image: the loss match takes "
            f"{CONFIDENT:g} for their probability"
        )
    return distributions
