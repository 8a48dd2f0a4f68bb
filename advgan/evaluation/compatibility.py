"""Compatibility of a classifier with the data: shapes, normalisation, and the order of the classes."""

from collections.abc import Sequence
from typing import Any

import torch
from rich.progress import Progress
from torch import Tensor, nn

from advgan.classifiers import BlackBox, check_normalised, check_target
from advgan.classifiers.adapters import classes_of, image_shape_of
from advgan.classifiers.checks import NORMALISATION_IMAGES, check_batch_of, eval_mode, gradient_fault
from advgan.core.errors import InputError, warn
from advgan.core.terminal import bar_console
from advgan.core.weights import device_of
from advgan.data import Data, Split, Stream, relabel
from advgan.data.split import prediction_batch
from advgan.defenses import ClassifierSpec, load_classifier, unwrap
from advgan.evaluation.evaluate import predict

NEAR_CHANCE = 0.1  # of the way from chance to all images: a lower accuracy is more often a fault than a weak classifier


def prepare_model_and_data(model: Any, data: Data) -> tuple[nn.Module, Data]:
    """The loaded classifier `model` as a target, and `data` with labels and class names as it has them.

    Raises InputError if it cannot be attacked with these data, checked on a few validation images (of other splits, if
    there are too few): as `check_target`, `relabel` and, for external classifiers and images with labels,
    `check_normalised` and `check_label_offset`. A black box without a budget is queried with five
    images: four in one batch, and the first alone; one with a budget with none; one in a file, whose queries are free,
    as any other classifier.
    """
    undefended = unwrap(model)
    data = relabel(data, *class_info(model))
    if isinstance(model, BlackBox):
        if model.max_queries is None:  # each of its outputs is checked; these queries test for dependence on the batch
            check_batch_of(model.query, _sample(data, 4)[0], model.name)
        if model.normalises:
            return model, data
    x, y = _sample(data, NORMALISATION_IMAGES)
    target = model if isinstance(model, BlackBox) else check_target(model, x[:8], data.num_classes)
    if not getattr(undefended, "normalises", True) and len(y):
        check_accuracy(target, x, y, data.name)
    return target, data


def near_chance(accuracy: float, num_classes: int) -> bool:
    """Whether an accuracy is at most `NEAR_CHANCE` of the way from that of chance to 1."""
    chance = 1 / num_classes
    return accuracy < chance + NEAR_CHANCE * (1 - chance)


def check_accuracy(model: nn.Module, x: Tensor, y: Tensor, name: str) -> None:
    """Raise InputError if `model` has few of the labels `y` (n,) of images `x` (n, c, h, w), called `name`, for a usual
    reason: as `check_normalised` and `check_label_offset`. An accuracy near chance for another one is a warning."""
    with eval_mode(model):
        check_normalised(model, x, y)
        check_label_offset(model, x, y, name)
        logits = model(x.clone())
    warn_near_chance(logits, y, name)


def warn_near_chance(logits: Tensor, y: Tensor, name: str) -> None:
    """A warning where few of the `logits` (n, k) of images called `name` predict their labels `y` (n,); fewer images
    than half of `NORMALISATION_IMAGES` may by chance."""
    accuracy, chance = (logits.argmax(1) == y).float().mean().item(), 1 / logits.shape[1]
    if near_chance(accuracy, logits.shape[1]) and len(y) >= NORMALISATION_IMAGES // 2:
        warn(
            f"the target classifies {accuracy:.0%} of {len(y)} images of {name} as labelled, chance is {chance:.0%}: "
            "advgan.check_model(model, x, y) looks for the cause"
        )


def _sample(data: Data, n: int) -> tuple[Tensor, Tensor]:
    """The first n images of the validation split, and of the others if it has fewer, and their labels; no labels, if
    one of the splits has none."""
    images, labels, labelled = list[Tensor](), list[Tensor](), True
    for split in (data.validation, data.train, data.test):
        if (missing := n - sum(map(len, images))) > 0 and (isinstance(split, Stream) or len(split)):
            x, y = next(split.first(missing).batches(missing))
            images, labels, labelled = [*images, x], [*labels, y], labelled and split.has_labels
    return torch.cat(images), torch.cat(labels) if labelled else torch.empty(0, dtype=torch.long)


@torch.no_grad()
def check_label_offset(model: nn.Module, x: Tensor, y: Tensor, name: str) -> None:
    """Raise InputError if labels `y` (n,) of images `x` (n, c, h, w) are one too high: few are the predictions of
    `model`, and most are with one less."""
    predicted = model(x.clone()).argmax(1)
    right, shifted = (predicted == y).float().mean().item(), (predicted == y - 1).float().mean().item()
    if right < 0.1 and shifted > 0.5 and len(y) >= 8 and int(y.min()) > 0:
        raise InputError(
            f"{right:.0%} of {len(y)} images of {name} are classified as labelled, and {shifted:.0%} with labels that "
            "are one less: expected labels from 0 on"
        )


def predicted_labels(split: Split, model: nn.Module, *, progress: bool = True) -> Split:
    """`split` itself if it has labels; else with those that `model`, on its device, predicts for its images, with a
    progress bar on a terminal."""
    if split.has_labels:
        return split
    size, predictions = prediction_batch(split.image_shape, device_of(model)), list[Tensor]()
    console = bar_console(stderr=True)
    shown = progress and (console.is_terminal or console.is_jupyter)
    with Progress(console=console, transient=True, disable=not shown) as bar:
        task = bar.add_task("predicted labels", total=len(split))
        for x, _ in split.batches(size):
            predictions.append(predict(model, x).argmax(1))
            bar.advance(task, len(x))
    return split.labelled(torch.cat(predictions))


def own_input(model: Any) -> tuple[tuple[int, int, int], int | None] | None:
    """(c, h, w) of the images that a classifier was made for, and the shorter side to which photos are resized before
    the crop (None: that of the crop); None for one that does not record it."""
    undefended = unwrap(model)
    shape, resize = image_shape_of(undefended), getattr(undefended, "resize", None)
    return None if shape is None else (shape, resize if type(resize) is int else None)


class ClassifierLoader:
    """The classifier of `spec`, loaded once: for its own input where images differ in size, or for the images."""

    def __init__(self, spec: ClassifierSpec) -> None:
        self.spec, self.model = spec, None

    def own_input(self) -> tuple[tuple[int, int, int], int | None] | None:
        self.model = load_classifier(self.spec)
        return own_input(self.model)

    def load(self, data: Data) -> Any:
        """The classifier for these data, as `load_classifier`."""
        model: Any = self.model
        fits = model is not None and model.image_shape == data.image_shape
        if fits and data.all_classes in (None, model.num_classes):
            return model
        return load_classifier(self.spec, image_shape=data.image_shape, num_classes=data.all_classes)


def gradient_fault_of(model: Any) -> str | None:
    """Why a loaded classifier has no gradients: a black box, or no gradient at its input; None if it has."""
    undefended = unwrap(model)
    if isinstance(undefended, BlackBox):
        return f"{undefended.name} has outputs only, without a gradient"
    shape = image_shape_of(undefended)
    if shape is None:
        return None
    x = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0))
    fault = gradient_fault(model, x.to(device_of(model)))
    return None if fault is None else f"{undefended.name} passes no gradient to its input ({fault})"


def is_black_box(model: Any) -> bool:
    """Whether a target, or the classifier behind its defenses, has no gradients."""
    return gradient_fault_of(model) is not None


def require_gradients(model: Any) -> None:
    """Raise InputError for a target without gradients."""
    if fault := gradient_fault_of(model):
        raise InputError(f"{fault}: train/substitute.py attacks such targets")


def class_info(model: Any) -> tuple[Sequence[str] | None, int, str]:
    """The class names of a loaded classifier (None: it has none), the number of its classes, and its name."""
    undefended = unwrap(model)
    return classes_of(undefended), undefended.num_classes, undefended.name
