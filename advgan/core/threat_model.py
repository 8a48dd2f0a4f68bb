"""The threat model: a ball and the box [0, 1], projection onto them, and norms of perturbations."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from einops import rearrange
from torch import Tensor

from advgan.core.errors import InputError
from advgan.core.inputs import check_number, check_whole
from advgan.core.terminal import printable

DefenseKnowledge = Literal["adaptive", "naive", "oblivious"]  # see advgan.attacks.registry.AttackSpec
Norm = Literal["linf", "l2"]
NORMS: tuple[Norm, ...] = ("linf", "l2")
LARGEST_L2 = 1e6  # of an image of 10^12 values; float32 holds its products with steps and lengths
RESCALE_ITERS = 3  # passes: on MNIST the cut leaves 1.34 of l2 1.5, one pass makes it 1.496, three 1.5000
SLACK = 1e-4  # grey levels, of float32 rounding
THRESHOLD_STEPS = 8  # of bisection: the threshold is right to 0.002 grey levels
TOLERANCE = {"linf": 1e-6, "l2": 1e-5}  # float32 rounding of one subtraction; of a sum of squares


def check_eps(eps: float, norm: str, name: str = "eps") -> float:
    """`eps` itself. Raises InputError unless it is a valid radius: in (0, 1] for linf, (0, `LARGEST_L2`] for l2."""
    if norm not in NORMS:
        raise InputError(f"norm must be one of {', '.join(NORMS)}, got {norm!r}")
    check_number(name, eps)
    levels, length = "8 of 255 grey levels is 8/255", "no two images of n values are farther apart than sqrt(n)"
    largest, hint = (1.0, levels) if norm == "linf" else (LARGEST_L2, length)
    if not 0 < eps <= largest:
        raise InputError(f"{name} must be in (0, {largest:g}] (pixels lie in [0, 1]; {hint}), got {eps}")
    return float(eps)


def toward_text(row: Mapping[str, Any]) -> str:
    """The aim of a result for a title: ", toward class 3 (cat)", "" for an untargeted attack.

    row   with "y_target", and "y_target_name" where the class has a name
    """
    name = printable(row.get("y_target_name") or "")
    return "" if row["y_target"] is None else f", toward class {row['y_target']}" + (f" ({name})" if name else "")


def check_class(y_target: int | None, num_classes: int) -> None:
    """Raise InputError unless `y_target` is None or one of the classes 0, ..., num_classes - 1."""
    if y_target is not None:
        check_whole("y_target", y_target)
    if y_target is not None and not 0 <= y_target < num_classes:
        raise InputError(f"y_target must be a class from 0 to {num_classes - 1}, got {y_target}")


def delta_norms(delta: Tensor) -> dict[str, Tensor]:
    """Per-sample norms of `delta` (n, c, h, w), each (n,) float32; l0 counts pixels (positions), not channels."""
    flat = delta.detach().float().flatten(1)
    return {
        "l0": (delta.detach() != 0).any(dim=1).flatten(1).sum(1).float(),
        "l2": flat.norm(dim=1),
        "linf": flat.abs().amax(1),
    }


def to_8bit(x_adv: Tensor, x: Tensor, norm: Norm | None = "linf") -> Tensor:
    """`x_adv` as uint8 (n, c, h, w): clean `x` plus whole grey levels, in every ball of that norm that holds `x_adv`.

    linf  delta rounded to the nearest level, but to none above its largest value: 0.3 * 255 = 76.5 becomes 76
    l2    delta rounded up from a threshold on, the same for an image's pixels: the smallest from 1/2 at which the
          length of delta is not exceeded
    None  delta rounded to the nearest level: no ball, as of a minimum-norm attack

    Clean 8-bit images stay exact.
    """
    delta = (x_adv.double() - x.double()).mul_(255)  # in place, to save memory bandwidth for large images
    if norm is None:
        levels = delta.round_()
    elif norm == "linf":
        most = (delta.abs().amax((1, 2, 3), keepdim=True) + SLACK).floor_()
        levels = delta.round_().clamp_(-most, most)
    else:
        levels = _rounded_in_length(delta)
    return levels.add_((x * 255).round()).clamp_(0, 255).to(torch.uint8)


def _rounded_in_length(delta: Tensor) -> Tensor:
    """`delta` (n, c, h, w) in grey levels as whole ones, each image no longer than it was."""
    size, length = delta.abs().add_(SLACK), delta.flatten(1).norm(dim=1) + SLACK
    low, high = torch.full_like(length, 0.5), torch.ones_like(length)
    levels = size.floor()  # toward zero, if no smaller threshold will do
    for _ in range(THRESHOLD_STEPS):
        threshold = (low + high) / 2
        rounded = (size + rearrange(1 - threshold, "n -> n 1 1 1")).floor_()
        fits = rounded.flatten(1).norm(dim=1) <= length
        levels[fits] = rounded[fits]
        low, high = threshold.where(~fits, low), threshold.where(fits, high)
    return levels.mul_(delta.sign())


def squash_to_ball(raw: Tensor, x: Tensor, norm: Norm, eps: float | Tensor) -> Tensor:
    """From unbounded `raw` to x_adv (both the shape of `x`), inside the `eps` ball around `x` and the box [0, 1].

    `eps` is one radius, or one for each image (n,).

    linf  x_adv = low + (high - low) (1 + tanh raw) / 2 with low = max(x - eps, 0), high = min(x + eps, 1)
    l2    delta = raw scaled down to length eps and clamped to the box; the lost length is added to the other pixels by
          a few iterations: min(s |raw|, room) per pixel, where s grows until the length is eps. A step s -> s eps /
          length never exceeds eps: no pixel grows by more than this factor.

    Every pixel has a gradient: clamping x + delta would pass none to pixels at 0 or 1 (most of MNIST), so the l2 form
    has a straight-through gradient at its clamp. In float32 outside autocast: bf16(8/255) exceeds 8/255.
    """
    with torch.autocast(x.device.type, enabled=False):
        x, raw = x.float(), raw.float()
        if isinstance(eps, Tensor):
            eps = rearrange(eps.float(), "n -> n 1 1 1")
        if norm == "linf":
            # In place: for a batch the memory of a new tensor takes longer to get than its values to compute.
            low, high = (x - eps).clamp_min_(0), (x + eps).clamp_max_(1)
            x_adv = low.lerp(high, (2 * raw).sigmoid_())  # sigmoid(2r) = (1 + tanh r) / 2
        else:
            length = rearrange(raw.flatten(1).norm(dim=1).clamp_min(1e-12), "n -> n 1 1 1")
            target_norm = length.minimum(torch.as_tensor(eps, device=x.device))
            raw = raw * (target_norm / length)
            scale, target_norm, raw_detached = torch.ones_like(target_norm), target_norm.detach(), raw.detach()
            for _ in range(RESCALE_ITERS):
                delta = (x + scale * raw_detached).clamp_(0, 1).sub_(x)
                norms = rearrange(delta.flatten(1).norm(dim=1).clamp_min(1e-12), "n -> n 1 1 1")
                scale = scale * (target_norm / norms).clamp(1, 2)
            x_adv = x + scale * raw
            low, high = torch.zeros_like(x), torch.ones_like(x)
        # Clamped value (for linf by one rounding error at most), gradient without the clamp.
        return x_adv + (x_adv.clamp(low, high) - x_adv).detach() if x_adv.requires_grad else x_adv.clamp_(low, high)


@dataclass(frozen=True)
class Threat:
    """The ball of radius `eps` (pixel units of [0, 1]) around a clean image, intersected with the box [0, 1].

    Raises InputError for an unknown norm or an invalid radius.
    """

    norm: Norm = "linf"
    eps: float = 0.3
    targeted: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "eps", check_eps(self.eps, self.norm))  # a float: also of a tensor, or NumPy's

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Nearest point in the ball, then in the box, in float32 (bf16(8/255) is larger than 8/255). Shape of `x`.

        Take gradients at the result, never through it: since torch 2.15 clamp passes none at its bounds.
        """
        x, delta = x.float(), x_adv.float() - x.float()
        if self.norm == "linf":
            delta = delta.clamp(-self.eps, self.eps)
        else:
            length = delta.flatten(1).norm(dim=1).clamp_min(1e-12)
            delta = delta * (self.eps / length).clamp_max(1).view(-1, *[1] * (x.ndim - 1))
        return (x + delta).clamp(0, 1)

    def violations(self, x_adv: Tensor, x: Tensor) -> list[str]:
        """The violations of `x_adv` for clean `x` (n, c, h, w), as text; empty without any."""
        if x_adv.shape != x.shape:
            return [f"shape {tuple(x_adv.shape)} instead of {tuple(x.shape)}"]
        if x_adv.dtype != torch.float32:
            return [f"dtype {x_adv.dtype} instead of torch.float32"]
        if not torch.isfinite(x_adv).all():
            return [f"{int((~torch.isfinite(x_adv)).flatten(1).any(1).sum())} images with NaN or infinity"]
        problems = []
        if x_adv.min() < 0 or x_adv.max() > 1:
            problems.append(f"pixels outside [0, 1]: {x_adv.min().item():.6g} to {x_adv.max().item():.6g}")
        delta = (x_adv - x).flatten(1)
        longest = (delta.abs() if self.norm == "linf" else delta.norm(dim=1)).max().item() if len(x) else 0.0
        if longest > self.eps + TOLERANCE[self.norm]:
            problems.append(f"{self.norm} {longest:.7g} exceeds eps {self.eps:.7g}")
        return problems
