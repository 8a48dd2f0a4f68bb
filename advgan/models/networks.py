"""The generator's networks: from an image to an unbounded perturbation, of convolutions and instance normalisation.

Each takes x (n, c, h, w) and, where it was made with `cond_dim` above 0, a condition (n, cond_dim) of class, eps, noise
and the guide's logits: it scales and shifts the channels after every normalisation (FiLM, Perez et al. 2018).
"""

import math
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


def zero_init(layer: Any) -> Any:
    """`layer`, with an output of zero at first."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def logit_features(logits: Tensor) -> Tensor:
    """Logits (n, k) as the input of a network: probabilities and standardised logits (n, 2k)."""
    standard = (logits - logits.mean(1, keepdim=True)) / (logits.std(1, keepdim=True) + 1e-6)
    return torch.cat([logits.softmax(1), standard], dim=1)


class InstanceNorm(nn.Module):
    """Instance normalisation with scale and shift (Ulyanov et al. 2016), by two poolings: 3x torch's speed on a CPU.

    With `cond_dim` above 0 scale and shift depend on a condition of that length, at first not at all.
    """

    def __init__(self, width: int, cond_dim: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, width, 1, 1))
        self.bias = nn.Parameter(torch.zeros(1, width, 1, 1))
        self.film = zero_init(nn.Linear(cond_dim, 2 * width)) if cond_dim else None

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:  # (n, width, h, w), (n, cond_dim)
        x = x.float()  # E[x^2] - E[x]^2 needs more digits than bfloat16 has
        weight, bias = self.weight, self.bias
        if self.film is not None:
            scale, shift = rearrange(self.film(cond).float(), "n (two w) -> two n w 1 1", two=2)
            weight, bias = weight * (1 + scale), bias + shift
        size = x.shape[-2:]
        mean = F.avg_pool2d(x, size)
        variance = (F.avg_pool2d(x * x, size) - mean * mean).clamp_min(0)
        scale = weight * torch.rsqrt(variance + 1e-5)
        return torch.addcmul(bias - mean * scale, x, scale)


class ConvNormAct(nn.Module):
    """A convolution without bias, instance normalisation and, with `relu`, ReLU."""

    def __init__(self, conv: nn.Module, width: int, cond_dim: int = 0, relu: bool = True) -> None:
        super().__init__()
        self.conv, self.norm, self.relu = conv, InstanceNorm(width, cond_dim), relu

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        x = self.norm(self.conv(x), cond)
        return F.relu(x, inplace=True) if self.relu else x


class ResidualBlock(nn.Module):
    """x + conv-norm-relu-conv-norm(x), 3x3."""

    def __init__(self, width: int, cond_dim: int = 0) -> None:
        super().__init__()
        self.first = ConvNormAct(nn.Conv2d(width, width, 3, padding=1, bias=False), width, cond_dim)
        self.second = ConvNormAct(nn.Conv2d(width, width, 3, padding=1, bias=False), width, cond_dim, relu=False)

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        x_inner = self.second(self.first(x, cond), cond)
        return x + x_inner


class ConditionalSequential(nn.ModuleList):
    """Layers one after the other, each with the condition."""

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        for layer in self:
            x = layer(x, cond)
        return x


def patch_embed(channels: int, patch: int, width: int, cond_dim: int) -> ConvNormAct:
    """patch x patch pixels become one position of `width` channels.

    They overlap by half a patch on each side, single pixels by one.
    """
    kernel, padding = (patch + 2 * (patch // 2), patch // 2) if patch > 1 else (3, 1)
    return ConvNormAct(nn.Conv2d(channels, width, kernel, stride=patch, padding=padding, bias=False), width, cond_dim)


class PatchNetwork(nn.Module):
    """Ours, for speed: residual blocks on patches, and back to pixels.

    Nearly all work is 3x3 convolution at 1/patch^2 of the positions, which is why one pass costs less than one
    gradient of a small classifier.
    """

    def __init__(self, channels: int, patch: int, width: int, depth: int, cond_dim: int = 0) -> None:
        super().__init__()
        blocks = (ResidualBlock(width, cond_dim) for _ in range(depth))
        self.body = ConditionalSequential([patch_embed(channels, patch, width, cond_dim), *blocks])
        self.to_pixels = nn.Sequential(nn.Conv2d(width, channels * patch**2, 1), nn.PixelShuffle(patch))

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        return self.to_pixels(self.body(x, cond))


class UNet(nn.Module):
    """Ours, for success (after Ronneberger et al. 2015): patches, halved `levels` times while their channels double.

    One residual block at each level on the way down and on the way up, `depth` of them at the bottom; the
    features of the way down are added on the way up. Fine patterns and the whole image meet at every pixel.
    """

    def __init__(self, channels: int, patch: int, width: int, depth: int, levels: int, cond_dim: int = 0) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(levels + 1)]
        self.stem = patch_embed(channels, patch, width, cond_dim)
        self.before, self.down, self.up, self.after = (nn.ModuleList() for _ in range(4))
        for fine, coarse in pairwise(widths):
            self.before.append(ResidualBlock(fine, cond_dim))
            self.down.append(ConvNormAct(nn.Conv2d(fine, coarse, 4, stride=2, padding=1, bias=False), coarse, cond_dim))
            upsample = nn.Sequential(nn.Conv2d(coarse, 4 * fine, 1, bias=False), nn.PixelShuffle(2))
            self.up.append(ConvNormAct(upsample, fine, cond_dim))
            self.after.append(ResidualBlock(fine, cond_dim))
        self.bottom = ConditionalSequential([ResidualBlock(widths[-1], cond_dim) for _ in range(depth)])
        self.to_pixels = nn.Sequential(nn.Conv2d(width, channels * patch**2, 1), nn.PixelShuffle(patch))

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        x, skips = self.stem(x, cond), []
        for before, down in zip(self.before, self.down, strict=True):
            skips.append(before(x, cond))
            x = down(skips[-1], cond)
        x = self.bottom(x, cond)
        for up, after in zip(reversed(self.up), reversed(self.after), strict=True):
            x = after(up(x, cond) + skips.pop(), cond)
        return self.to_pixels(x)


class XiaoNetwork(nn.Module):
    """The 2018 paper's, as its followers document it: c3s1-8, d16, d32, four residual blocks of 32, u16, u8, c3s1."""

    def __init__(self, channels: int, cond_dim: int = 0) -> None:
        super().__init__()
        d16, d32 = (nn.Conv2d(width // 2, width, 3, stride=2, padding=1, bias=False) for width in (16, 32))
        u16, u8 = (
            nn.ConvTranspose2d(2 * width, width, 3, stride=2, padding=1, output_padding=1, bias=False)
            for width in (16, 8)
        )
        self.body = ConditionalSequential(
            [
                ConvNormAct(nn.Conv2d(channels, 8, 3, padding=1, bias=False), 8, cond_dim),
                ConvNormAct(d16, 16, cond_dim),
                ConvNormAct(d32, 32, cond_dim),
                *(ResidualBlock(32, cond_dim) for _ in range(4)),
                ConvNormAct(u16, 16, cond_dim),
                ConvNormAct(u8, 8, cond_dim),
            ]
        )
        self.to_pixels = nn.Conv2d(8, channels, 3, padding=1)

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        return self.to_pixels(self.body(x, cond))


class ResNetNetwork(nn.Module):
    """That of the transferable attacks (GAP, CDA, LTP, BIA, TTP; after Johnson et al. 2016): c7s1-w, d2w, d4w, six
    residual blocks of 4w, u2w, uw, c7s1; in the publications w is 64, and there is batch normalisation and dropout."""

    def __init__(self, channels: int, width: int, depth: int = 6, cond_dim: int = 0) -> None:
        super().__init__()

        def layer(conv: nn.Module, out: int) -> ConvNormAct:
            return ConvNormAct(conv, out, cond_dim)

        def down(out: int) -> ConvNormAct:
            return layer(nn.Conv2d(out // 2, out, 3, stride=2, padding=1, bias=False), out)

        def up(out: int) -> ConvNormAct:
            return layer(nn.ConvTranspose2d(2 * out, out, 3, 2, padding=1, output_padding=1, bias=False), out)

        stem = nn.Conv2d(channels, width, 7, padding=3, padding_mode="reflect", bias=False)
        blocks = (ResidualBlock(4 * width, cond_dim) for _ in range(depth))
        self.body = ConditionalSequential(
            [layer(stem, width), down(2 * width), down(4 * width), *blocks, up(2 * width), up(width)]
        )
        self.to_pixels = nn.Conv2d(width, channels, 7, padding=3, padding_mode="reflect")

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        return self.to_pixels(self.body(x, cond))


class GaussianSmoothing(nn.Module):
    """Images (n, c, h, w) filtered by a Gaussian of `size` x `size` pixels and deviation `sigma`, without weights."""

    kernel: Tensor

    def __init__(self, size: int, sigma: float = 1.0) -> None:
        super().__init__()
        line = torch.exp(-((torch.arange(size) - (size - 1) / 2) ** 2) / (2 * sigma**2))
        kernel = torch.outer(line, line) / line.sum() ** 2
        self.register_buffer("kernel", kernel[None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        margin, channels = self.kernel.shape[-1] // 2, x.shape[1]
        padded = F.pad(x, (margin,) * 4, mode="replicate")
        return F.conv2d(padded, self.kernel.to(x.dtype).expand(channels, -1, -1, -1), groups=channels)


class ConditionEmbedding(nn.Module):
    """Label, target class, eps, noise and the guide's logits of the clean image as one vector: the sum of their
    embeddings, through one layer. The last row of the labels is "unknown", of the target classes "untargeted".
    """

    def __init__(
        self, length: int, labels: int, classes: int, eps_range: tuple[float, float] | None, noise: int, guided: int
    ) -> None:
        super().__init__()
        self.labels = nn.Embedding(labels + 1, length) if labels else None
        self.classes = nn.Embedding(classes + 1, length) if classes else None
        self.eps = nn.Linear(1, length) if eps_range else None
        self.noise = nn.Linear(noise, length) if noise else None
        self.guided = nn.Linear(2 * guided, length) if guided else None
        self.proj = nn.Sequential(nn.SiLU(), nn.Linear(length, length), nn.SiLU())
        self.eps_range = eps_range

    def forward(self, y: Tensor, y_target: Tensor, eps: Tensor, z: Tensor, logits: Tensor | None) -> Tensor:
        """(n,) int64, twice, (n,), (n, noise) and the guide's logits (n, k) -> (n, length)."""
        parts = []
        if self.labels is not None:
            parts.append(self.labels(torch.where(y < 0, self.labels.num_embeddings - 1, y)))
        if self.classes is not None:
            parts.append(self.classes(torch.where(y_target < 0, self.classes.num_embeddings - 1, y_target)))
        if self.eps is not None and self.eps_range is not None:
            smallest, largest = self.eps_range
            log_eps = torch.log(eps.clamp_min(smallest) / largest) / math.log(largest / smallest)  # -1 to 0
            parts.append(self.eps(log_eps[:, None]))
        if self.noise is not None:
            parts.append(self.noise(z))
        if self.guided is not None and logits is not None:
            parts.append(self.guided(logit_features(logits)))
        return self.proj(torch.stack(parts).sum(0))
