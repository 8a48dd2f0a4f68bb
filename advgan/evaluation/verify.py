"""Verification of adversarial examples: threat model, prediction and distance, recomputed from the images."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advgan.attacks.active_set import CHUNK
from advgan.attacks.common import frozen_eval
from advgan.core.errors import InputError
from advgan.core.inputs import at_least_float32, predicted
from advgan.core.rejection import accepts, can_reject
from advgan.core.threat_model import Threat, delta_norms, to_8bit
from advgan.defenses import Transforms

SSIM_SMALLEST = 6  # pixels; the gaussian window of 11 cannot be reflected into less


class ThreatModelViolation(Exception):
    """A violated rule of the threat model: `violations` as text."""

    def __init__(self, violations: list[str]) -> None:
        super().__init__("; ".join(violations))
        self.violations = violations


@torch.no_grad()
def verify_examples(
    target: nn.Module, x: Tensor, x_adv: Any, threat: Threat | None, transforms: Transforms | None = None
) -> dict[str, Tensor]:
    """Prediction and distance of each of the adversarial examples `x_adv` of `x` (n, c, h, w); columns (n,) on the CPU.

    The columns that end in _8bit are those of the image after rounding to 8 bits; of a target that can reject,
    `accepted` is False where it does. With `transforms` also those of `predictions_after`. Raises ThreatModelViolation
    for `x_adv` of another shape or outside `threat` (None: no ball, only the box), in either form, and InputError for
    logits that are not finite.
    """
    ball, norm = threat or Threat("linf", 1.0), None if threat is None else threat.norm  # that ball holds the box
    if violations := _violations(x_adv, x, ball):
        raise ThreatModelViolation(violations)
    rounded, rounded_adv = nearest_8bit(x), to_8bit(x_adv, x, norm).float() / 255
    if violations := ball.violations(rounded_adv, rounded):
        raise ThreatModelViolation([f"after rounding to 8 bits: {text}" for text in violations])
    with frozen_eval(target):
        logits, logits_8bit = (at_least_float32(_in_parts(target, images)) for images in (x_adv, rounded_adv))
        if n_not_finite := max(not_finite(logits), not_finite(logits_8bit)):
            raise InputError(
                f"the target returns NaN or infinity for {n_not_finite} of {len(x)} adversarial images of a batch, "
                "expected finite logits"
            )
        confidence, prediction = predicted(logits)
        prediction_8bit = logits_8bit.argmax(1)
        accepted, accepted_8bit = (_in_parts(partial(accepts, target), images) for images in (x_adv, rounded_adv))
    columns = {
        "prediction": prediction,
        "confidence": confidence,
        "prediction_8bit": prediction_8bit,
        **delta_norms(x_adv - x),
        **{f"{norm}_8bit": value for norm, value in delta_norms(rounded_adv - rounded).items()},
        "ssim": _ssim(x, x_adv),
    }
    if can_reject(target):
        columns |= {"accepted": accepted, "accepted_8bit": accepted_8bit}
    if transforms:
        columns |= predictions_after(target, rounded_adv, transforms)
    return {name: column.cpu() for name, column in columns.items()}


@torch.no_grad()
def predictions_after(target: nn.Module, written: Tensor, transforms: Transforms) -> dict[str, Tensor]:
    """The class (n,) of images of 8 bits (n, c, h, w) after each of the transforms, "after NAME"; -1: rejected."""
    columns = {}
    with frozen_eval(target):
        for name, seen in transforms.after(written).items():
            accepted = _in_parts(partial(accepts, target), seen)
            columns[f"after {name}"] = _in_parts(target, seen).argmax(1).where(accepted, -1)
    return columns


def nearest_8bit(x: Tensor) -> Tensor:
    """Clean images with 8 bits."""
    return (x * 255).round() / 255


def not_finite(logits: Tensor) -> int:
    """How many rows of `logits` (n, k) hold NaN or infinity."""
    return int((~torch.isfinite(logits)).any(1).sum())


def _violations(x_adv: Any, x: Tensor, threat: Threat) -> list[str]:
    """Violations of `x_adv` as adversarial examples of `x`, as text."""
    if not isinstance(x_adv, Tensor):
        return [f"returned {type(x_adv).__name__} instead of a tensor"]
    if x_adv.device != x.device:
        return [f"device {x_adv.device} instead of {x.device}"]
    attached = ["still attached to a graph (return x_adv.detach())"] if x_adv.requires_grad else []
    return attached + threat.violations(x_adv.detach(), x)


def _split(x: Tensor) -> tuple[Tensor, ...]:
    """`x` in parts: a CPU is fastest with batches that fit its cache."""
    return x.split(CHUNK if x.device.type == "cpu" else len(x))


def _in_parts(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return torch.cat([function(part) for part in _split(x)])


def _ssim(x: Tensor, x_adv: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004, eq. 13; a Gaussian window of 11 x 11 pixels, sigma 1.5) per image (n,);
    NaN for images too small for its window.

    Not torchmetrics', whose import costs every program seconds.
    """
    if min(x.shape[-2:]) < SSIM_SMALLEST:
        return torch.full((len(x),), torch.nan)
    c1, c2 = 0.01**2, 0.03**2
    row = (torch.arange(-5, 6, dtype=x.dtype, device=x.device) / 1.5).square().div(-2).softmax(0)
    similarities = []
    for clean, adversarial in zip(_split(x), _split(x_adv), strict=True):
        level = clean.mean((2, 3), keepdim=True)  # without it less is lost by the differences of squares
        # As the channels of one image: the window goes over each alone, and faster than over a batch of them.
        planes = [(images - level).flatten(0, 1)[None] for images in (clean, adversarial)]
        a, b = (F.pad(plane, (5, 5, 5, 5), mode="reflect")[0] for plane in planes)
        window = (row[:, None] * row).expand(len(a), 1, 11, 11)
        mean_a, mean_b, aa, bb, ab = F.conv2d(torch.stack([a, b, a * a, b * b, a * b]), window, groups=len(a))
        contrast_and_structure = (2 * (ab - mean_a * mean_b) + c2) / (aa - mean_a**2 + bb - mean_b**2 + c2)
        mean_a, mean_b = (mean + level.flatten(0, 1) for mean in (mean_a, mean_b))
        luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
        similarities.append((luminance * contrast_and_structure).reshape(len(clean), -1).mean(1))
    return torch.cat(similarities)
