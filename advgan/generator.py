"""The attacker: a network that writes an adversarial image in one forward pass, inside ball and box by construction."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from huggingface_hub import PyTorchModelHubMixin
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError
from torch import Tensor, nn

from advgan.errors import InputError
from advgan.threat import Norm, Threat, check_eps

Architecture = Literal["patch", "paper"]


def bounded(raw: Tensor, x: Tensor, norm: Norm, eps: float) -> Tensor:
    """From unbounded `raw` to x_adv (both the shape of `x`), inside the `eps` ball around `x` and the box [0, 1].

    linf  x_adv = low + (high - low) (1 + tanh raw) / 2 with low = max(x - eps, 0), high = min(x + eps, 1)
    l2    delta = raw scaled down to length eps, then cut at the box, which can only shorten it

    There is no dead pixel, whatever x is: clamping x + delta would pass no gradient to pixels at 0 or 1 (most of
    MNIST), so the l2 form lets the gradient through its cut. In float32 outside autocast: bf16(8/255) exceeds 8/255.
    """
    with torch.autocast(x.device.type, enabled=False):
        x, raw = x.float(), raw.float()
        if norm == "linf":
            low, high = (x - eps).clamp_min(0), (x + eps).clamp_max(1)
            free = low + (high - low) * torch.sigmoid(2 * raw)  # sigmoid(2r) = (1 + tanh r) / 2
        else:
            length = raw.flatten(1).norm(dim=1).clamp_min(1e-12)
            free = x + raw * rearrange((eps / length).clamp_max(1), "n -> n 1 1 1")
            low, high = torch.zeros_like(x), torch.ones_like(x)
        # The value is cut (for linf by one rounding error at most), the gradient is that of the uncut form.
        return free + (free.clamp(low, high) - free).detach()


class InstanceNorm(nn.Module):
    """Instance normalisation with scale and shift (Ulyanov et al. 2016), by two poolings: 3x torch's speed on a CPU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, width, 1, 1))
        self.bias = nn.Parameter(torch.zeros(1, width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:  # (n, width, h, w)
        x = x.float()  # E[x^2] - E[x]^2 needs more digits than bfloat16 has
        size = x.shape[-2:]
        mean = F.avg_pool2d(x, size)
        variance = (F.avg_pool2d(x * x, size) - mean * mean).clamp_min(0)
        scale = self.weight * torch.rsqrt(variance + 1e-5)
        return torch.addcmul(self.bias - mean * scale, x, scale)


class Residual(nn.Module):
    """x + conv-norm-relu-conv-norm(x), 3x3."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            InstanceNorm(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            InstanceNorm(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def patch_network(channels: int, patch: int, width: int, depth: int) -> nn.Sequential:
    """Ours: patch x patch pixels become one position of `width` channels, residual blocks there, and back to pixels.

    The patches overlap: a position sees half a patch beyond each of its borders. Nearly all work is 3x3 convolution at
    1/patch^2 of the positions, which is why one pass costs less than one gradient of a small classifier.
    """
    return nn.Sequential(
        nn.Conv2d(channels, width, patch + 2 * (patch // 2), stride=patch, padding=patch // 2, bias=False),
        InstanceNorm(width),
        nn.ReLU(inplace=True),
        *(Residual(width) for _ in range(depth)),
        nn.Conv2d(width, channels * patch**2, 1),
        nn.PixelShuffle(patch),
    )


def paper_network(channels: int) -> nn.Sequential:
    """The 2018 paper's, as its followers document it: c3s1-8, d16, d32, four residual blocks of 32, u16, u8, c3s1."""

    def step(conv: nn.Module, width: int) -> list[nn.Module]:
        return [conv, InstanceNorm(width), nn.ReLU(inplace=True)]

    return nn.Sequential(
        *step(nn.Conv2d(channels, 8, 3, padding=1, bias=False), 8),
        *step(nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False), 16),
        *step(nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False), 32),
        *(Residual(32) for _ in range(4)),
        *step(nn.ConvTranspose2d(32, 16, 3, stride=2, padding=1, output_padding=1, bias=False), 16),
        *step(nn.ConvTranspose2d(16, 8, 3, stride=2, padding=1, output_padding=1, bias=False), 8),
        nn.Conv2d(8, channels, 3, padding=1),
    )


class Generator(nn.Module, PyTorchModelHubMixin):
    """Images (n, channels, h, w) in [0, 1] of any size -> adversarial images of the same shape, in one pass.

    norm, eps      the ball that every answer lies in (with the box [0, 1]), by construction
    y_target       the class that this generator was trained to pull toward; None: away from the true one
    architecture   "patch" (ours; `patch`, `width`, `depth` are its sizes) or "paper" (Xiao et al. 2018)

    Raises InputError for an impossible ball or size.
    """

    def __init__(
        self,
        channels: int = 1,
        eps: float = 0.3,
        norm: Norm = "linf",
        y_target: int | None = None,
        architecture: Architecture = "patch",
        patch: int = 4,
        width: int = 32,
        depth: int = 2,
    ) -> None:
        super().__init__()
        check_eps(eps, norm)
        for name, value in {"channels": channels, "patch": patch, "width": width}.items():
            if value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")
        if depth < 0:
            raise InputError(f"depth must not be negative, got {depth}")
        if architecture not in ("patch", "paper"):
            raise InputError(f"architecture must be patch or paper, got {architecture!r}")
        self.channels, self.y_target = channels, y_target
        self.threat = Threat(norm=norm, eps=eps, targeted=y_target is not None)
        paper = architecture == "paper"
        self.multiple = 4 if paper else patch
        self.network = paper_network(channels) if paper else patch_network(channels, patch, width, depth)
        self.to(memory_format=torch.channels_last)  # half as much again in speed on a CPU

    def raw(self, x: Tensor) -> Tensor:
        """The unbounded perturbation, the shape of `x`, which is padded to what the network needs and cropped again."""
        h, w = x.shape[-2:]
        padded = F.pad(x, (0, -w % self.multiple, 0, -h % self.multiple), mode="replicate")
        return self.network((2 * padded - 1).contiguous(memory_format=torch.channels_last))[..., :h, :w]

    def forward(self, x: Tensor) -> Tensor:
        """x_adv (n, c, h, w), differentiable, for training; users want `perturb`."""
        return bounded(self.raw(x), x, self.threat.norm, self.threat.eps)

    @torch.no_grad()
    def perturb(self, x: Tensor, y_target: int | Tensor | None = None, eps: float | None = None) -> Tensor:
        """Adversarial images for clean `x` (n, c, h, w) in [0, 1]: float32, detached, on x's device, one pass.

        `eps` may be smaller than the generator's own (same pattern, scaled); `y_target` may only repeat the class it
        was trained for. Raises InputError otherwise, and for images of another kind.
        """
        self._check(x, y_target, eps)
        device = next(self.parameters()).device
        eps = self.threat.eps if eps is None else eps
        chunks = x.to(device, torch.float32).split(128)  # what fits the cache
        x_adv = [bounded(self.raw(chunk), chunk, self.threat.norm, eps) for chunk in chunks]
        return torch.cat(x_adv).contiguous().to(x.device) if x_adv else x.float()

    def _check(self, x: Tensor, y_target: int | Tensor | None, eps: float | None) -> None:
        if not torch.is_floating_point(x) or x.ndim != 4 or x.shape[1] != self.channels:
            expected = f"float images (n, {self.channels}, h, w)"
            raise InputError(f"this generator expects {expected} in [0, 1], got {x.dtype} {tuple(x.shape)}")
        if x.numel() and not (x.min() >= 0 and x.max() <= 1):
            raise InputError(f"images must lie in [0, 1], got {x.min().item():.4g} to {x.max().item():.4g}")
        if y_target is not None and (self.y_target is None or bool((torch.as_tensor(y_target) != self.y_target).any())):
            trained = "untargeted" if self.y_target is None else f"for class {self.y_target}"
            raise InputError(f"this generator was trained {trained}, y_target {y_target} was asked for")
        if eps is not None and check_eps(eps, self.threat.norm) > self.threat.eps:
            raise InputError(f"this generator was trained for eps {self.threat.eps:.6g}, got the larger {eps:.6g}")

    @classmethod
    def from_pretrained(cls, source: str | Path, **kwargs: Any) -> Generator:  # type: ignore[override]
        """A trained generator, in eval mode, from a folder (or its `generator/`) or the Hub ("hf://user/model").

        Raises InputError for a checkpoint that is not there, damaged, or of another architecture.
        """
        name = str(source)
        local, folder = not name.startswith("hf://"), Path(source)
        if local and not (folder / "config.json").is_file():
            if not (folder / "generator" / "config.json").is_file():
                raise InputError(f"no generator in {folder}: expected config.json and model.safetensors there")
            folder = folder / "generator"
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # the mixin prints that it loads
                generator = super().from_pretrained(
                    str(folder) if local else name.removeprefix("hf://"), strict=True, **kwargs
                )
        except (HfHubHTTPError, HFValidationError, OSError) as error:
            if local:
                raise InputError(f"no generator in {folder}: {_first_line(error)}") from None
            raise InputError(f"no generator at {source}: the Hub does not give it ({_first_line(error)})") from None
        except (SafetensorError, json.JSONDecodeError, UnicodeDecodeError, AttributeError) as error:
            raise InputError(f"the generator in {source} is damaged: {_first_line(error)}") from None
        except (RuntimeError, TypeError) as error:
            raise InputError(f"{source} is not a generator of this architecture: {_first_line(error)}") from None
        return generator.eval()


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
