"""Iterated FGSM, also called the basic iterative method (Kurakin et al. 2017, arXiv:1607.02533)."""

from functools import partial

import torch
from torch import Tensor, nn

from advgan.attacks.common import AttackProblem, check_at_least, check_positive
from advgan.attacks.gradient_ascent import gradient_ascent
from advgan.attacks.losses import Loss
from advgan.core.errors import InputError
from advgan.core.threat_model import Norm


@torch.no_grad()
def ifgsm(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    steps: int = 10,
    step_size: float | None = None,
    relative_step: float | None = None,
    norm: Norm = "linf",
    loss: Loss = "cross-entropy",
    stop_on_success: bool = False,
    y_target: Tensor | None = None,
) -> Tensor:
    """x_{t+1} = project(x_t + step_size sign(grad_x L(x_t, y))), t < steps, from x_0 = x; for l2 grad / ||grad||_2.

    `step_size` None is `relative_step` eps, or eps / steps, which reaches the ball's surface with the last step; a
    larger one moves along the surface, projected back at every step. L is cross-entropy, or that of `losses.get_loss`;
    with `y_target` (n,) the steps go toward that class. `stop_on_success` keeps an image at its first success.
    x (n, c, h, w) float32 in [0, 1], `eps` in its units; returns x_adv like `x`. Raises InputError.
    """
    problem = AttackProblem.checked(model, x, y, eps=eps, norm=norm, y_target=y_target, loss=loss)
    check_at_least(1, steps=steps)
    check_positive(step_size=step_size, relative_step=relative_step)
    if None not in (step_size, relative_step):
        raise InputError(f"expected step_size or relative_step, got {step_size} and {relative_step}")
    if step_size is None:
        step_size = eps / steps if relative_step is None else relative_step * eps
    return gradient_ascent(problem, x, steps=steps, step_size=step_size, stop_on_success=stop_on_success)


ifgsm_projected = partial(ifgsm, relative_step=0.25)
ifgsm_projected.__doc__ = "`ifgsm` with steps of eps / 4: it reaches the surface of the ball early and moves along it."
ifgsm_corner = partial(ifgsm, relative_step=2.0)
ifgsm_corner.__doc__ = """x_{t+1} = clip(x + eps sign(grad_x L(x_t, y))): every iterate is a corner of the ball.

It is `ifgsm` with steps of 2 eps: each leaves the ball, and the projection maps it to a corner (l2: near the surface).
Coarse, and strong where the loss is nearly linear.
"""
