"""Published adversarial losses of generators that transfer, in the place of L_adv: one equation each.

Every function returns one value per image (n,), which the generator minimises. Logits and features of clean images
carry no gradient.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from advgan.core.errors import InputError, listing

CONFIDENT = 0.9  # probability of a class for an image of it, where there is none to measure it on
RN_MEAN, RN_STD, RN_SPREAD = 0.5, 0.75, 0.08  # of random normalisation, as in the code of BIA


def relativistic_loss(logits: Tensor, clean_logits: Tensor, y: Tensor, y_target: Tensor | None = None) -> Tensor:
    """Relativistic cross-entropy (CDA, Naseer et al. 2019, "Cross-Domain Transferability of Adversarial Perturbations",
    section 3.2), logits (n, k), labels (n,) int64:

        untargeted  -CE(z(x_adv) - z(x), y),  CE(a, y) = -log(exp(a_y) / sum_k exp(a_k))
        targeted     CE(z(x_adv), t)          (+ CE(z(x), y), which is constant in the generator and left out)

    The gradient depends on how far x_adv has moved from x, not on how confident the classifier was in x. In `y_target`
    -1 stands for "untargeted".
    """
    y_target = torch.full_like(y, -1) if y_target is None else y_target
    untargeted = -F.cross_entropy(logits - clean_logits, y, reduction="none")
    targeted = F.cross_entropy(logits, y_target.clamp_min(0), reduction="none")
    return torch.where(y_target >= 0, targeted, untargeted)


def feature_loss(features: Tensor, clean_features: Tensor) -> Tensor:
    """-||f(x_adv) - f(x)||_2^2 / d of a middle layer's output f (n, ...) with d values: the feature separation loss
    (LTP, Nakka & Salzmann 2021, "Learning Transferable Adversarial Perturbations", eq. 3, as a mean)."""
    return -((features - clean_features) ** 2).flatten(1).mean(1)


def cosine_feature_loss(features: Tensor, clean_features: Tensor) -> Tensor:
    """cos(f(x_adv), f(x)), in [-1, 1], of a middle layer's output f (n, ...) (BIA, Zhang et al. 2022, "Beyond ImageNet
    Attack", eq. 2, without its attention): unlike `feature_loss` it is bounded, and does not depend on the scale of f.
    """
    return F.cosine_similarity(features.flatten(1), clean_features.flatten(1), dim=1)


@dataclass(frozen=True)
class ClassDistributions:
    """A classifier's distributions p = softmax(z(x)) over images x of each class, as the means that `match_loss` needs.

    probs         (c, k) mean of p over the images of a class
    log_probs     (c, k) mean of log p
    neg_entropy   (c,) mean of sum_k p_k log p_k
    """

    probs: Tensor
    log_probs: Tensor
    neg_entropy: Tensor

    @classmethod
    def of(cls, batches: Iterable[tuple[Tensor, Tensor]], classes: Iterable[int]) -> ClassDistributions:
        """From pairs of logits (n, k) and labels (n,). Raises InputError for one of the `classes` without an image;
        others without one get the distribution of a confident classifier, `CONFIDENT` at the class."""
        wanted, sums, total = set(classes), None, None
        for logits, y in batches:
            log_p = logits.double().log_softmax(1)
            p = log_p.exp()
            values = torch.cat([p, log_p, (p * log_p).sum(1, keepdim=True), torch.ones_like(p[:, :1])], dim=1)
            if sums is None:
                sums = values.new_zeros(logits.shape[1], values.shape[1])
            sums.index_add_(0, y.to(values.device), values)
            total = sums
        counts = {} if total is None else dict(enumerate(total[:, -1].tolist()))
        if missing := sorted(c for c in wanted if not counts.get(c)):
            raise InputError(
                f"the loss match needs a training image of each target class, got none of {listing(missing)}"
            )
        assert total is not None
        k = total.shape[0]
        confident = torch.full((k, k), (1 - CONFIDENT) / (k - 1), dtype=total.dtype, device=total.device)
        confident.fill_diagonal_(CONFIDENT)
        log_p = confident.log()
        default = torch.cat([confident, log_p, (confident * log_p).sum(1, keepdim=True)], dim=1)
        means = torch.where(total[:, -1:] > 0, total[:, :-1] / total[:, -1:].clamp_min(1), default).float()
        return cls(means[:, :k], means[:, k : 2 * k], means[:, -1])


def match_loss(logits: Tensor, y_target: Tensor, distributions: ClassDistributions) -> Tensor:
    """D_KL(p_t || q) + D_KL(q || p_t) of q = softmax(z(x_adv)) and p_t = softmax(z(x_t)), a mean over the training
    images x_t of the target class (TTP, Naseer et al. 2021, "On Generating Transferable Targeted Perturbations", eq. 4;
    logits (n, k), classes (n,) int64).

    TTP draws one x_t for each image and step; this is the expectation over that draw. Left out: the same term for
    rotated and cropped x_adv (eq. 5; augmentation of the training images is in its place), and L_sim, the neighbourhood
    similarity (eq. 8): D_KL both ways between the softmax of cosine similarities of the logits within a batch of x_t,
    and between x_adv and its augmented form.
    """
    log_q = logits.log_softmax(1)
    p, log_p = distributions.probs[y_target], distributions.log_probs[y_target]
    forward = distributions.neg_entropy[y_target] - (p * log_q).sum(1)
    backward = (log_q.exp() * (log_q - log_p)).sum(1)
    return forward + backward


def random_normalize(x: Tensor, mean: float, std: float) -> Tensor:
    """0.5 + 0.5 (x - mean) / std of images `x` (n, c, h, w): what a classifier that normalises to [-1, 1] has to see to
    get (x - mean) / std (random normalisation, BIA, Zhang et al. 2022, section 3.3: mean ~ N(0.5, 0.08^2) and
    std ~ N(0.75, 0.08^2), drawn for each batch, in the place of the classifier's own).

    A classifier's own normalisation is inside it and unknown; that to [-1, 1] is assumed.
    """
    return 0.5 + 0.5 * (x - mean) / std
