"""Random noise of the size an attack may use: what an attack has to beat before it is worth its name."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from advgan.attacks.gradients import check_inputs
from advgan.threat import Norm


def noise_uniform(
    model: nn.Module | None,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: Norm = "linf",
    y_target: Tensor | None = None,
    rng: torch.Generator | None = None,
) -> Tensor:
    """`x` (n, c, h, w) plus noise drawn uniformly from the ball, cut at the box. The model is not asked.

    Returns x_adv like `x`. `rng` None draws from torch's global generator. Raises InputError for bad input.
    """
    threat = check_inputs(x, y, eps, norm, y_target)
    if norm == "linf":
        delta = eps * (2 * _uniform(x.shape, x, rng) - 1)
    else:  # a normal direction is uniform on the sphere; the d-th root spreads the radius over the ball
        delta = _normal(x, rng)
        radius = eps * _uniform((len(x), 1, 1, 1), x, rng) ** (1 / max(x[:1].numel(), 1))
        delta = delta * radius / delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    return threat.project(x + delta, x)


def noise_sign(
    model: nn.Module | None,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: Norm = "linf",
    y_target: Tensor | None = None,
    rng: torch.Generator | None = None,
) -> Tensor:
    """`x` (n, c, h, w) plus equally large steps of random sign, as long as the ball allows, cut at the box.

    The corners of the linf ball: the loudest noise there is, and FGSM with its gradient thrown away.
    Returns x_adv like `x`. `rng` None draws from torch's global generator. Raises InputError for bad input.
    """
    threat = check_inputs(x, y, eps, norm, y_target)
    step = eps if norm == "linf" else eps / max(x[:1].numel(), 1) ** 0.5
    signs = (_uniform(x.shape, x, rng) < 0.5) * 2.0 - 1
    return threat.project(x + step * signs, x)


def _uniform(shape: tuple[int, ...] | torch.Size, x: Tensor, rng: torch.Generator | None) -> Tensor:
    """Uniform in [0, 1), drawn where `rng` lives, brought to where `x` lives."""
    return torch.rand(shape, generator=rng, device=rng.device if rng else x.device).to(x.device)


def _normal(x: Tensor, rng: torch.Generator | None) -> Tensor:
    return torch.randn(x.shape, generator=rng, device=rng.device if rng else x.device).to(x.device)
