"""DeepFool: the nearest decision boundary, linearised step by step (Moosavi-Dezfooli et al. 2016, arXiv:1511.04599)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from advgan.attacks.gradients import borrowed, check_classes, check_inputs, chunks
from advgan.errors import InputError
from advgan.threat import Norm

CHUNK = 100  # larger than what one gradient likes: most images finish early, and a few alone are slow


def deepfool(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    norm: Norm = "l2",
    steps: int = 50,
    candidates: int = 10,
    overshoot: float = 0.02,
    *,
    eps: float | None = None,
    y_target: Tensor | None = None,
    rng: torch.Generator | None = None,
) -> Tensor:
    """The smallest delta in `norm` that leaves class `y`, the model taken as linear around each iterate (algorithm 2).

    Per step, with f_k = z_k - z_y and w_k its gradient at x_t, over the `candidates` most likely classes of x:
        l = argmin_k |f_k| / ||w_k||_q,   r += |f_l| / ||w_l||_2^2 w_l     (linf: |f_l| / ||w_l||_1 sign w_l),
        x_{t+1} = clip(x + (1 + overshoot) r),
    until the prediction is not y; q is 2 for l2 and 1 for linf. With two classes it is the binary case (algorithm 1).
    Images that are misclassified already come back unchanged. x (n, c, h, w) float32 in [0, 1]; returns x_adv like `x`,
    as far from it as it takes: `eps` and `rng`, part of every attack's call, have no say.
    Raises InputError for bad input and for `y_target`, which the method does not have.
    """
    check_inputs(x, y, 1.0, norm)
    if y_target is not None:
        raise InputError("DeepFool goes to the nearest other class, expected no y_target: it cannot aim at one")
    if steps < 1 or candidates < 2 or overshoot < 0:
        wanted = "steps >= 1, candidates >= 2 and overshoot >= 0"
        raise InputError(f"DeepFool needs {wanted}, got {steps}, {candidates} and {overshoot}")
    with borrowed(model), torch.no_grad():
        parts = [_search(model, x, y, norm, steps, candidates, 1 + overshoot) for x, y, _ in chunks(x, y, size=CHUNK)]
    return torch.cat(parts)


def _search(model: nn.Module, x: Tensor, y: Tensor, norm: Norm, steps: int, candidates: int, reach: float) -> Tensor:
    """DeepFool on one chunk. `live` numbers the images still in their class; only those are forwarded."""
    found, live, r = x.clone(), torch.arange(len(x), device=x.device), torch.zeros_like(x)
    logits = model(x)
    check_classes(y, logits)
    # The most likely classes of the clean image, without y: -inf puts it last.
    ranked = logits.scatter(1, y[:, None], -torch.inf).argsort(1, descending=True)
    others = ranked[:, : min(candidates, logits.shape[1]) - 1]

    for step in range(steps):
        # Whom the last step has fooled is known before any gradient is: finished images cost one forward, no more.
        if step > 0:
            logits = model(found[live])
        still = logits.argmax(1) == y[live]
        live, r = live[still], r[still]
        if not len(live):
            break
        r = r + _shortest(model, found[live], y[live], others[live], norm)
        found[live] = (x[live] + reach * r).clamp(0, 1)
    return found


def _shortest(model: nn.Module, x: Tensor, y: Tensor, others: Tensor, norm: Norm) -> Tensor:
    """The shortest step (n, c, h, w) from `x` onto a boundary between `y` and `others` (n, k), linearised at `x`.

    One forward, and one backward per boundary through the same graph.
    """
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        logits = model(leaf).float()
        f = logits.gather(1, others) - logits.gather(1, y[:, None])
        if not f.requires_grad:
            raise InputError("the target passes no gradient to its input: DeepFool needs one that does")
        totals, last = f.sum(0).unbind(), f.shape[1] - 1

    nearest, step = torch.full((len(x), 1, 1, 1), torch.inf, device=x.device), torch.zeros_like(x)
    for k, total in enumerate(totals):
        (w,) = torch.autograd.grad(total, leaf, retain_graph=k < last)
        slope = (w.flatten(1).norm(dim=1) if norm == "l2" else w.flatten(1).abs().sum(1)).clamp_min(1e-12)  # dual norm
        # The box cuts steps short, so an image may near a boundary for ever: the last 1e-4 is taken in one stride.
        distance = (f[:, k].detach().abs() / slope).clamp_min(1e-4).view(-1, 1, 1, 1)
        direction = w / slope.view(-1, 1, 1, 1) if norm == "l2" else w.sign()
        step = torch.where(distance < nearest, distance * direction, step)
        nearest = nearest.minimum(distance)
    return step
