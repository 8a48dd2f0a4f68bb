"""The loss of a generator, and what it is computed from: batches, conditions, the outputs of frozen classifiers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from advgan.core.config import Real
from advgan.core.errors import InputError
from advgan.core.field_docs import documented
from advgan.models import losses, objectives
from advgan.models.generator import Generator
from advgan.training.defaults import DEFAULT_LOSS

FEATURE_LOSSES = ("features", "cosine-features")
DETECTOR_WEIGHT = 1.0  # default weight of L_detector, where the classifier can reject images


@dataclass(frozen=True)
class LossTerms:
    """The weighted sum that the generator minimises."""

    adversarial: losses.AdversarialLoss | None = None
    """Adversarial loss. Of the logits: margin, cross-entropy. Of published attacks that transfer: relativistic (CDA,
    Naseer et al. 2019); features (LTP, Nakka & Salzmann 2021) and cosine-features (BIA, Zhang et al. 2022), of a
    layer's output, untargeted; match (TTP, Naseer et al. 2021), targeted. None: margin; relativistic for an untargeted
    generator of photos of 100 classes and more"""
    kappa: Real = 5.0
    """Confidence margin of the adversarial loss margin, in logits"""
    gan: losses.GANLoss = "least-squares"
    """Form of the GAN loss"""
    alpha: Real = 0.1
    """Weight of the GAN loss; 0 leaves it out, and trains no discriminator"""
    beta: Real = 0.05
    """Weight of the hinge loss; 0 leaves it out"""


@documented
@dataclass(frozen=True)
class LossConfig(LossTerms):
    """L = L_adv + alpha L_GAN + beta L_hinge (Xiao et al. 2018, eq. 4), with the form of each term, and two terms more:

    + diversity_weight L_diversity   of a generator with noise: keeps it from ignoring the noise
    + detector_weight L_detector     of a classifier that can reject: keeps the adversarial images below its threshold
                                     (weight None: 1)

    The forms of L_adv that transfer (`advgan.models.objectives`) were published with alpha = beta = 0.
    """

    layer: str | None = None
    """Layer of the features (adversarial features, cosine-features), by name, like features.5; None: in the middle"""
    random_normalization: bool = False
    """Random normalisation of the images that the target sees, another one in each step, for transfer to other domains
    (BIA, Zhang et al. 2022)"""
    hinge_threshold: float | None = None
    """l2 norm from which the hinge is active; None: 0.85 of that of random-sign noise of the same eps"""
    diversity_weight: float = 0.5
    detector_weight: float | None = None


@dataclass(frozen=True)
class Conditions:
    """What each image of a batch is perturbed for; None where the generator has no such input.

    y           (n,) int64, the labels that the generator is given, -1 for unknown
    y_target    (n,) int64, -1 for "away from the true class"
    eps, z      (n,) radii; (n, noise) normal noise
    eps_scale   the radii as fractions of the generator's largest
    """

    y: Tensor | None = None
    y_target: Tensor | None = None
    eps: Tensor | None = None
    z: Tensor | None = None
    eps_scale: Tensor | float = 1.0

    def __getitem__(self, part: slice) -> Conditions:
        values: Any = vars(self).items()
        return Conditions(**{name: value[part] if isinstance(value, Tensor) else value for name, value in values})


@dataclass(frozen=True)
class Batch:
    """Images x (n, c, h, w), labels y (n,) int64 and conditions; `transform` (n,) int64 numbers the transform
    after which the classifier gets x_adv, where there are any; mean and deviation of a random normalisation."""

    x: Tensor
    y: Tensor
    conditions: Conditions = field(default_factory=Conditions)
    transform: Tensor | None = None
    normalization: tuple[float, float] | None = None

    def __getitem__(self, part: slice) -> Batch:
        transform = None if self.transform is None else self.transform[part]
        return Batch(self.x[part], self.y[part], self.conditions[part], transform, self.normalization)


@dataclass(frozen=True)
class SourceModel:
    """A frozen classifier that a generator is trained against, and what the loss needs beside its logits for x_adv.

    layer           of its features, which then replace the logits: the pass ends there
    clean_logits    whether its logits for the clean images are needed
    distributions   its distributions over images of each class
    """

    model: Any
    layer: nn.Module | None = None
    clean_logits: bool = False
    distributions: objectives.ClassDistributions | None = None


@dataclass(frozen=True)
class LossInputs:
    """What a generator's loss is computed from, for each of n images; x_adv, logits and scores have gradients.

    x, x_adv          (n, c, h, w)
    y, y_target       (n,) int64; y_target is None, or -1 for "away from the true class"
    logits            (n, k) float32, the classifier's for x_adv, or for x_adv after a transform (`Batch.transform`);
                      (n, 0) with an adversarial loss on features
    scores            (n,) float32, the discriminator's for x_adv: higher for clean images; 0 without a discriminator
    rejection         (n,) how far x_adv is above a detector's threshold; None without detector
    conditions        see `Conditions`
    clean_logits      (n, k) float32, the classifier's for x; None where the loss has no use for it
    features, clean_features   (n, ...) float32, a layer's outputs for x_adv and for x; None as above
    distributions     the classifier's over images of each class; None as above
    """

    x: Tensor
    x_adv: Tensor
    y: Tensor
    y_target: Tensor | None
    logits: Tensor
    scores: Tensor
    rejection: Tensor | None
    conditions: Conditions
    clean_logits: Tensor | None = None
    features: Tensor | None = None
    clean_features: Tensor | None = None
    distributions: objectives.ClassDistributions | None = None


LossFunction = Callable[[LossInputs], Tensor]  # -> a scalar, or one value per image (n,)


def wrong_classes(target_classes: Sequence[int], y: Tensor, numbers: Tensor) -> Tensor:
    """A target class for each image (n,) with label `y`: its number in `numbers` picks one of the `target_classes`
    other than y, counted cyclically from the one after y."""
    targets = torch.tensor(sorted(target_classes), device=y.device)
    after = torch.searchsorted(targets, y.contiguous(), right=True)
    others = len(targets) - torch.isin(y, targets).long()
    return targets[(after + numbers % others) % len(targets)]


def sample_conditions(
    generator: Generator,
    y: Tensor,
    rng: np.random.Generator,
    *,
    first: int,
    total: int,
    targeted_fraction: float,
    label_dropout: float = 0.0,
    eps_factor: float = 1.0,
) -> Conditions:
    """Conditions of the images with labels `y`, at `first` and after it in a batch of `total` over all processes.

    A fraction `targeted_fraction` gets one of the wrong classes, the rest -1; a fraction `label_dropout` of the labels
    is unknown to the generator; radii are uniform over the trained range, noise is normal. Sampled for the whole batch,
    so that they do not depend on the number of processes. The radius of a generator for a single eps is larger by
    `eps_factor`, in linf at most 1.
    """
    device = y.device

    def local(values: np.ndarray) -> Tensor:
        """The values of this process's images, out of those of the whole batch."""
        return torch.from_numpy(values[first : first + len(y)]).to(device)

    def per_image(values: np.ndarray) -> Tensor:
        """One value per image; where images come in pairs that differ in noise alone, one per pair."""
        return local(np.repeat(values[::2], 2)[:total] if generator.noise else values)

    y_target = eps = z = None
    if generator.classes:
        wrong = wrong_classes(generator.target_classes, y, per_image(rng.integers(generator.classes - 1, size=total)))
        y_target = wrong.where(per_image(rng.random(total)) < targeted_fraction, torch.full_like(y, -1))
    elif generator.y_target is not None:
        y_target = torch.full_like(y, generator.y_target)
    if generator.eps_min is not None:
        eps = per_image(rng.uniform(generator.eps_min, generator.threat.eps, total).astype(np.float32))
    elif eps_factor > 1:
        largest = 1.0 if generator.threat.norm == "linf" else float("inf")
        eps = torch.full((len(y),), min(generator.threat.eps * eps_factor, largest), device=device)
    if generator.noise:
        z = local(rng.standard_normal((total, generator.noise), np.float32))
    labels = None
    if generator.labels:
        labels = y.where(per_image(rng.random(total)) >= label_dropout, torch.full_like(y, -1))
    return Conditions(labels, y_target, eps, z, 1.0 if eps is None else eps / generator.threat.eps)


def perturbed(generator: nn.Module, batch: Batch) -> Tensor:
    """x_adv (n, c, h, w) of a batch, by a generator that may be wrapped for several processes."""
    conditions = batch.conditions
    return generator(batch.x, conditions.y, conditions.y_target, conditions.eps, conditions.z)


def micro_batches(n: int, parts: int) -> list[slice]:
    """A batch of `n` images in `parts` equal parts."""
    size = n // parts
    return [slice(i * size, (i + 1) * size) for i in range(parts)]


def frozen_scores(discriminator: nn.Module, x_adv: Tensor) -> Tensor:
    """Scores (n,) with gradients in `x_adv`, but not in the discriminator's weights."""
    discriminator.requires_grad_(False)
    scores: Tensor = discriminator(x_adv).float()
    discriminator.requires_grad_(True)
    return scores


def weighted_loss(loss: LossConfig, inputs: LossInputs) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum of `loss`, a mean over the images, and its terms."""
    delta = inputs.x_adv - inputs.x
    adversarial = adversarial_term(loss, inputs)
    threshold = (loss.hinge_threshold or 0.0) * inputs.conditions.eps_scale
    total = adversarial.mean()
    terms = {"loss adversarial": total}
    if loss.alpha:
        terms["loss GAN"] = losses.generator_loss(inputs.scores, form=loss.gan).mean()
        total = total + loss.alpha * terms["loss GAN"]
    terms["loss hinge"] = losses.perturbation_hinge(delta, threshold).mean()
    total = total + loss.beta * terms["loss hinge"]
    if loss.diversity_weight and inputs.conditions.z is not None:
        terms["loss diversity"] = losses.diversity_loss(delta).mean()
        total = total + loss.diversity_weight * terms["loss diversity"]
    detector_weight = DETECTOR_WEIGHT if loss.detector_weight is None else loss.detector_weight
    if detector_weight and inputs.rejection is not None:
        terms["loss detector"] = losses.detector_loss(inputs.rejection).mean()
        total = total + detector_weight * terms["loss detector"]
    return total, terms


def adversarial_term(loss: LossConfig, inputs: LossInputs) -> Tensor:
    """L_adv (n,) in the form `loss.adversarial`."""
    form = loss.adversarial or DEFAULT_LOSS
    if form == "relativistic":
        assert inputs.clean_logits is not None
        return objectives.relativistic_loss(inputs.logits, inputs.clean_logits, inputs.y, inputs.y_target)
    if form == "features" or form == "cosine-features":
        assert inputs.features is not None
        assert inputs.clean_features is not None
        distance = objectives.feature_loss if form == "features" else objectives.cosine_feature_loss
        return distance(inputs.features, inputs.clean_features)
    if form == "match":
        assert inputs.y_target is not None
        assert inputs.distributions is not None
        return objectives.match_loss(inputs.logits, inputs.y_target, inputs.distributions)
    return losses.adversarial_loss(inputs.logits, inputs.y, inputs.y_target, form=form, kappa=loss.kappa)


def custom_loss(loss: LossFunction, inputs: LossInputs) -> tuple[Tensor, dict[str, Tensor]]:
    """The caller's loss, a mean over the images. Raises InputError for what is no such value, or has no gradient."""
    value: Any = loss(inputs)
    if not isinstance(value, Tensor) or value.shape not in ((), (len(inputs.x),)) or not value.requires_grad:
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        got += "" if not isinstance(value, Tensor) or value.requires_grad else ", without gradient"
        raise InputError(f"loss must return a scalar or one value per image ({len(inputs.x)},), got {got}")
    return value.mean(), {"loss": value.mean()}


def average(metrics: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The metrics of equal micro-batches as those of the whole batch."""
    return {name: torch.stack([values[name].detach() for values in metrics]).mean() for name in metrics[0]}
