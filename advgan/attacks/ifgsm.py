"""Iterated FGSM, also called the basic iterative method (Kurakin et al. 2017, arXiv:1607.02533)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from advgan.attacks.gradients import borrowed, check_inputs, chunks, steepest, uphill
from advgan.errors import InputError
from advgan.threat import Norm


def ifgsm(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    steps: int = 10,
    step_size: float | None = None,
    norm: Norm = "linf",
    y_target: Tensor | None = None,
    rng: torch.Generator | None = None,
) -> Tensor:
    """x_{t+1} = project(x_t + step_size sign(grad_x L(x_t, y))), t < steps, from x_0 = x; for l2 grad / ||grad||_2.

    `step_size` None is eps / steps, the form that only its last step takes to the ball's surface; a larger one walks
    along the surface, projected back at every step. L is cross-entropy; with `y_target` (n,) the steps go down
    L(x, y_target). x (n, c, h, w) float32 in [0, 1], `eps` in its units; returns x_adv like `x`.
    Raises InputError for bad input.
    """
    threat = check_inputs(x, y, eps, norm, y_target)
    if steps < 1:
        raise InputError(f"steps must be at least 1, got {steps}")
    step_size = eps / steps if step_size is None else step_size
    if not step_size > 0:
        raise InputError(f"step_size must be positive, got {step_size}")

    found = []
    with borrowed(model), torch.no_grad():
        for x_clean, label, aim in chunks(x, y, y_target):
            x_adv = x_clean
            for _ in range(steps):
                x_adv = threat.project(x_adv + step_size * steepest(uphill(model, x_adv, label, aim), norm), x_clean)
            found.append(x_adv)
    return torch.cat(found)


def ifgsm_projected(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    steps: int = 10,
    norm: Norm = "linf",
    y_target: Tensor | None = None,
    rng: torch.Generator | None = None,
) -> Tensor:
    """`ifgsm` with steps of eps / 4: it reaches the surface of the ball early and spends its other steps there."""
    return ifgsm(model, x, y, eps=eps, steps=steps, step_size=eps / 4, norm=norm, y_target=y_target, rng=rng)
