"""Projected gradient ascent, the one loop behind FGSM, I-FGSM, MI-FGSM, PGD and the warm start."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from advgan.attacks.active_set import ActiveSet
from advgan.attacks.common import frozen_eval, loss_and_gradient, steepest_ascent_direction
from advgan.attacks.losses import Objective
from advgan.core.threat_model import Threat

Direction = Literal["steepest", "sign", "gradient"]


def gradient_ascent(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    y_target: Tensor | None,
    threat: Threat,
    goal: Objective,
    start: Tensor,
    *,
    steps: int,
    step_size: float,
    direction: Direction = "steepest",
    decay: float | None = None,
    stop_on_success: bool = False,
) -> Tensor:
    """x_{t+1} = project(x_t + step_size d(g_t)), t < steps, from x_0 = `start`; g_t = grad goal(z(x_t)) at x_t itself.

    direction         d: "sign"; "gradient", g itself; "steepest", the longest climb in the threat's norm (sign, g/|g|)
    decay             None; else g_t becomes decay g_{t-1} + grad / ||grad||_1, momentum (Dong et al. 2018, eq. 6)
    stop_on_success   an image stays where it is first found fooled, and costs nothing from there on; so it does
                      against a model that can reject, where its next aim would lead it back and forth
    All tensors are like x (n, c, h, w) or (n,). Returns x_T like `x`, detached; the model is left as found.
    """
    x_adv, age = start.clone(), torch.zeros(len(x), dtype=torch.long, device=x.device)
    velocity = None if decay is None else torch.zeros_like(x)
    stop_on_success |= hasattr(model, "rejection_score")
    pool = ActiveSet(len(x), x.device)
    with frozen_eval(model), torch.no_grad():
        while len(i := pool.live):
            label, aim = y[i], None if y_target is None else y_target[i]
            here = x_adv[i]
            gradient, now = loss_and_gradient(model, here, label, aim, goal)
            if velocity is not None and decay is not None:
                size = gradient.flatten(1).abs().sum(1).clamp_min(1e-38).view(-1, 1, 1, 1)
                velocity[i] = gradient = decay * velocity[i] + gradient / size
            if direction != "gradient":
                gradient = steepest_ascent_direction(gradient, "linf" if direction == "sign" else threat.norm)
            there = threat.project(here + step_size * gradient, x[i])
            age[i] += 1
            done = age[i] >= steps
            if stop_on_success:
                there = torch.where(now.won.view(-1, 1, 1, 1), here, there)
                done |= now.won
            x_adv[i] = there
            pool.retire(done)
    return x_adv
