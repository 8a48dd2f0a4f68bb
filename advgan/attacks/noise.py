"""Random noise inside the ball: the baseline of every attack."""

from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from advgan.attacks.common import (
    check_at_least,
    check_inputs,
    check_positive,
    find_adversarial,
    normal,
    random_start,
    uniform,
)
from advgan.core.errors import InputError
from advgan.core.threat_model import Norm, Threat

Distribution = Literal["uniform", "gaussian", "sign"]


@torch.no_grad()
def noise(
    model: nn.Module | None,
    x: Tensor,
    y: Tensor,
    *,
    distribution: Distribution,
    eps: float,
    magnitude: float | None = None,
    draws: int = 1,
    norm: Norm = "linf",
    y_target: Tensor | None = None,
    rng: torch.Generator | None = None,
) -> Tensor:
    """`x` (n, c, h, w) plus noise, projected onto the ball of radius `eps` and the box.

    distribution   "uniform" in the ball of radius `magnitude`; "gaussian" of standard deviation `magnitude`; "sign",
                   `magnitude` times a random sign. For l2, `magnitude` is the (expected) length of the last two
    magnitude      None: eps
    draws          1 needs no model; more stop at the first success, and return the last draw otherwise
    rng            None: torch's global generator
    Returns x_adv like `x`. Raises InputError for bad input.
    """
    threat = check_inputs(x, y, eps, norm, y_target)
    check_at_least(1, draws=draws)
    check_positive(magnitude=magnitude)
    size = eps if magnitude is None else magnitude
    noise_ball = Threat(norm, size) if norm == "l2" or size <= 1 else Threat(norm, 1.0)
    x_adv, remaining = (
        threat.project(_sample(distribution, x, noise_ball, rng), x),
        torch.arange(len(x), device=x.device),
    )
    if draws == 1:
        return x_adv
    if model is None:
        raise InputError(f"{draws} draws need a model to evaluate them, got none")
    for _ in range(draws - 1):
        target_classes = None if y_target is None else y_target[remaining]
        remaining = remaining[~find_adversarial(model, x_adv[remaining], y[remaining], target_classes)]
        if not len(remaining):
            break
        x_adv[remaining] = threat.project(_sample(distribution, x[remaining], noise_ball, rng), x[remaining])
    return x_adv


noise_uniform = partial(noise, distribution="uniform")
noise_uniform.__doc__ = "`noise` drawn uniformly from the ball."
noise_gaussian = partial(noise, distribution="gaussian")
noise_gaussian.__doc__ = "Gaussian `noise`."
noise_sign = partial(noise, distribution="sign")
noise_sign.__doc__ = "`noise` of random sign and one size: corners of the linf ball, FGSM with random signs."


def _sample(distribution: Distribution, x: Tensor, threat: Threat, rng: torch.Generator | None) -> Tensor:
    if distribution == "uniform":
        return random_start(x, threat, rng)
    per_value = threat.eps if threat.norm == "linf" else threat.eps / max(x[:1].numel(), 1) ** 0.5
    if distribution == "gaussian":
        return x + per_value * normal(x.shape, x, rng)
    return x + per_value * ((uniform(x.shape, x, rng) < 0.5) * 2.0 - 1)
