"""Iterated FGSM, also called the basic iterative method (Kurakin et al. 2017, arXiv:1607.02533)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from advgan.attacks.common import check_at_least, check_inputs, check_positive
from advgan.attacks.gradient_ascent import gradient_ascent
from advgan.attacks.losses import Loss, objective
from advgan.core.threat_model import Norm


def ifgsm(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    steps: int = 10,
    step_size: float | None = None,
    norm: Norm = "linf",
    loss: Loss = "cross-entropy",
    stop_on_success: bool = False,
    y_target: Tensor | None = None,
    rng: torch.Generator | None = None,
) -> Tensor:
    """x_{t+1} = project(x_t + step_size sign(grad_x L(x_t, y))), t < steps, from x_0 = x; for l2 grad / ||grad||_2.

    `step_size` None is eps / steps, the form that only its last step takes to the ball's surface; a larger one walks
    along the surface, projected back at every step. L is cross-entropy, or the `loss` that `objective` knows by name;
    with `y_target` (n,) the steps go toward that class. `stop_on_success` leaves an image where it is first found
    fooled. x (n, c, h, w) float32 in [0, 1], `eps` in its units; returns x_adv like `x`. Raises InputError.
    """
    threat = check_inputs(x, y, eps, norm, y_target)
    check_at_least(1, steps=steps)
    step_size = eps / steps if step_size is None else step_size
    check_positive(step_size=step_size)
    goal = objective(loss, targeted=threat.targeted)
    return gradient_ascent(
        model, x, y, y_target, threat, goal, x, steps=steps, step_size=step_size, stop_on_success=stop_on_success
    )


def ifgsm_projected(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    steps: int = 10,
    norm: Norm = "linf",
    loss: Loss = "cross-entropy",
    stop_on_success: bool = False,
    y_target: Tensor | None = None,
    rng: torch.Generator | None = None,
) -> Tensor:
    """`ifgsm` with steps of eps / 4: it reaches the surface of the ball early and spends its other steps there."""
    return ifgsm(
        *(model, x, y), eps=eps, steps=steps, step_size=eps / 4, norm=norm, loss=loss,
        stop_on_success=stop_on_success, y_target=y_target, rng=rng,
    )  # fmt: skip


def ifgsm_corner(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    steps: int = 10,
    norm: Norm = "linf",
    loss: Loss = "cross-entropy",
    stop_on_success: bool = False,
    y_target: Tensor | None = None,
    rng: torch.Generator | None = None,
) -> Tensor:
    """x_{t+1} = clip(x + eps sign(grad_x L(x_t, y))): the lectures' form, whose every iterate is a corner of the ball.

    It is `ifgsm` with steps of 2 eps: from anywhere in the ball such a step leaves it, and the projection snaps it to a
    corner (for l2: near the surface). Coarse, and strong where the loss is nearly linear.
    """
    return ifgsm(
        *(model, x, y), eps=eps, steps=steps, step_size=2 * eps, norm=norm, loss=loss,
        stop_on_success=stop_on_success, y_target=y_target, rng=rng,
    )  # fmt: skip
