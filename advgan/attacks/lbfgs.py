"""Box-constrained L-BFGS, the first of all attacks (Szegedy et al. 2014, arXiv:1312.6199, section 4.1)."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from advgan.attacks.boundary import to_boundary
from advgan.attacks.common import (
    check_at_least,
    check_classes,
    check_inputs,
    check_positive,
    frozen_eval,
    gradient_at,
    gradients_on,
    l2_length,
    loss_and_gradient,
)
from advgan.attacks.losses import LossFn, get_loss

CANDIDATES = 10  # most likely classes whose boundaries are measured
CLEAN_ODDS = 10.0  # log-odds against the desired class at x, to which the logits are scaled
PRECISION = 1e-5  # relative: the precision of float32 logits; below it a line search fails in their noise


@torch.no_grad()
def lbfgs(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    initial_c: float | None = None,
    binary_steps: int = 9,
    steps: int = 20,
    y_target: Tensor | None = None,
) -> Tensor:
    """Minimise c ||r||_2^2 + loss(x + r) over r with x + r in [0, 1]; the largest c whose result is adversarial.

    loss is -log of the probability of the desired class: `y_target` (n,), CE(y_target), as in the paper; untargeted, of
    the other class k with the nearest boundary, linearised at x (the least |z_k - z_y| / ||grad(z_k - z_y)||_2 of the
    most likely ones), against y alone. (The likeliest other class may be further; -CE(y) has no lower bound.) The
    logits are scaled so that the log-odds of y against the desired class are 10 at x, which changes no decision.

    initial_c      the first c; None: ||grad a||_2^2 / (4 |a|) at x, right for a linear model of two classes, where a
                   is the log-odds of the desired class
    binary_steps   values of c tried: multiplied or divided by 4 until one succeeds and one fails, then geometric means
    steps          of L-BFGS-B for each of them, starting at the end of the previous one
    Image by image, since scipy's optimiser takes one problem at a time: batches are no faster. The nearest success of
    all points evaluated is moved to the boundary, clear of rounding errors (`boundary.to_boundary`).
    x (n, c, h, w) float32 in [0, 1]; returns x_adv like `x`, unchanged without a success and where the image is
    misclassified already. Raises InputError.
    """
    check_inputs(x, y, 1.0, "l2", y_target)
    check_at_least(1, binary_steps=binary_steps, steps=steps)
    check_positive(initial_c=initial_c)
    x_adv = x.clone()
    model = nn.Sequential(model)  # hides a rejection score: a line search needs one smooth objective
    with frozen_eval(model):
        if len(x):
            with torch.no_grad():  # all at once: probabilities are recognised by several images
                check_classes(y if y_target is None else torch.maximum(y, y_target), model(x))
        for k in range(len(x)):
            target_class = None if y_target is None else y_target[k : k + 1]
            problem = _Problem(model, x[k : k + 1], y[k : k + 1], target_class)
            if not problem.success:
                problem.search(initial_c, binary_steps, steps)
                x_adv[k] = problem.best[0]
    return to_boundary(model, x, x_adv, y, y_target)


def _nearest(model: nn.Module, x: Tensor, y: Tensor) -> int:
    """The class with the nearest boundary to that of `y` (1,), linearised at `x` (1, c, h, w); y itself without any."""
    with gradients_on():
        leaf, y = x.detach().clone().requires_grad_(), y.clone()
        outputs = model(leaf)
        check_classes(y, outputs)
        logits = outputs.float()[0]
        label = int(y)
        likely = logits.detach().index_fill(0, y, -torch.inf).topk(min(CANDIDATES, len(logits)) - 1).indices.tolist()
        distances = []
        for k in likely:
            gap = logits[label] - logits[k]
            slope = l2_length(gradient_at(leaf, gap, again=True)).item()
            distances.append((gap.item() / slope if slope else np.inf, k))
    return min(distances, default=(np.inf, label))[1]


def _pair(k: int) -> LossFn:
    """Logit of class `k` minus that of the true class."""
    return lambda z, y, t: z.float()[:, k] - z.float().gather(1, y[:, None])[:, 0]


class _Problem:
    """One image: c ||r||^2 + loss(x + r) in float64 for scipy, and the nearest success so far."""

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor, y_target: Tensor | None) -> None:
        self.model, self.x, self.y, self.y_target = model, x, y, y_target
        self.clean = x.double().flatten().cpu().numpy()
        self.best, self.shortest, self.scale = x, np.inf, 1.0
        self.log_odds = get_loss("margin", targeted=y_target is not None)
        lead, _ = self._evaluate(x)
        if not self.success:
            self.scale = CLEAN_ODDS / max(abs(lead), 1e-30)
            odds = get_loss("cross-entropy", targeted=True)
            self.log_odds = odds if y_target is not None else _pair(_nearest(model, x, y))
            self.odds, self.slope = self._evaluate(x)

    def _evaluate(self, x_adv: Tensor) -> tuple[float, np.ndarray]:
        """The log-odds of the desired class at `x_adv`, and their gradient (d,); updates `success`."""
        scale = self.scale
        scaled: LossFn = lambda z, y, t: self.log_odds(scale * z.float(), y, t)  # noqa: E731
        slope, state = loss_and_gradient(self.model, x_adv, self.y, self.y_target, scaled)
        self.success = bool(state.success)
        return float(state.loss), slope.double().flatten().cpu().numpy()

    def value(self, flat: np.ndarray, c: float) -> tuple[float, np.ndarray]:
        """c ||r||^2 + softplus(-log-odds) = c ||r||^2 - log p at x_adv = `flat`, and the gradient."""
        r, x_adv = flat - self.clean, torch.from_numpy(flat).to(self.x).view_as(self.x)
        odds, slope = self._evaluate(x_adv)
        if self.success and r @ r < self.shortest:
            self.best, self.shortest = x_adv, r @ r
        loss = float(softplus(torch.tensor(-odds, dtype=torch.float64)))
        return c * (r @ r) + loss, 2 * c * r - slope / (1 + np.exp(min(odds, 700.0)))

    def search(self, c: float | None, binary_steps: int, steps: int) -> None:
        """Search over c: upward while the results are adversarial, downward while they are not, then bisection."""
        from scipy.optimize import Bounds, minimize  # slow to import

        if c is None:
            c = float(np.clip(self.slope @ self.slope / (4 * max(abs(self.odds), 1e-6)), 1e-6, 1e10))
        box, options = Bounds(0, 1), {"maxiter": steps, "ftol": PRECISION, "gtol": 0.0}
        c_success, c_failure, point = 0.0, np.inf, self.clean
        for _ in range(binary_steps):
            point = minimize(self.value, point, (c,), "L-BFGS-B", jac=True, bounds=box, options=options).x
            self.value(point, c)
            c_success, c_failure = (c, c_failure) if self.success else (c_success, c)
            c = (
                4 * c_success
                if np.isinf(c_failure)
                else c_failure / 4
                if not c_success
                else float(np.sqrt(c_success * c_failure))
            )
