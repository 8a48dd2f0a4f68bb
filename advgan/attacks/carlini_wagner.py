"""Carlini and Wagner's l2 attack: the smallest delta by gradient descent (2017, arXiv:1608.04644, section VI-A)."""

import torch
from torch import Tensor, nn

from advgan.attacks.active_set import ActiveSet
from advgan.attacks.boundary import to_boundary
from advgan.attacks.common import (
    batch_view,
    check_at_least,
    check_inputs,
    check_positive,
    frozen_eval,
    l2_length,
    loss_and_gradient,
)
from advgan.attacks.losses import get_loss
from advgan.core.rejection import can_reject
from advgan.core.threat_model import Norm

INSIDE = 5e-4  # tanh never reaches 1: black and white pixels start this far inside, for a nonzero gradient


@torch.no_grad()
def carlini_wagner(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    kappa: float = 0.0,
    binary_steps: int = 6,
    steps: int = 200,
    learning_rate: float | None = None,
    initial_c: float | None = None,
    abort_early: bool = True,
    y_target: Tensor | None = None,
) -> Tensor:
    """Minimise ||x_adv - x||_2^2 + c relu(kappa - a(x_adv)) over w, x_adv = (tanh w + 1) / 2, by Adam; c by bisection.

    a is the margin: max_{i != y} z_i - z_y, with `y_target` (n,) z_t - max_{i != t} z_i (-f_6).

    kappa          confidence margin of x_adv; 0 against a model that can reject
    binary_steps   values of c tried: ten times the last until one succeeds, then halfway between failure and success
    steps          of Adam for each of them, every time from x
    learning_rate  Adam's, the same for every w. None: it moves a pixel by half of the average change needed for a
                   linear model, and decays to a tenth within `steps`, for digits and photographs alike. On MNIST 900
                   gradients per image reach the norms of 7,000 with 0.01 (9 values of c, 1,000 steps)
    initial_c      None: 2 (kappa - a) / ||grad a||_2^2 at x, the least sufficient c for a linear model
    abort_early    a value of c is abandoned when a tenth of `steps` has not lowered the minimum by 0.01 %
    Margins are divided by ||grad a||_2 at x, so that the scale of the logits does not matter. The nearest of all
    successes is moved back to margin kappa (`boundary.to_boundary`; not against a model that can reject).
    x (n, c, h, w) float32 in [0, 1]; returns x_adv like `x`, unchanged without a success and where the image is
    misclassified already. Raises InputError.
    """
    check_inputs(x, y, 1.0, "l2", y_target)
    check_at_least(1, binary_steps=binary_steps, steps=steps)
    check_at_least(0, kappa=kappa)
    check_positive(learning_rate=learning_rate, initial_c=initial_c)
    loss_fn = get_loss("margin", targeted=y_target is not None)
    rejects = can_reject(model)
    kappa = 0.0 if rejects else kappa
    search, active = (
        _Search(x, kappa, 0.1 ** (1 / steps) if learning_rate is None else 1.0),
        ActiveSet(len(x), x.device),
    )
    patience = -(-steps // 10) if abort_early else steps

    with frozen_eval(model), torch.no_grad():
        while len(i := active.indices):
            label, target_class, is_first = y[i], None if y_target is None else y_target[i], search.c_trials[i] < 0
            x_adv = torch.where(batch_view(is_first), x[i], (search.w[i].tanh() + 1) / 2)
            gradient, (margin, _, success) = loss_and_gradient(model, x_adv, label, target_class, loss_fn)
            if is_first.any():  # x itself, not yet an attempt
                search.init(i[is_first], gradient[is_first], margin[is_first], learning_rate, initial_c)
            gradient, margin = gradient * batch_view(search.unit[i]), margin * search.unit[i]
            search.update_best(i, x_adv, margin, success & ~is_first)
            search.adam_step(i, x_adv, gradient, margin)
            search.update_c(i[(search.step[i] >= steps) | (search.idle[i] >= patience)])
            active.drop((search.c_trials[i] >= binary_steps) | (success & is_first))
    return search.best if rejects else to_boundary(model, x, search.best, y, y_target, kappa=kappa)


@torch.no_grad()
def carlini_wagner_clipped(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: Norm = "linf",
    kappa: float = 5.0,
    binary_steps: int = 3,
    steps: int = 200,
    y_target: Tensor | None = None,
) -> Tensor:
    """`carlini_wagner` with confidence `kappa`, its result projected onto the `eps` ball of `norm`.

    The bounded form of tables since Xiao et al. 2018; PGD under the same bound is stronger. Arguments and errors as
    there.
    """
    threat = check_inputs(x, y, eps, norm, y_target)
    x_adv = carlini_wagner(model, x, y, kappa=kappa, binary_steps=binary_steps, steps=steps, y_target=y_target)
    return threat.project(x_adv, x)


class _Search:
    """Adam's state, the interval for c and the best result, per image (n,)."""

    def __init__(self, x: Tensor, kappa: float, fall: float) -> None:
        self.x, self.kappa, self.fall, self.best = x, kappa, fall, x.clone()
        self.start, self.w, self.mean, self.square, self.rate = (torch.zeros_like(x) for _ in range(5))
        self.c, self.low = (x.new_zeros(len(x)) for _ in range(2))
        self.unit = torch.ones_like(self.c)  # scale of the margins
        self.high, self.lowest, self.shortest = (torch.full_like(self.c, torch.inf) for _ in range(3))
        self.step, self.idle = (torch.zeros(len(x), dtype=torch.long, device=x.device) for _ in range(2))
        self.c_trials = torch.full_like(self.step, -1)  # finished values of c; -1: x itself is not evaluated yet
        self.succeeded = torch.zeros_like(self.step, dtype=torch.bool)

    def init(self, i: Tensor, gradient: Tensor, margin: Tensor, rate: float | None, c: float | None) -> None:
        """Choose start, learning rate and c for images `i` from the gradient of the margin at x."""
        slope = l2_length(gradient)
        self.unit[i] = unit = torch.where(slope > 0, 1 / slope, 1.0)
        missing = ((self.kappa - margin) * unit).clamp_min(1e-6)
        need = batch_view(missing / gradient[0].numel() ** 0.5).clamp(1e-5, 0.1)  # of a pixel, root mean square
        x, near = self.x[i], (need / 100).clamp_max(INSIDE)
        self.w[i] = self.start[i] = torch.atanh((1 - 2 * near) * (2 * x - 1))
        x = x.maximum(need).minimum(1 - need)  # black and white pixels after such a change
        self.rate[i] = need / 2 / (2 * x * (1 - x)) if rate is None else torch.full_like(x, rate)
        self.c[i] = (2 * missing).clamp_max(1e10) if c is None else c / unit
        self.c_trials[i] = 0

    def update_best(self, i: Tensor, x_adv: Tensor, margin: Tensor, success: Tensor) -> None:
        """Keep the nearest successes, and count the steps since what is minimised last fell."""
        kappa = self.kappa * self.unit[i]
        successes, distance = success & (margin >= kappa), (x_adv - self.x[i]).flatten(1).square().sum(1)
        nearer = successes & (distance < self.shortest[i])
        self.best[i[nearer]], self.shortest[i[nearer]] = x_adv[nearer], distance[nearer]
        self.succeeded[i] |= successes
        loss = distance + self.c[i] * (kappa - margin).relu()
        fell = loss < 0.9999 * self.lowest[i]
        self.lowest[i] = torch.where(fell, loss, self.lowest[i])
        self.idle[i] = torch.where(fell, 0, self.idle[i] + 1)

    def adam_step(self, i: Tensor, x_adv: Tensor, gradient: Tensor, margin: Tensor) -> None:
        """One step of Adam; dx_adv/dw = (1 - tanh^2 w) / 2 = 2 x_adv (1 - x_adv)."""
        pull = self.c[i] * (margin <= self.kappa * self.unit[i])
        slope = (2 * (x_adv - self.x[i]) - batch_view(pull) * gradient) * (1 - self.w[i].tanh().square()) / 2
        self.step[i] += 1
        t = batch_view(self.step[i]).float()
        self.mean[i] = mean = 0.9 * self.mean[i] + 0.1 * slope
        self.square[i] = square = 0.999 * self.square[i] + 0.001 * slope.square()
        rate = self.rate[i] * self.fall**t
        self.w[i] -= rate * mean / (1 - 0.9**t) / ((square / (1 - 0.999**t)).sqrt() + 1e-8)

    def update_c(self, i: Tensor) -> None:
        """Bisect c of images `i`, and restart them from x."""
        succeeded, c = self.succeeded[i], self.c[i]
        self.high[i], self.low[i] = torch.where(succeeded, c, self.high[i]), torch.where(succeeded, self.low[i], c)
        high = self.high[i]
        self.c[i] = torch.where(high.isinf(), (10 * c).clamp_max(1e10), (self.low[i] + high) / 2)
        self.w[i], self.mean[i], self.square[i], self.lowest[i] = self.start[i], 0, 0, torch.inf
        self.step[i], self.idle[i], self.succeeded[i] = 0, 0, False
        self.c_trials[i] += 1
