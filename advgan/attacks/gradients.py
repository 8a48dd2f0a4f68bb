"""What the gradient attacks share: the model lent to an attack and given back as it was, and one gradient at x_adv."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from advgan.attacks.objectives import Objective, reached
from advgan.attacks.pool import Pool
from advgan.errors import InputError
from advgan.threat import Norm, Threat

BEYOND = 1000.0  # more than any objective


def check_inputs(x: Tensor, y: Tensor, eps: float, norm: str, y_target: Tensor | None = None) -> Threat:
    """The threat that an attack on images `x` (n, c, h, w) with labels `y` (n,) has to keep to.

    Raises InputError, before any work, for an impossible ball, images that are not float32 in [0, 1], or labels and
    target classes that are not (n,) integers from 0 on.
    """
    threat = Threat(norm, eps, targeted=y_target is not None)  # type: ignore[arg-type]
    check_images(x)
    for name, label in {"y": y, "y_target": y if y_target is None else y_target}.items():
        if not isinstance(label, Tensor) or label.shape != (len(x),) or label.dtype != torch.int64:
            got = f"{label.dtype} {tuple(label.shape)}" if isinstance(label, Tensor) else repr(label)
            raise InputError(f"{name} must be an int64 tensor of shape ({len(x)},), one class per image, got {got}")
        if len(label) and int(label.min()) < 0:
            raise InputError(f"{name} must hold classes from 0 on, got {int(label.min())}")
    return threat


def check_images(x: Tensor) -> None:
    """Raise InputError unless `x` is float32 (n, c, h, w) in [0, 1]."""
    if x.dtype != torch.float32 or x.ndim != 4:
        raise InputError(f"images must be float32 of shape (n, c, h, w), got {x.dtype} {tuple(x.shape)}")
    if x.numel() and not (x.min() >= 0 and x.max() <= 1):
        raise InputError(f"images must lie in [0, 1], got {x.min().item():.4g} to {x.max().item():.4g}")


def check_classes(label: Tensor, logits: Tensor) -> None:
    """Raise InputError unless the target's `logits` (n, k) have a column for each `label` (n,)."""
    k, largest = logits.shape[1], int(label.max()) if len(label) else 0
    if k < 2:
        raise InputError(f"the target must tell at least 2 classes apart, got logits of shape {tuple(logits.shape)}")
    if largest >= k:
        raise InputError(f"labels must be classes of the target, numbered 0 to {k - 1}, got {largest}")


def check_at_least(least: float, **values: float) -> None:
    """Raise InputError for the first of an attack's settings that is below `least`: check_at_least(1, steps=steps)."""
    for name, value in values.items():
        if not value >= least:
            raise InputError(f"{name} must be at least {least:g}, got {value}")


def check_positive(**values: float | None) -> None:
    """Raise InputError for the first of an attack's settings that is not above 0; None is one that was not made."""
    for name, value in values.items():
        if value is not None and not value > 0:
            raise InputError(f"{name} must be positive, got {value}")


@contextmanager
def borrowed(model: nn.Module) -> Iterator[nn.Module]:
    """`model` in eval mode and frozen, so that only the input's gradient is computed; given back as it was found."""
    modes = {module: module.training for module in model.modules()}
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in trainable:
            parameter.requires_grad_(False)
        yield model.eval()
    finally:
        for module, training in modes.items():
            module.training = training
        for parameter in trainable:
            parameter.requires_grad_(True)


class Standing(NamedTuple):
    """How near its goal an attacker is with each image (n,).

    value   what is raised: the objective; of an image that fools a model which can reject, minus the model's suspicion
    rank    of two points the better one has the larger: `value`, but for one that fools, which is above all others
    won     bool: it fools, and is not rejected
    """

    value: Tensor
    rank: Tensor
    won: Tensor


def standing(model: Any, x: Tensor, y: Tensor, y_target: Tensor | None, goal: Objective) -> Standing:
    """Where images `x` (n, c, h, w) stand, by one forward of each.

    Against a model with a `suspicion` (n,), positive where it rejects, each image has one aim at a time: to fool, and
    once it does, to be answered (Bryniarski et al. 2021, arXiv:2106.15023: selective gradient descent).
    """
    logits = model(x)
    check_classes(y if y_target is None else torch.maximum(y, y_target), logits)
    value, won = goal(logits, y, y_target), reached(logits, y, y_target)
    if not hasattr(model, "suspicion") or not won.any():
        return Standing(value, value.detach(), won)
    i = won.nonzero().squeeze(1)
    doubt = model.suspicion(x[i])
    rank = BEYOND - doubt.detach() / (1 + doubt.detach().abs())
    rank = value.detach().index_put((i,), rank)
    return Standing(value.index_put((i,), -doubt), rank, won.index_put((i,), doubt <= 0))


def rejects(model: Any, x: Tensor) -> Tensor:
    """Which images `x` (n, c, h, w) the model does not answer: (n,) bool; none, where it has no `suspicion`."""
    if not hasattr(model, "suspicion"):
        return torch.zeros(len(x), dtype=torch.bool, device=x.device)
    found: Tensor = model.suspicion(x) > 0
    return found


def uphill(
    model: nn.Module, x_adv: Tensor, y: Tensor, y_target: Tensor | None, goal: Objective
) -> tuple[Tensor, Standing]:
    """The gradient (n, c, h, w), at `x_adv` itself, of what an attacker raises, and how near its goal it is there.

    `x_adv` is a leaf here. No gradient goes through the clamp that made it: since torch 2.15 clamp passes none at its
    bounds, and most pixels of a digit are exactly 0.
    """
    with torch.enable_grad():
        leaf = x_adv.detach().requires_grad_()
        here = standing(model, leaf, y, y_target, goal)
        if not here.value.requires_grad:
            raise InputError("the target passes no gradient to its input: this attack needs one that does")
        return torch.autograd.grad(here.value.sum(), leaf)[0], here._replace(value=here.value.detach())


@torch.no_grad()
def fooled(model: nn.Module, x: Tensor, y: Tensor, y_target: Tensor | None) -> Tensor:
    """Which images `x` (n, c, h, w) are where the attacker wants them, and not rejected: (n,) bool, by one forward."""
    found, pool = torch.zeros(len(x), dtype=torch.bool, device=x.device), Pool(len(x), x.device)
    with borrowed(model):
        while len(i := pool.live):
            logits = model(x[i])
            check_classes(y if y_target is None else torch.maximum(y, y_target), logits)
            found[i] = reached(logits, y[i], None if y_target is None else y_target[i]) & ~rejects(model, x[i])
            pool.retire(torch.ones_like(i, dtype=torch.bool))
    return found


def steepest(gradient: Tensor, norm: Norm) -> Tensor:
    """The step of length 1 in `norm` that climbs most along `gradient` (n, c, h, w); zero where the gradient is."""
    if norm == "linf":
        return gradient.sign()
    # Divide by the largest entry first: the squares of a small gradient underflow.
    gradient = gradient / gradient.flatten(1).abs().amax(1).clamp_min(1e-38).view(-1, 1, 1, 1)
    return gradient / gradient.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)


def length(gradient: Tensor) -> Tensor:
    """(n,) the l2 norm of `gradient` (n, c, h, w), also where its squares would underflow or overflow."""
    largest = gradient.flatten(1).abs().amax(1)
    return largest * (gradient.flatten(1) / largest.clamp_min(1e-38)[:, None]).norm(dim=1)


def random_start(x: Tensor, threat: Threat, rng: torch.Generator | None) -> Tensor:
    """`x` (n, c, h, w) plus noise drawn uniformly from the ball, cut at the box; from `rng`, on its device."""
    if threat.norm == "linf":
        delta = threat.eps * (2 * uniform(x.shape, x, rng) - 1)
    else:  # a normal direction is uniform on the sphere; the d-th root spreads the radius over the ball
        delta = normal(x.shape, x, rng)
        radius = threat.eps * uniform((len(x), 1, 1, 1), x, rng) ** (1 / max(x[:1].numel(), 1))
        delta = delta * radius / delta.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)
    return threat.project(x + delta, x)


def uniform(shape: tuple[int, ...] | torch.Size, x: Tensor, rng: torch.Generator | None) -> Tensor:
    """Uniform in [0, 1), drawn where `rng` lives (None: torch's global one), brought to where `x` lives."""
    return torch.rand(shape, generator=rng, device=rng.device if rng else x.device).to(x.device)


def normal(shape: tuple[int, ...] | torch.Size, x: Tensor, rng: torch.Generator | None) -> Tensor:
    """Standard normal, drawn like `uniform`."""
    return torch.randn(shape, generator=rng, device=rng.device if rng else x.device).to(x.device)
