"""The three losses of AdvGAN (Xiao et al. 2018, arXiv:1801.02610): one equation each, one value per sample.

    L = L_adv + alpha * L_GAN + beta * L_hinge                                            (eq. 4, weights renamed)

The programs take the mean over the batch. Logits are (n, k), labels (n,), discriminator scores (n,), deltas
(n, c, h, w); every function returns (n,).
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Adversarial = Literal["margin", "cross-entropy"]
GAN = Literal["least-squares", "bce", "hinge"]


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """z_y - max_{i != y} z_i: positive where `y` is the prediction (Carlini & Wagner 2017, f_6, without its floor)."""
    own = logits.gather(1, y[:, None]).squeeze(1)
    others = logits.scatter(1, y[:, None], -float("inf")).amax(1)
    return own - others


def adversarial(
    logits: Tensor, y: Tensor, y_target: Tensor | None = None, *, form: Adversarial = "margin", kappa: float = 0.0
) -> Tensor:
    """What the attacker minimises: L_adv of eq. (2), in the form that `form` names.

    margin         untargeted relu(z_y - max_{i != y} z_i + kappa), targeted relu(max_{i != t} z_i - z_t + kappa)
    cross-entropy  untargeted -CE(y), targeted CE(y_target) - CE(y)

    In `y_target` -1 stands for "untargeted", so that a batch can hold both.
    """
    aims = torch.full_like(y, -1) if y_target is None else y_target
    aimed, t = aims >= 0, aims.clamp_min(0)
    if form == "margin":
        gap = torch.where(aimed, -margin(logits, t), margin(logits, y))
        return F.relu(gap + kappa)
    toward = F.cross_entropy(logits, t, reduction="none").where(aimed, torch.zeros_like(logits[:, 0]))
    return toward - F.cross_entropy(logits, y, reduction="none")


def gan_discriminator(real: Tensor, fake: Tensor, *, form: GAN = "least-squares") -> Tensor:
    """What the discriminator minimises, given its scores of clean (`real`) and perturbed (`fake`) images.

    least-squares  ((D(x) - 1)^2 + D(x_adv)^2) / 2                   (Mao et al. 2017, the paper's choice)
    bce            -log s(D(x)) - log(1 - s(D(x_adv))), s the sigmoid (Goodfellow et al. 2014)
    hinge          relu(1 - D(x)) + relu(1 + D(x_adv))               (Lim & Ye 2017)
    """
    if form == "least-squares":
        return 0.5 * ((real - 1) ** 2 + fake**2)
    if form == "bce":
        return F.softplus(-real) + F.softplus(fake)
    return F.relu(1 - real) + F.relu(1 + fake)


def gan_generator(fake: Tensor, *, form: GAN = "least-squares") -> Tensor:
    """What the generator minimises so that D takes a perturbed image for a clean one: L_GAN of eq. (1).

    least-squares (D(x_adv) - 1)^2 / 2; bce -log s(D(x_adv)), the non-saturating form; hinge -D(x_adv).
    """
    if form == "least-squares":
        return 0.5 * (fake - 1) ** 2
    return F.softplus(-fake) if form == "bce" else -fake


def looks_real(scores: Tensor, *, form: GAN = "least-squares") -> Tensor:
    """Which images (n,) bool the discriminator takes for clean: above the middle between its two answers."""
    return scores > (0.5 if form == "least-squares" else 0.0)


def hinge(delta: Tensor, c: float | Tensor) -> Tensor:
    """max(0, ||delta||_2 - c): the soft bound L_hinge of eq. (3); `c` is one length, or one for each image (n,)."""
    return F.relu(delta.flatten(1).norm(dim=1) - c)


def sameness(delta: Tensor) -> Tensor:
    """How alike two answers to one image are: the cosine, in [-1, 1], of `delta` (2n, c, h, w) at 0 and 1, 2 and 3, ...

    What a generator with noise minimises (after mode seeking, Mao et al. 2019, without its quotient).
    """
    flat = delta.flatten(1)
    return F.cosine_similarity(flat[:-1:2], flat[1::2], dim=1)


def evasion(suspicion: Tensor, margin: float = 0.1) -> Tensor:
    """relu(s + margin): what is left until a detector that rejects where s > 0 lets an image through, and a little more
    (after Carlini & Wagner 2017, arXiv:1705.07263, section 3: the detector's answer as one more term)."""
    return F.relu(suspicion + margin)


def hinge_start(x: Tensor, norm: str, eps: float) -> float:
    """A c that bites for part of the images like `x`: a little below the length of noise of the same eps."""
    return 0.85 * noise_length(x, norm, eps)


def noise_length(x: Tensor, norm: str, eps: float) -> float:
    """The root mean square l2 length of random-sign noise of size `eps` on images `x` (n, c, h, w), cut at the box.

    Half the pixels go up, half down: E ||delta||^2 = sum of (min(eps, 1 - x)^2 + min(eps, x)^2) / 2. For l2 it is eps.
    """
    if norm == "l2":
        return eps
    up, down = (1 - x).clamp_max(eps), x.clamp_max(eps)
    return float(((up**2 + down**2) / 2).flatten(1).sum(1).mean().sqrt())
