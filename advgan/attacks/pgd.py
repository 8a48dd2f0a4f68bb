"""Projected gradient descent (Madry et al. 2018, arXiv:1706.06083): gradient steps projected onto the ball."""

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from advgan.attacks.common import AttackProblem, check_at_least, check_positive, find_adversarial, random_start
from advgan.attacks.gradient_ascent import Direction, gradient_ascent
from advgan.attacks.losses import Loss
from advgan.core.errors import InputError
from advgan.core.threat_model import Norm

Start = Literal["random", "x"]


@torch.no_grad()
def pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    steps: int = 40,
    step_size: float | None = None,
    norm: Norm = "linf",
    loss: Loss = "cross-entropy",
    start: Start = "random",
    direction: Direction = "steepest",
    restarts: int = 1,
    stop_on_success: bool = False,
    y_target: Tensor | None = None,
    rng: torch.Generator | None = None,
) -> Tensor:
    """x_{t+1} = project(x_t + step_size d(grad_x L(x_t))), t < steps.

    step_size         None: 2.5 eps / steps; required for direction "gradient"
    loss              L, see `losses.get_loss`: "cross-entropy" is the log-odds, whose gradient has the same direction
    start             x_0: "random", uniform in the ball, or "x" itself (only the first restart; the others are random)
    direction         "steepest" (sign for linf, g/|g| for l2), "sign", or "gradient", plain
    restarts          number of runs; later ones attack only images without a success so far
    stop_on_success   stop an image at its first adversarial iterate, and skip its further steps
    x (n, c, h, w) float32 in [0, 1], `eps` in its units; returns x_adv like `x`. Raises InputError.
    """
    problem = AttackProblem.checked(model, x, y, eps=eps, norm=norm, y_target=y_target, loss=loss)
    check_at_least(1, steps=steps, restarts=restarts)
    if start not in ("random", "x") or direction not in ("steepest", "sign", "gradient"):
        expected = "start random or x, and direction steepest, sign or gradient"
        raise InputError(f"expected {expected}, got {start!r} and {direction!r}")
    if step_size is None and direction == "gradient":
        raise InputError("direction gradient needs a step_size, got none: its steps have no fixed length")
    step_size = 2.5 * eps / steps if step_size is None else step_size
    check_positive(step_size=step_size)
    if direction == "gradient" and loss == "cross-entropy":  # a plain step needs the true magnitude
        problem = replace(problem, loss_fn=_cross_entropy)

    x_adv, remaining = x.clone(), torch.arange(len(x), device=x.device)
    for run in range(restarts):
        part = problem[remaining]
        x_init = part.x if start == "x" and run == 0 else random_start(part.x, part.threat, rng)
        x_adv[remaining] = candidates = gradient_ascent(
            part, x_init, steps=steps, step_size=step_size, direction=direction, stop_on_success=stop_on_success
        )
        if run + 1 < restarts:
            remaining = remaining[~find_adversarial(model, candidates, part.y, part.y_target)]
            if not len(remaining):
                break
    return x_adv


def _cross_entropy(logits: Tensor, y: Tensor, y_target: Tensor | None) -> Tensor:
    """Cross-entropy per image (n,), for a target class negated; not the log-odds of `losses.get_loss`."""
    label, sign = (y, 1) if y_target is None else (y_target, -1)
    return sign * cross_entropy(logits.float(), label, reduction="none")
