"""DeepFool: the nearest decision boundary, linearised step by step (Moosavi-Dezfooli et al. 2016, arXiv:1511.04599)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from advgan.attacks.gradients import borrowed, check_inputs, chunks
from advgan.errors import InputError
from advgan.threat import Norm


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
    """The smallest delta in `norm` that leaves class `y`, as if the model were linear around each iterate (algorithm 2).

    Per step, with f_k = z_k - z_y and w_k its gradient at x_t, over the `candidates` most likely classes of x:
        l = argmin_k |f_k| / ||w_k||_q,   r += |f_l| / ||w_l||_2^2 w_l     (linf: |f_l| / ||w_l||_1 sign w_l),
        x_{t+1} = clip(x + (1 + overshoot) r),
    until the prediction is no longer y; q is 2 for l2 and 1 for linf. A two-class model is the binary case (algorithm 1).
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
        parts = [_search(model, x, y, norm, steps, candidates, 1 + overshoot) for x, y, _ in chunks(x, y)]
    return torch.cat(parts)


def _search(model: nn.Module, x: Tensor, y: Tensor, norm: Norm, steps: int, candidates: int, reach: float) -> Tensor:
    """DeepFool on one chunk. `live` numbers the images still in their class; only those are forwarded."""
    found, live, r = x.clone(), torch.arange(len(x), device=x.device), torch.zeros_like(x)
    logits = model(x)
    if logits.shape[1] < 2 or (len(y) and int(y.max()) >= logits.shape[1]):
        raise InputError(
            f"classes must be below the target's {logits.shape[1]} logits (at least 2), got {int(y.max())}"
        )
    # The most likely classes of the clean image, without y: -inf puts it last.
    others = logits.scatter(1, y[:, None], -torch.inf).argsort(1, descending=True)[
        :, : min(candidates, logits.shape[1]) - 1
    ]

    for step in range(steps):
        # Whom the last step has fooled is known before any gradient is: finished images cost one forward, no more.
        if step > 0:
            logits = model(found[live])
        still = logits.argmax(1) == y[live]
        live, r = live[still], r[still]
        if not len(live):
            break
        f, w = _boundaries(model, found[live], y[live], others[live])
        r = r + _shortest(f, w, norm)
        found[live] = (x[live] + reach * r).clamp(0, 1)
    return found


def _boundaries(model: nn.Module, x: Tensor, y: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """f (n, k) = z_others - z_y and its gradients w (n, k, c, h, w) at `x`: one forward, one backward per candidate."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        logits = model(leaf)
        f = logits.float().gather(1, others) - logits.float().gather(1, y[:, None])
        if not f.requires_grad:
            raise InputError("the target passes no gradient to its input: DeepFool needs one that does")
        columns, last = f.sum(0).unbind(), f.shape[1] - 1
        w = [torch.autograd.grad(column, leaf, retain_graph=k < last)[0] for k, column in enumerate(columns)]
    return f.detach(), torch.stack(w, dim=1)


def _shortest(f: Tensor, w: Tensor, norm: Norm) -> Tensor:
    """The shortest step (n, c, h, w) onto any of the linearised boundaries f + w delta = 0."""
    flat = w.flatten(2)
    slope = (flat.norm(dim=2) if norm == "l2" else flat.abs().sum(2)).clamp_min(1e-12)  # the dual norm of w
    distance, best = (f.abs() / slope).min(1)
    rows = torch.arange(len(f), device=f.device)
    w, slope = w[rows, best], slope[rows, best].view(-1, 1, 1, 1)
    # An image exactly on the boundary still has to take a step, or it stays there.
    return distance.clamp_min(1e-6).view(-1, 1, 1, 1) * (w / slope if norm == "l2" else w.sign())
