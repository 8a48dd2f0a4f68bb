"""Auto-PGD: gradient ascent that sets its own step size (Croce & Hein 2020, arXiv:2003.01690, algorithm 1)."""

import torch
from torch import Tensor, nn

from advgan.attacks.active_set import ActiveSet
from advgan.attacks.common import (
    AttackProblem,
    batch_view,
    check_at_least,
    find_adversarial,
    frozen_eval,
    loss_and_gradient,
    random_start,
    steepest_ascent_direction,
)
from advgan.attacks.losses import Loss
from advgan.core.errors import InputError
from advgan.core.threat_model import Norm

RHO = 0.75  # fraction of the steps between two checkpoints that have to raise the loss
MOMENTUM = 0.75  # the paper's alpha: weight of the new step; the previous one has the rest


@torch.no_grad()
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
    rho: float = RHO,
    stop_on_success: bool = True,
    y_target: Tensor | None = None,
    rng: torch.Generator | None = None,
) -> Tensor:
    """z = project(x_t + size d(grad_x L(x_t))), x_{t+1} = project(x_t + .75 (z - x_t) + .25 (x_t - x_{t-1})).

    It starts at random in the ball with a size of 2 eps, and takes `steps` steps. At checkpoints that come ever closer
    the size is halved, and the search goes back to the best point so far, if fewer than `rho` of the steps since the
    last one have raised L, or if neither the size nor the best L has changed.

    loss              L, see `losses.get_loss`: with "dlr" and y_target the targeted form
    restarts          runs; each but the first for the images without a success so far
    stop_on_success   an image stays at its first success (x itself is tried first) and costs nothing afterwards; else
                      the best of all points is returned: successes first, then the largest L
    x (n, c, h, w) float32 in [0, 1], `eps` in its units; returns x_adv like `x`. Raises InputError.
    """
    problem = AttackProblem.checked(model, x, y, eps=eps, norm=norm, y_target=y_target, loss=loss)
    check_at_least(1, steps=steps, restarts=restarts)
    if not 0 < rho < 1:
        raise InputError(f"rho must be in (0, 1), the fraction of steps that have to raise the loss, got {rho}")

    x_adv, best_loss = x.clone(), x.new_full((len(x),), -torch.inf)
    done = find_adversarial(model, x, y, y_target) if stop_on_success else torch.zeros_like(y, dtype=torch.bool)
    for _ in range(restarts):
        i = (~done).nonzero().squeeze(1)
        x_init = random_start(x[i], problem.threat, rng)
        x_run, loss_run, success = adaptive_ascent(
            problem[i], x_init, steps=steps, step_size=2 * eps, rho=rho, stop_on_success=stop_on_success
        )
        better = success | (loss_run > best_loss[i])
        x_adv[i[better]], best_loss[i[better]], done[i] = x_run[better], loss_run[better], success
    return x_adv


def adaptive_ascent(
    problem: AttackProblem,
    x_init: Tensor,
    *,
    steps: int,
    step_size: float,
    rho: float = RHO,
    stop_on_success: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """One run from `x_init` (n, c, h, w) with steps of `step_size` at first: the best points, the loss there (n,) and
    whether they succeed (n,) bool. The model is left unchanged."""
    x, y, threat = problem.x, problem.y, problem.threat
    n, spans = len(x), _spans(steps).to(x.device)
    x_adv, previous = x_init.clone(), x_init.clone()  # x_t, x_{t-1}
    best, best_gradient = x_init.clone(), torch.zeros_like(x)
    best_loss, last_loss, checkpoint_loss = (x.new_full((n,), -torch.inf) for _ in range(3))
    size = x.new_full((n, 1, 1, 1), step_size)
    step, rises = torch.zeros_like(y), torch.zeros_like(y)  # steps taken, and how many of this span's raised the loss
    success, halved = torch.zeros_like(y, dtype=torch.bool), torch.ones_like(y, dtype=torch.bool)

    active = ActiveSet(n, x.device)
    with frozen_eval(problem.model), torch.no_grad():
        while len(i := active.indices):
            y_target = None if problem.y_target is None else problem.y_target[i]
            gradient, (_, rank, hit) = loss_and_gradient(problem.model, x_adv[i], y[i], y_target, problem.loss_fn)
            rises[i] += (rank > last_loss[i]) & (step[i] > 0)
            better = (hit & ~success[i]) | ((hit == success[i]) & (rank > best_loss[i]))
            b = i[better]
            best[b], best_gradient[b] = x_adv[b], gradient[better]
            best_loss[b], success[b] = rank[better], hit[better]
            last_loss[i] = rank

            span = spans[step[i]]
            check = span > 0
            stuck = ~halved[i] & (best_loss[i] <= checkpoint_loss[i])
            halve = check & ((rises[i] < rho * span) | stuck)
            c, h = i[check], i[halve]
            halved[c], checkpoint_loss[c], rises[c] = halve[check], best_loss[c], 0
            size[h] /= 2
            x_adv[h], last_loss[h] = best[h], best_loss[h]
            # Not in place: autograd may expand a gradient.
            gradient = torch.where(batch_view(halve), best_gradient[i], gradient)

            x_t = x_adv[i]
            move = threat.project(x_t + size[i] * steepest_ascent_direction(gradient, threat.norm), x[i]) - x_t
            alpha = batch_view(torch.where(step[i] > 0, MOMENTUM, 1.0)).float()
            x_adv[i] = threat.project(x_t + alpha * move + (1 - alpha) * (x_t - previous[i]), x[i])
            previous[i] = x_t
            step[i] += 1
            active.drop((step[i] > steps) | (hit & stop_on_success))
    return best, best_loss, success


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
