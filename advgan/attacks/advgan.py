"""One pass of a generator, and a few gradient steps from where it has put the image (warm start)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from advgan.attacks.common import check_inputs, check_positive
from advgan.attacks.gradient_ascent import gradient_ascent
from advgan.attacks.losses import Loss, objective
from advgan.core.errors import InputError
from advgan.core.threat_model import Norm
from advgan.models.generator import Generator


def advgan(
    model: nn.Module | None,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    generator: Generator,
    iterations: int | None = None,
    steps: int = 0,
    step_size: float | None = None,
    norm: Norm = "linf",
    loss: Loss = "cross-entropy",
    stop_on_success: bool = False,
    y_target: Tensor | None = None,
    rng: torch.Generator | None = None,
) -> Tensor:
    """x_0 = generator(x), x_{t+1} = project(x_t + step_size sign(grad_x L(x_t))), t < steps; for l2 grad / ||grad||_2.

    iterations  of an unrolled network, None for its own, see `Generator.perturb`
    steps       0 is the one pass, which asks neither the model nor the labels
    step_size   None is eps / 2 for one or two steps and eps / 4 for more: best on validation images
    loss        what L is, see `objective`
    rng         draws the noise of a generator that takes some; None: torch's own
    x (n, c, h, w) float32 in [0, 1]; returns x_adv like `x`. Raises InputError, also for a ball or a class that the
    generator was not trained for.
    """
    threat = check_inputs(x, y, eps, norm, y_target)
    if norm != generator.threat.norm:
        raise InputError(f"the generator was trained for norm {generator.threat.norm}, {norm} was asked for")
    if steps < 0:
        raise InputError(f"steps must not be negative, got {steps}")
    start = generator.perturb(x, y_target, eps, rng=rng, iterations=iterations)
    if not steps:
        return start
    if model is None:
        raise InputError(f"{steps} gradient steps need a model to take them on, got none")
    step_size = eps / (2 if steps <= 2 else 4) if step_size is None else step_size
    check_positive(step_size=step_size)
    goal = objective(loss, targeted=threat.targeted)
    return gradient_ascent(
        model, x, y, y_target, threat, goal, start, steps=steps, step_size=step_size, stop_on_success=stop_on_success
    )
