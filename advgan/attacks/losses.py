"""What an attacker raises: one value (n,) per image from its logits (n, k), larger where the attack is nearer its goal.

Untargeted it is doubt in the true class `y`; with `y_target` trust in that class. All are translation invariant, so a
target may shift its logits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from advgan.core.errors import InputError
from advgan.models.losses import margin

Loss = Literal["cross-entropy", "margin", "dlr", "difference"]
Objective = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def objective(loss: str, targeted: bool = False) -> Objective:
    """The function (logits, y, y_target) -> (n,) that `loss` names.

    cross-entropy  CE(y), targeted -CE(y_target): `excess`, whose gradient has the same direction
    margin         max_{i != y} z_i - z_y, targeted z_t - max_{i != t} z_i            (Carlini & Wagner 2017, f_6)
    dlr            the margin over z_(1) - z_(3), the logits sorted: free of scale     (Croce & Hein 2020, eq. 6 and 7)
    difference     z_t - z_y = CE(y) - CE(y_target), the lectures' targeted loss; needs y_target
    Raises InputError for an unknown name and for one that does not fit; dlr, when called, for too few classes.
    """
    if loss not in get_args(Loss):
        raise InputError(f"loss must be one of {', '.join(get_args(Loss))}, got {loss!r}")
    if loss == "difference" and not targeted:
        raise InputError("loss difference compares the class that is aimed at with the true one, got no y_target")
    forms: dict[str, Objective] = {
        "cross-entropy": lambda z, y, t: excess(z, y) if t is None else -excess(z, t),
        "margin": lambda z, y, t: -margin(z.float(), y) if t is None else margin(z.float(), t),
        "dlr": _dlr,
        "difference": lambda z, y, t: _pick(z, y if t is None else t) - _pick(z, y),
    }
    return forms[loss]


def excess(logits: Tensor, label: Tensor) -> Tensor:
    """How far all other classes together outweigh class `label` (n,): log sum_{i != label} exp z_i - z_label.

    Cross-entropy is softplus of this, so both have gradients of the same direction, image by image. But where the model
    is sure, p rounds to 1 in float32 and cross-entropy's gradient p - 1 loses its main part, or all of it; this one's
    never does (FGSM at 8/255 on a CIFAR ResNet-20: 95 % success by this, 89 % by cross-entropy).
    """
    others = logits.float().scatter(1, label[:, None], -torch.inf)
    return others.logsumexp(1) - _pick(logits, label)


def reached(logits: Tensor, y: Tensor, y_target: Tensor | None) -> Tensor:
    """Which images (n,) bool are where the attacker wants them: no longer `y`, or now `y_target`."""
    return logits.argmax(1) != y if y_target is None else logits.argmax(1) == y_target


def _dlr(logits: Tensor, y: Tensor, y_target: Tensor | None) -> Tensor:
    """(max_{i != y} z_i - z_y) / (z_(1) - z_(3)), targeted (z_t - z_y) / (z_(1) - (z_(3) + z_(4)) / 2)."""
    needed = 3 if y_target is None else 4
    if logits.shape[1] < needed:
        raise InputError(f"loss dlr takes a ratio of logits of at least {needed} classes, got {logits.shape[1]}")
    ordered = logits.float().sort(dim=1, descending=True).values
    if y_target is None:
        return -margin(logits.float(), y) / (ordered[:, 0] - ordered[:, 2]).clamp_min(1e-12)
    spread = ordered[:, 0] - (ordered[:, 2] + ordered[:, 3]) / 2
    return (_pick(logits, y_target) - _pick(logits, y)) / spread.clamp_min(1e-12)


def _pick(logits: Tensor, label: Tensor) -> Tensor:
    return logits.float().gather(1, label[:, None]).squeeze(1)
