"""The nearest adversarial point of a segment, on the far side of the boundary by more than float32 rounding errors."""

import torch
from torch import Tensor, nn

from advgan.attacks.active_set import CHUNK
from advgan.attacks.common import AttackProblem, batch_view, frozen_eval
from advgan.attacks.losses import get_loss, is_adversarial
from advgan.core.threat_model import Norm, Threat, delta_norms

# Distance beyond the boundary: a fraction of delta, and rounding errors of the image's own size. Sums are rounded
# differently in a batch of another size: linear models of 192 values differ by up to 1.8 such errors.
FRACTION, ERRORS = 1e-4, 4 * torch.finfo(torch.float32).eps
MAX_CHORDS = 6  # a linear model needs one
FURTHER = (1.0, 4.0, 16.0)  # times the clearance, where a batch of another size decides otherwise
OTHER_SIZE = 3  # images in that batch


def clearance(x: Tensor, delta: Tensor, norm: Norm) -> Tensor:
    """(n,) length beyond the boundary, as a fraction of that of `delta` (n, c, h, w) from `x`."""
    size = delta_norms(delta)[norm].clamp_min(1e-12)
    return FRACTION + ERRORS * delta_norms(x + delta)[norm] / size


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
    """`x_adv` (n, c, h, w) moved back toward `x`, down to margin `kappa`, and out again by `clearance`.

    The margin is max_{i != y} z_i - z_y, with `y_target` (n,) z_t - max_{i != t} z_i. The crossing is found by chords
    (regula falsi). A point on the boundary itself is moved a little further out. Images equal in both, and those whose
    `x_adv` is not adversarial by more than rounding errors, are returned unchanged.
    """
    result, changed = x_adv.clone(), (x_adv != x).flatten(1).any(1).nonzero().flatten()
    problem = AttackProblem(model, x, y, y_target, Threat(norm), get_loss("margin", targeted=y_target is not None))
    with frozen_eval(model), torch.no_grad():
        for i in changed.split(CHUNK if x.device.type == "cpu" else len(changed)) if len(changed) else ():
            result[i] = _batch_to_boundary(problem[i], x_adv[i], kappa)
    return result


def _batch_to_boundary(problem: AttackProblem, x_adv: Tensor, kappa: float) -> Tensor:
    """`to_boundary` of one batch."""
    x, delta = problem.x, x_adv - problem.x
    extra = clearance(x, delta, problem.threat.norm)

    def margin(points: Tensor, size: int = len(x)) -> tuple[Tensor, Tensor]:
        """Margin above kappa, and whether it suffices, (n,) each, in batches of `size`."""
        logits = torch.cat([problem.model(part) for part in points.split(size)])
        value = problem.loss_fn(logits, problem.y, problem.y_target) - kappa
        return value, is_adversarial(logits, problem.y, problem.y_target) & (value >= 0)

    def at(fraction: Tensor) -> Tensor:
        return (x + batch_view(fraction) * delta).clamp(0, 1)

    low, high = torch.zeros_like(extra), torch.ones_like(extra)
    (below, _), (above, success) = margin(x), margin(x_adv)
    # A point found in a batch of another size may fall short by rounding errors here.
    success = (below < 0) & (success | (below / (below - above) < 1 + extra))
    for _ in range(MAX_CHORDS):
        trial = low + (high - low) * below / (below - above) + extra
        going = success & (trial < high * (1 - FRACTION))
        if not going.any():
            break
        value, hit = margin(at(torch.where(going, trial, high)))
        high, above = torch.where(going & hit, trial, high), torch.where(going & hit, value, above)
        low, below = torch.where(going & ~hit, trial, low), torch.where(going & ~hit, value, below)

    crossing, result, remaining = low + (high - low) * below / (below - above), x_adv, success
    for times in FURTHER:
        points = at(torch.where(success, torch.maximum(high, crossing + times * extra), 1.0))
        clear = remaining & margin(points)[1] & margin(points, OTHER_SIZE)[1]
        result = torch.where(batch_view(clear), points, result)
        remaining = remaining & ~clear
        if not remaining.any():
            break
    return result
