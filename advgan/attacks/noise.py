"""Random noise of the size an attack may use: what an attack has to beat before it is worth its name."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from advgan.attacks.common import check_at_least, check_inputs, check_positive, fooled, normal, random_start, uniform
from advgan.core.errors import InputError
from advgan.core.threat_model import Norm, Threat

Draw = Callable[[Tensor, Threat, torch.Generator | None], Tensor]


def noise_uniform(
    model: nn.Module | None,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    magnitude: float | None = None,
    draws: int = 1,
    norm: Norm = "linf",
    y_target: Tensor | None = None,
    rng: torch.Generator | None = None,
) -> Tensor:
    """`x` (n, c, h, w) plus noise drawn uniformly from the ball of radius `magnitude` (None: eps), cut at the box.

    draws   1 asks the model nothing; more stop at the first draw that fools it, and return the last one otherwise
    rng     None draws from torch's global generator
    Returns x_adv like `x`, within `eps` of it. Raises InputError for bad input.
    """
    return _noise(random_start, model, x, y, y_target, eps, magnitude, draws, norm, rng)


def noise_gaussian(
    model: nn.Module | None,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    magnitude: float | None = None,
    draws: int = 1,
    norm: Norm = "linf",
    y_target: Tensor | None = None,
    rng: torch.Generator | None = None,
) -> Tensor:
    """`x` plus normal noise of standard deviation `magnitude` (None: eps; for l2 expected length), cut at ball and box.

    What a bad sensor adds. Arguments, answer and errors as for `noise_uniform`.
    """
    return _noise(_gaussian, model, x, y, y_target, eps, magnitude, draws, norm, rng)


def noise_sign(
    model: nn.Module | None,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    magnitude: float | None = None,
    draws: int = 1,
    norm: Norm = "linf",
    y_target: Tensor | None = None,
    rng: torch.Generator | None = None,
) -> Tensor:
    """`x` plus equally large steps of random sign, `magnitude` long (None: eps; for l2 all together), cut at the box.

    The corners of the linf ball: the loudest noise there is, and FGSM with its gradient thrown away. Arguments, answer
    and errors as for `noise_uniform`.
    """
    return _noise(_sign, model, x, y, y_target, eps, magnitude, draws, norm, rng)


def _noise(
    draw: Draw,
    model: nn.Module | None,
    x: Tensor,
    y: Tensor,
    y_target: Tensor | None,
    eps: float,
    magnitude: float | None,
    draws: int,
    norm: Norm,
    rng: torch.Generator | None,
) -> Tensor:
    threat = check_inputs(x, y, eps, norm, y_target)
    check_at_least(1, draws=draws)
    check_positive(magnitude=magnitude)
    size = eps if magnitude is None else magnitude
    loud = Threat(norm, size) if norm == "l2" or size <= 1 else Threat(norm, 1.0)
    x_adv, left = threat.project(draw(x, loud, rng), x), torch.arange(len(x), device=x.device)
    if draws == 1:
        return x_adv
    if model is None:
        raise InputError(f"{draws} draws need a model to say which one fools it, got none")
    for _ in range(draws - 1):
        left = left[~fooled(model, x_adv[left], y[left], None if y_target is None else y_target[left])]
        if not len(left):
            break
        x_adv[left] = threat.project(draw(x[left], loud, rng), x[left])
    return x_adv


def _gaussian(x: Tensor, threat: Threat, rng: torch.Generator | None) -> Tensor:
    return x + _per_pixel(x, threat) * normal(x.shape, x, rng)


def _sign(x: Tensor, threat: Threat, rng: torch.Generator | None) -> Tensor:
    return x + _per_pixel(x, threat) * ((uniform(x.shape, x, rng) < 0.5) * 2.0 - 1)


def _per_pixel(x: Tensor, threat: Threat) -> float:
    """The size of one value's noise that makes the whole `threat.eps` large."""
    return threat.eps if threat.norm == "linf" else threat.eps / max(x[:1].numel(), 1) ** 0.5
