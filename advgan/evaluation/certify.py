"""Whether an answer is allowed, and what it amounts to: recomputed from the images alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from advgan.attacks.gradients import borrowed
from advgan.threat import Threat, delta_norms, to_8bit

SSIM_SMALLEST = 6  # pixels; the gaussian window of 11 cannot be reflected into less


def violations(x_adv: Any, x: Tensor, limits: Threat) -> list[str]:
    """What is wrong with `x_adv` as the answer to `x` (n, c, h, w), also in its 8-bit form; empty if nothing is."""
    if not isinstance(x_adv, Tensor):
        return [f"returned {type(x_adv).__name__} instead of a tensor"]
    if x_adv.device != x.device:
        return [f"device {x_adv.device} instead of {x.device}"]
    found = ["still attached to a graph"] if x_adv.requires_grad else []
    found += limits.violations(x_adv.detach(), x)
    if found:
        return found
    rounded, rounded_adv = (x * 255).round() / 255, to_8bit(x_adv, x).float() / 255
    return [f"after rounding to 8 bits: {words}" for words in limits.violations(rounded_adv, rounded)]


@torch.no_grad()
def measure(target: nn.Module, x: Tensor, x_adv: Tensor) -> dict[str, Tensor]:
    """Per image of `x_adv` (n, c, h, w), on the CPU (n,): what the target makes of it, and how far it is from `x`.

    The columns that end in _8bit are those of the image as a file would keep it.
    """
    rounded, rounded_adv = (x * 255).round() / 255, to_8bit(x_adv, x).float() / 255
    with borrowed(target):
        confidence, prediction = target(x_adv).float().softmax(1).max(1)
        prediction_8bit = target(rounded_adv).argmax(1)
    columns = {
        "prediction": prediction,
        "confidence": confidence,
        "prediction_8bit": prediction_8bit,
        **delta_norms(x_adv - x),
        **{f"{norm}_8bit": value for norm, value in delta_norms(rounded_adv - rounded).items()},
        "ssim": _ssim(x, x_adv),
    }
    return {name: column.cpu() for name, column in columns.items()}


def _ssim(x: Tensor, x_adv: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004) per image (n,); NaN for images too small for its window."""
    if min(x.shape[-2:]) < SSIM_SMALLEST:
        return torch.full((len(x),), torch.nan)
    from torchmetrics.functional.image import structural_similarity_index_measure  # seconds to import

    values = structural_similarity_index_measure(x_adv, x, data_range=1.0, reduction="none")
    assert isinstance(values, Tensor)
    return values.reshape(len(x))
