"""The classifiers that a generator is trained against, with what its adversarial loss needs of each."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from advgan.classifiers.layers import find_layer
from advgan.core.errors import InputError, note
from advgan.data import Split, Stream
from advgan.defenses import adaptive, unwrap
from advgan.models.objectives import CONFIDENT, ClassDistributions
from advgan.training.datasets import checked_model, logits_of
from advgan.training.gan import FEATURE_LOSSES, LossConfig, SourceModel

CLASS_IMAGES = 20_000  # training images, the first ones, that the distributions of classes are taken from


def checked_ensemble(first: nn.Module, others: Sequence[Any], x: Tensor, y: Tensor) -> list[nn.Module]:
    """Further classifiers of an ensemble, checked as the `first` on a few images `x` (n, c, h, w) with labels `y`.

    Raises InputError for one that cannot be attacked by gradients, and for other classes than those of the first.
    """
    k, names = logits_of(first, x[:1], x.device).shape[1], getattr(unwrap(first), "classes", None)
    models = []
    for number, other in enumerate(others, 2):
        model = checked_model(other, x, y, labelled=True)
        count, other_names = logits_of(model, x[:1], x.device).shape[1], getattr(unwrap(model), "classes", None)
        if count != k:
            raise InputError(f"model {number} of the ensemble must have {k} classes like the first, got {count}")
        if names and other_names and tuple(names) != tuple(other_names):
            raise InputError(f"model {number} of the ensemble must have the classes of the first, in the same order")
        models.append(model)
    return models


def build_sources(
    models: Sequence[nn.Module],
    loss: LossConfig,
    train: Split | Stream,
    *,
    y_target: int | None,
    any_class: bool,
    device: torch.device,
) -> tuple[list[SourceModel], list[str]]:
    """Each classifier with what the `loss` needs of it, and the names of their feature layers, if there are any.

    Raises InputError for an unknown layer, and for a target class without a training image.
    """
    sources, layers = [], []
    x, _ = next(train.first(2).batches(2))
    for model in models:
        layer = distributions = None
        if loss.adversarial in FEATURE_LOSSES:
            view = adaptive(model)
            layers.append(find_layer(view, loss.layer, x.to(device)))
            layer = view.get_submodule(layers[-1])
        if loss.adversarial == "match":
            classes = None if any_class else y_target
            distributions = class_distributions(model, train, classes, device)
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
