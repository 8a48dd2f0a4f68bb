"""Is this training run collapsing? The ways in which a generative attack fails without an error, told by name."""

from __future__ import annotations

import torch
from torch import Tensor


def symptoms(
    delta: Tensor,
    x: Tensor,
    eps: float | None,
    predictions: Tensor,
    real_kept: float,
    fake_caught: float,
    targeted: bool,
    universal: bool = False,
    with_gan: bool = True,
) -> list[str]:
    """What is wrong, in words, judged on validation images; empty when nothing is.

    delta, x      (n, c, h, w) perturbations and clean images, n >= 2
    eps           the linf bound; None for another norm, where tanh cannot saturate
    predictions   (n,) what the target says of x + delta
    real_kept     share of clean images that the discriminator takes for clean
    fake_caught   share of perturbed images that it takes for perturbed
    with_gan      whether the GAN loss has a weight; without one the discriminator does not matter
    """
    found = []
    if with_gan and real_kept > 0.99 and fake_caught > 0.99:
        apart = min(real_kept, fake_caught)
        found.append(f"the discriminator has won (tells {apart:.1%} apart): the GAN term hardly steers the generator")
    elif with_gan and (real_kept < 0.01 or fake_caught < 0.01):
        found.append(f"the discriminator has given up (clean kept {real_kept:.1%}, perturbed caught {fake_caught:.1%})")
    largest = torch.bincount(predictions).max().item() / len(predictions)
    if largest > 0.9 and not targeted:
        found.append(f"{largest:.0%} of the perturbed images are predicted as class {int(predictions.mode().values)}")
    if eps is not None:
        free = (x >= eps) & (x <= 1 - eps)  # elsewhere the box shortens one side
        signed = delta[free] / eps if free.any() else (delta / eps).flatten()
        for sign, word in ((1, "+eps"), (-1, "-eps")):
            if (sign * signed > 0.95).float().mean() > 0.95:
                found.append(f"tanh is saturated at {word} in nearly every pixel: no gradient reaches the generator")
    spread, size = delta.var(dim=0).sum().sqrt(), delta.flatten(1).norm(dim=1).mean()
    if size < 1e-6:
        found.append("the perturbation is zero")
    elif spread / size < 0.02 and not universal:
        found.append(f"all images get the same perturbation (spread {spread / size:.1%} of its length)")
    return found


def sinks(attacked: Tensor, hits: Tensor, predicted: Tensor) -> list[str]:
    """Classes into which everything is pushed, and whose own images are left: the usual plateau of a generator.

    attacked, hits   (k,) images of each class that counted, and those of them that were fooled
    predicted        (k,) how often each class was the answer to a perturbed image
    """
    rate, mean = hits / attacked.clamp_min(1), hits.sum() / attacked.sum().clamp_min(1)
    fair = predicted.sum() / len(predicted)
    stuck = (attacked >= 5) & (rate < 0.7 * mean) & (predicted > 2 * fair)
    return [
        f"images are pushed into class {c}, whose own stay: {rate[c]:.0%} of them fooled, {mean:.0%} of all (--guide)"
        for c in stuck.nonzero().flatten().tolist()
    ]
