"""Momentum iterative FGSM (Dong et al. 2018, arXiv:1710.06081, algorithm 1)."""

import torch
from torch import Tensor, nn

from advgan.attacks.common import AttackProblem, check_at_least, check_positive
from advgan.attacks.gradient_ascent import gradient_ascent
from advgan.attacks.losses import Loss
from advgan.core.threat_model import Norm


@torch.no_grad()
def mifgsm(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    steps: int = 10,
    step_size: float | None = None,
    decay: float = 1.0,
    norm: Norm = "linf",
    loss: Loss = "cross-entropy",
    stop_on_success: bool = False,
    y_target: Tensor | None = None,
) -> Tensor:
    """g_{t+1} = decay g_t + grad / ||grad||_1, x_{t+1} = project(x_t + step_size sign(g_{t+1})); for l2 g / ||g||_2.

    The momentum averages out noise of single gradients: it transfers better than I-FGSM. `step_size` None is
    eps / steps. x (n, c, h, w) float32 in [0, 1], `eps` in its units; returns x_adv like `x`. Raises InputError.
    """
    problem = AttackProblem.checked(model, x, y, eps=eps, norm=norm, y_target=y_target, loss=loss)
    check_at_least(1, steps=steps)
    check_at_least(0, decay=decay)
    step_size = eps / steps if step_size is None else step_size
    check_positive(step_size=step_size)
    return gradient_ascent(problem, x, steps=steps, step_size=step_size, decay=decay, stop_on_success=stop_on_success)
