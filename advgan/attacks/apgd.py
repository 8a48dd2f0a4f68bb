"""Auto-PGD: gradient ascent that sets its own step size (Croce & Hein 2020, arXiv:2003.01690, algorithm 1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from advgan.attacks.active_set import ActiveSet
from advgan.attacks.common import (
    check_at_least,
    check_inputs,
    fooled,
    frozen_eval,
    loss_and_gradient,
    random_start,
    steepest_ascent_direction,
)
from advgan.attacks.losses import Loss, Objective, objective
from advgan.core.errors import InputError
from advgan.core.threat_model import Norm, Threat

MOMENTUM = 0.75  # the paper's alpha: the share of the new step, the rest is the step before


def apgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: Norm = "linf",
    steps: int = 100,
    loss: Loss = "cross-entropy",
    restarts: int = 1,
    rho: float = 0.75,
    stop_on_success: bool = True,
    y_target: Tensor | None = None,
    rng: torch.Generator | None = None,
) -> Tensor:
    """z = project(x_t + size d(grad_x L(x_t))), x_{t+1} = project(x_t + .75 (z - x_t) + .25 (x_t - x_{t-1})).

    It starts at random in the ball with a size of 2 eps, and takes `steps` steps. At checkpoints that come ever closer
    the size is halved, and the search goes back to the best point so far, if fewer than `rho` of the steps since the
    last one have raised L, or if neither the size nor the best L has changed.

    loss              what L is, see `objective`: with "dlr" and y_target the targeted form
    restarts          runs; the images that no run before has fooled get another one
    stop_on_success   an image stays where it is first found fooled (x itself is looked at first), and costs nothing
                      from there on; else it is the best of all its points: one that fools, and of these the largest L
    x (n, c, h, w) float32 in [0, 1], `eps` in its units; returns x_adv like `x`. Raises InputError.
    """
    threat = check_inputs(x, y, eps, norm, y_target)
    check_at_least(1, steps=steps, restarts=restarts)
    if not 0 < rho < 1:
        raise InputError(f"rho must be in (0, 1), the share of steps that have to climb, got {rho}")
    goal = objective(loss, targeted=threat.targeted)

    x_adv, top = x.clone(), x.new_full((len(x),), -torch.inf)
    with frozen_eval(model), torch.no_grad():
        done = fooled(model, x, y, y_target) if stop_on_success else torch.zeros_like(y, dtype=torch.bool)
        for _ in range(restarts):
            i = (~done).nonzero().squeeze(1)
            aim = None if y_target is None else y_target[i]
            start = random_start(x[i], threat, rng)
            found, value, won = _climb(model, x[i], y[i], aim, threat, goal, start, steps, rho, stop_on_success)
            better = won | (value > top[i])
            x_adv[i[better]], top[i[better]], done[i] = found[better], value[better], won
    return x_adv


def _climb(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    y_target: Tensor | None,
    threat: Threat,
    goal: Objective,
    start: Tensor,
    steps: int,
    rho: float,
    stop_on_success: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """One run from `start` (n, c, h, w): the best points, the objective there (n,) and whether they fool (n,) bool."""
    n, spans = len(x), _spans(steps).to(x.device)
    here, before = start.clone(), start.clone()  # x_t, x_{t-1}
    best, slope = start.clone(), torch.zeros_like(x)  # the best point so far and the gradient there
    top, last, top_then = (x.new_full((n,), -torch.inf) for _ in range(3))  # L there, at x_{t-1}, and at the checkpoint
    size = x.new_full((n, 1, 1, 1), 2 * threat.eps)
    age, rises = torch.zeros_like(y), torch.zeros_like(y)  # steps taken, and how many of this span's raised L
    won, halved = torch.zeros_like(y, dtype=torch.bool), torch.ones_like(y, dtype=torch.bool)

    pool = ActiveSet(n, x.device)
    while len(i := pool.live):
        label, aim = y[i], None if y_target is None else y_target[i]
        gradient, (_, value, hit) = loss_and_gradient(model, here[i], label, aim, goal)
        rises[i] += (value > last[i]) & (age[i] > 0)
        better = (hit & ~won[i]) | ((hit == won[i]) & (value > top[i]))
        b = i[better]
        best[b], slope[b], top[b], won[b] = here[b], gradient[better], value[better], hit[better]
        last[i] = value

        span = spans[age[i]]
        check = span > 0
        stuck = ~halved[i] & (top[i] <= top_then[i])
        halve = check & ((rises[i] < rho * span) | stuck)
        c, h = i[check], i[halve]
        halved[c], top_then[c], rises[c] = halve[check], top[c], 0
        size[h] /= 2
        here[h], last[h], gradient[halve] = best[h], top[h], slope[h]

        now = here[i]
        step = threat.project(now + size[i] * steepest_ascent_direction(gradient, threat.norm), x[i]) - now
        share = torch.where(age[i] > 0, MOMENTUM, 1.0).view(-1, 1, 1, 1)
        here[i] = threat.project(now + share * step + (1 - share) * (now - before[i]), x[i])
        before[i] = now
        age[i] += 1
        pool.retire((age[i] > steps) | (hit & stop_on_success))
    return best, top, won


def _spans(steps: int) -> Tensor:
    """Steps between the checkpoint w_j and the one before it, at index w_j of (steps + 1,); 0 where none is.

    w_j = ceil(p_j steps), p_0 = 0, p_1 = .22, p_{j+1} = p_j + max(p_j - p_{j-1} - .03, .06), in whole percents.
    """
    spans, last, percent, stride = torch.zeros(steps + 1, dtype=torch.long), 0, 22, 22
    while percent <= 100:
        checkpoint = -(-percent * steps // 100)
        spans[checkpoint] += checkpoint - last
        last, stride = checkpoint, max(stride - 3, 6)
        percent += stride
    return spans
