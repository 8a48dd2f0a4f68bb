"""The nearest point of a segment on the wanted side of a decision boundary, clear of float32's rounding errors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from advgan.attacks.active_set import CHUNK
from advgan.attacks.common import frozen_eval
from advgan.attacks.losses import objective, reached
from advgan.core.threat_model import Norm, delta_norms

# How far beyond the boundary an answer lies: a share of its delta, and rounding errors of the image's own size. Sums
# are rounded otherwise in a batch of another size: linear models of 192 values differ by up to 1.8 such errors.
SHARE, ERRORS = 1e-4, 4 * torch.finfo(torch.float32).eps
ROUNDS = 6  # chords at most: a linear model needs one
FURTHER = (1.0, 4.0, 16.0)  # times the clearance, where a batch of another size decides otherwise
OTHER_SIZE = 3  # images in that batch


def clearance(x: Tensor, delta: Tensor, norm: Norm) -> Tensor:
    """(n,) how much longer than at the boundary `delta` (n, c, h, w) from `x` must be, as a share of its length."""
    size = delta_norms(delta)[norm].clamp_min(1e-12)
    return SHARE + ERRORS * delta_norms(x + delta)[norm] / size


def to_boundary(
    model: nn.Module,
    x: Tensor,
    x_adv: Tensor,
    y: Tensor,
    y_target: Tensor | None = None,
    *,
    norm: Norm = "l2",
    kappa: float = 0.0,
) -> Tensor:
    """`x_adv` (n, c, h, w) drawn back toward `x`, down to where its lead is `kappa`, and by `clearance` out again.

    The lead is max_{i != y} z_i - z_y, with `y_target` (n,) z_t - max_{i != t} z_i. The crossing is found by chords
    (regula falsi). An answer on the boundary itself goes a little further out. Images that are equal in both, or that
    are not where they are wanted in `x_adv`, by more than rounding errors, come back as they are.
    """
    result, numbers = x_adv.clone(), (x_adv != x).flatten(1).any(1).nonzero().flatten()
    with frozen_eval(model), torch.no_grad():
        for i in numbers.split(CHUNK if x.device.type == "cpu" else max(len(numbers), 1)):
            aim = None if y_target is None else y_target[i]
            result[i] = _drawn_back(model, x[i], x_adv[i], y[i], aim, norm, kappa)
    return result


def _drawn_back(
    model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor, y_target: Tensor | None, norm: Norm, kappa: float
) -> Tensor:
    """`to_boundary` of one batch."""
    delta, goal = x_adv - x, objective("margin", targeted=y_target is not None)
    extra = clearance(x, delta, norm)

    def lead(points: Tensor, size: int = len(x)) -> tuple[Tensor, Tensor]:
        """Lead over kappa, and whether it is enough, (n,) each, in batches of `size`."""
        logits = torch.cat([model(part) for part in points.split(size)])
        value = goal(logits, y, y_target) - kappa
        return value, reached(logits, y, y_target) & (value >= 0)

    def at(share: Tensor) -> Tensor:
        return (x + share.view(-1, 1, 1, 1) * delta).clamp(0, 1)

    low, high, (below, _), (above, won) = torch.zeros_like(extra), torch.ones_like(extra), lead(x), lead(x_adv)
    # An answer found in a batch of another size may fall short by rounding errors here.
    won = (below < 0) & (won | (below / (below - above) < 1 + extra))
    for _ in range(ROUNDS):
        trial = low + (high - low) * below / (below - above) + extra
        going = won & (trial < high * (1 - SHARE))
        if not going.any():
            break
        value, hit = lead(at(torch.where(going, trial, high)))
        high, above = torch.where(going & hit, trial, high), torch.where(going & hit, value, above)
        low, below = torch.where(going & ~hit, trial, low), torch.where(going & ~hit, value, below)

    crossing, result, left = low + (high - low) * below / (below - above), x_adv, won
    for times in FURTHER:
        share = torch.where(won, torch.maximum(high, crossing + times * extra), 1.0)
        points = at(share)
        clear = left & lead(points)[1] & lead(points, OTHER_SIZE)[1]
        result = torch.where(clear.view(-1, 1, 1, 1), points, result)
        left = left & ~clear
        if not left.any():
            break
    return result
