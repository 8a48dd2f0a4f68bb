"""Projected gradient ascent, the one loop behind FGSM, I-FGSM, MI-FGSM, PGD and the warm start."""

from typing import Literal

import torch
from torch import Tensor

from advgan.attacks.active_set import ActiveSet
from advgan.attacks.common import AttackProblem, batch_view, frozen_eval, loss_and_gradient, steepest_ascent_direction
from advgan.core.rejection import can_reject

Direction = Literal["steepest", "sign", "gradient"]


def gradient_ascent(
    problem: AttackProblem,
    x_init: Tensor,
    *,
    steps: int,
    step_size: float,
    direction: Direction = "steepest",
    decay: float | None = None,
    stop_on_success: bool = False,
) -> Tensor:
    """x_{t+1} = project(x_t + step_size d(g_t)), t < steps, from x_0 = `x_init`; g_t = grad loss(z(x_t)) at x_t itself.

    direction         d: "sign"; "gradient", g itself; "steepest", steepest ascent in the threat's norm (sign, g/|g|)
    decay             None; else g_t becomes decay g_{t-1} + grad / ||grad||_1, momentum (Dong et al. 2018, eq. 6)
    stop_on_success   an image stays at its first success and costs nothing afterwards; always so against a model that
                      can reject, where the two losses would alternate
    Returns x_T like `problem.x`, detached; the model is left unchanged.
    """
    model, x, y, threat = problem.model, problem.x, problem.y, problem.threat
    x_adv, step = x_init.clone(), torch.zeros(len(x), dtype=torch.long, device=x.device)
    velocity = None if decay is None else torch.zeros_like(x)
    stop_on_success |= can_reject(model)
    active = ActiveSet(len(x), x.device)
    with frozen_eval(model), torch.no_grad():
        while len(i := active.indices):
            y_target = None if problem.y_target is None else problem.y_target[i]
            x_t = x_adv[i]
            gradient, state = loss_and_gradient(model, x_t, y[i], y_target, problem.loss_fn)
            if velocity is not None and decay is not None:
                size = gradient.flatten(1).abs().sum(1).clamp_min(1e-38)
                velocity[i] = gradient = decay * velocity[i] + gradient / batch_view(size)
            if direction != "gradient":
                gradient = steepest_ascent_direction(gradient, "linf" if direction == "sign" else threat.norm)
            x_next = threat.project(x_t + step_size * gradient, x[i])
            step[i] += 1
            done = step[i] >= steps
            if stop_on_success:
                x_next = torch.where(batch_view(state.success), x_t, x_next)
                done |= state.success
            x_adv[i] = x_next
            active.drop(done)
    return x_adv
