"""The three losses of AdvGAN (Xiao et al. 2018, arXiv:1801.02610): one equation each, one value per sample.

    L = L_adv + alpha * L_GAN + beta * L_hinge                                            (eq. 4, weights renamed)

The programs take the mean over the batch. Logits are (n, k), labels (n,), discriminator scores (n,), deltas
(n, c, h, w); every function returns (n,).
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

AdversarialLoss = Literal["margin", "cross-entropy", "relativistic", "features", "cosine-features", "match"]
LogitLoss = Literal["margin", "cross-entropy"]  # those of `adversarial_loss`; the others: advgan.models.objectives
GANLoss = Literal["least-squares", "bce", "hinge"]


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """z_y - max_{i != y} z_i: positive where `y` is the prediction (Carlini & Wagner 2017, f_6, without its floor)."""
    others = logits.scatter(1, y[:, None], -float("inf")).amax(1)
    return logits.gather(1, y[:, None]).squeeze(1) - others


def adversarial_loss(
    logits: Tensor, y: Tensor, y_target: Tensor | None = None, *, form: LogitLoss = "margin", kappa: float = 0.0
) -> Tensor:
    """L_adv of eq. (2).

    margin         untargeted relu(z_y - max_{i != y} z_i + kappa), targeted relu(max_{i != t} z_i - z_t + kappa)
    cross-entropy  untargeted -CE(y), targeted CE(y_target) - CE(y)

    In `y_target` -1 stands for "untargeted", so that a batch can hold both.
    """
    y_target = torch.full_like(y, -1) if y_target is None else y_target
    targeted, t = y_target >= 0, y_target.clamp_min(0)
    if form == "margin":
        return F.relu(torch.where(targeted, -margin(logits, t), margin(logits, y)) + kappa)
    ce_target = F.cross_entropy(logits, t, reduction="none").where(targeted, torch.zeros_like(logits[:, 0]))
    return ce_target - F.cross_entropy(logits, y, reduction="none")


def discriminator_loss(real: Tensor, fake: Tensor, *, form: GANLoss = "least-squares") -> Tensor:
    """Loss of the discriminator, from its scores of clean (`real`) and perturbed (`fake`) images.

    least-squares  ((D(x) - 1)^2 + D(x_adv)^2) / 2                   (Mao et al. 2017, the paper's choice)
    bce            -log s(D(x)) - log(1 - s(D(x_adv))), s the sigmoid (Goodfellow et al. 2014)
    hinge          relu(1 - D(x)) + relu(1 + D(x_adv))               (Lim & Ye 2017)
    """
    if form == "least-squares":
        return 0.5 * ((real - 1) ** 2 + fake**2)
    if form == "bce":
        return F.softplus(-real) + F.softplus(fake)
    return F.relu(1 - real) + F.relu(1 + fake)


def generator_loss(fake: Tensor, *, form: GANLoss = "least-squares") -> Tensor:
    """L_GAN of eq. (1): loss of the generator, from the discriminator's scores of perturbed images.

    least-squares (D(x_adv) - 1)^2 / 2; bce -log s(D(x_adv)), the non-saturating form; hinge -D(x_adv).
    """
    if form == "least-squares":
        return 0.5 * (fake - 1) ** 2
    return F.softplus(-fake) if form == "bce" else -fake


def predicted_real(scores: Tensor, *, form: GANLoss = "least-squares") -> Tensor:
    """(n,) bool, the images that the discriminator classifies as clean: scores above the middle of both goals."""
    return scores > (0.5 if form == "least-squares" else 0.0)


def perturbation_hinge(delta: Tensor, c: float | Tensor) -> Tensor:
    """max(0, ||delta||_2 - c): the soft bound L_hinge of eq. (3); `c` is one threshold, or one for each image (n,)."""
    return F.relu(delta.flatten(1).norm(dim=1) - c)


def diversity_loss(delta: Tensor) -> Tensor:
    """Cosine, in [-1, 1], of two perturbations of one image: `delta` (2n, c, h, w) at 0 and 1, 2 and 3, ...

    Keeps the perturbations of a generator with noise different (mode seeking, Mao et al. 2019, without its quotient).
    """
    flat = delta.flatten(1)
    return F.cosine_similarity(flat[:-1:2], flat[1::2], dim=1)


def detector_loss(score: Tensor, margin: float = 0.1) -> Tensor:
    """relu(s + margin) of the scores s of a detector that rejects where s > 0 (after Carlini & Wagner 2017,
    arXiv:1705.07263, section 3: the detector's score as one more term)."""
    return F.relu(score + margin)


def default_hinge_threshold(x: Tensor, norm: str, eps: float) -> float:
    """A threshold c that is active for part of the images like `x`: below the l2 norm of sign noise of the same eps."""
    return 0.85 * sign_noise_l2(x, norm, eps)


def sign_noise_l2(x: Tensor, norm: str, eps: float) -> float:
    """Root mean square l2 norm of random-sign noise of size `eps` on images `x` (n, c, h, w), clipped to the box.

    Half the pixels go up, half down: E ||delta||^2 = sum of (min(eps, 1 - x)^2 + min(eps, x)^2) / 2. For l2 it is eps.
    """
    if norm == "l2":
        return eps
    up, down = (1 - x).clamp_max(eps), x.clamp_max(eps)
    return float(((up**2 + down**2) / 2).flatten(1).sum(1).mean().sqrt())
