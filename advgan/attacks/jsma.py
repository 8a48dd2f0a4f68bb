"""The Jacobian saliency map attack, two pixels at a time, few in all (Papernot et al. 2016, arXiv:1511.07528)."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from advgan.attacks.active_set import ActiveSet
from advgan.attacks.common import batch_view, check_classes, check_inputs, frozen_eval, gradient_at, gradients_on
from advgan.attacks.losses import is_adversarial, log_odds_against
from advgan.core.errors import InputError

Derivative = Literal["probabilities", "logits", "softmax"]
PAIRS = 2**22  # pairs evaluated at a time, 16 MiB a matrix


@torch.no_grad()
def jsma(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    theta: float = 1.0,
    gamma: float = 0.145,
    derivative: Derivative = "probabilities",
    y_target: Tensor | None = None,
) -> Tensor:
    """Add `theta` to the most salient pair of pixels, until the class is t = `y_target` (algorithm 2, eq. 8).

    With alpha = dF_t/dx_p + dF_t/dx_q and beta = sum_{j != t} (dF_j/dx_p + dF_j/dx_q), the pair (p, q) has the largest
    -alpha beta of those with alpha > 0 > beta; theta < 0 darkens, and requires alpha < 0 < beta. Untargeted the signs
    are reversed and t is y (Wiyatno & Xu 2018, arXiv:1808.07945); no runner-up class is chosen.

    theta        what is added to a pixel, cut at the box: 1 makes black white. A pixel that has reached the end is out
    gamma        the largest share of pixels that may change (the paper's 14.5 %); changed ones may change again
    derivative   what F is: "probabilities", or "logits" as in the paper, which moves pixels for all other classes alike
                 (targeted, MNIST, model C: the first reaches 98 % with 36 pixels, the second 65 % with 58), or
                 "softmax", the probabilities again, but as autograd differentiates them in float32, which is how they
                 were differentiated in 2016. For confident predictions p_t underflows to 0, and so does its gradient:
                 no pair is found, and the attack fails although the image is no further from the boundary. This is
                 the effect of defensive distillation (Papernot et al. 2016, arXiv:1511.04508; Carlini & Wagner 2016,
                 arXiv:1607.04311); "probabilities" has the same pixels in the same order, and cannot underflow
    A "pixel" is a single value of the c h w in an image: an RGB pixel is three.
    x (n, c, h, w) float32 in [0, 1]; returns x_adv like `x`, unchanged where it is misclassified already, where no pair
    is left and where gamma is used up. Raises InputError.
    """
    check_inputs(x, y, 1.0, "l2", y_target)
    if not -1 <= theta <= 1 or theta == 0:
        raise InputError(f"theta must be in [-1, 1] and not 0, got {theta}")
    if not 0 < gamma <= 1:
        raise InputError(f"gamma must be in (0, 1], got {gamma}")
    if derivative not in get_args(Derivative):
        raise InputError(f"derivative must be of probabilities, logits or softmax, got {derivative!r}")
    values, sign = x.flatten(1).clone(), 1 if theta > 0 else -1  # (n, d)
    changed, limit = torch.zeros_like(values, dtype=torch.bool), int(gamma * values.shape[1])
    success, active = torch.zeros_like(y, dtype=torch.bool), ActiveSet(len(x), x.device)
    with frozen_eval(model), torch.no_grad():
        while len(i := active.indices):
            target_class = None if y_target is None else y_target[i]
            toward, away, success[i] = _saliency(model, values[i].view_as(x[i]), y[i], target_class, derivative)
            if derivative != "softmax":  # its underflow is intended
                toward, away = _scaled(toward), _scaled(away)
            inside = values[i] < 1 if theta > 0 else values[i] > 0
            room = limit - changed[i].sum(1, keepdim=True) >= 2
            pair, exists = best_pair(sign * toward, -sign * away, inside & (changed[i] | room))
            going = exists & ~success[i]
            k, pair = i[going, None], pair[going]
            values[k, pair] = (values[k, pair] + theta).clamp(0, 1)
            changed[k, pair] = True
            active.drop(~going)
    return torch.where(batch_view(success), values.view_as(x), x)


def _saliency(
    model: nn.Module, x_adv: Tensor, y: Tensor, y_target: Tensor | None, derivative: Derivative
) -> tuple[Tensor, Tensor, Tensor]:
    """dF_t/dx and sum_{j != t} dF_j/dx (n, d), untargeted -dF_y/dx and likewise, and which images are adversarial."""
    with gradients_on():
        label, sign = (y.clone(), -1) if y_target is None else (y_target.clone(), 1)
        leaf = x_adv.detach().clone().requires_grad_()
        logits = model(leaf)
        check_classes(torch.maximum(y, label), logits)
        if derivative == "probabilities":
            # dp_t = p_t (1 - p_t) d(-excess): the same order of pixels, but no p that underflows. And the other
            # probabilities lose what p_t gains.
            toward = gradient_at(leaf, -sign * log_odds_against(logits, label).sum())
            away = -toward
        else:
            output = logits if derivative == "logits" else logits.float().softmax(1)
            label_weights = torch.zeros_like(output).scatter(1, label[:, None], sign)
            toward = gradient_at(leaf, output, label_weights, again=True)
            away = gradient_at(leaf, output, sign - label_weights)
    return toward.flatten(1), away.flatten(1), is_adversarial(logits.detach(), y, y_target)


def _scaled(gradient: Tensor) -> Tensor:
    """`gradient` (n, d) with a largest entry of 1 in each row, so that no product of two underflows or overflows."""
    return gradient / gradient.abs().amax(1, keepdim=True).clamp_min(1e-38)


def best_pair(u: Tensor, v: Tensor, free: Tensor) -> tuple[Tensor, Tensor]:
    """The pair p != q (n, 2) of `free` (n, d) values with the largest (u_p + u_q)(v_p + v_q), both sums positive.

    Also returns which images (n,) have such a pair. Exact over all d^2 pairs, but few are evaluated: where two
    other values are at least as large in u and in v, one of them can replace a value in its pair. The remaining values,
    sorted by u, have a v not below the second largest v before them: about ten of hundreds.
    """
    n, d = u.shape
    if n == 0 or d < 2:
        return torch.zeros(n, 2, dtype=torch.long, device=u.device), torch.zeros(n, dtype=torch.bool, device=u.device)
    u, order = u.masked_fill(~free, -torch.inf).sort(dim=1, descending=True, stable=True)
    v = v.masked_fill(~free, -torch.inf).gather(1, order)
    largest = v.cummax(1).values
    second = torch.minimum(v[:, 1:], largest[:, :-1]).cummax(1).values  # second[:, k]: of v_0 ... v_{k+1}
    kept = u > -torch.inf
    kept[:, 2:] &= v[:, 2:] >= second[:, :-1]

    width = max(int(kept.sum(1).max()), 2)
    place = kept.byte().argsort(dim=1, descending=True, stable=True)[:, :width]
    u, v, order = u.gather(1, place), v.gather(1, place), order.gather(1, place)
    best, pair = torch.zeros(n, device=u.device), torch.zeros(n, 2, dtype=torch.long, device=u.device)
    for p in torch.arange(width, device=u.device).split(max(PAIRS // (n * width), 1)):
        sum_u, sum_v = u[:, p, None] + u[:, None], v[:, p, None] + v[:, None]  # (n, len(p), width)
        score = (sum_u * sum_v).where((sum_u > 0) & (sum_v > 0), 0)
        score[:, torch.arange(len(p)), p] = 0
        value, where = score.flatten(1).max(1)
        chunk_pair = torch.stack([p[where // width], where % width], 1)
        pair = torch.where((value > best)[:, None], chunk_pair, pair)
        best = best.maximum(value)
    return order.gather(1, pair), best > 0
