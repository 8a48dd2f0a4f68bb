"""The generator's body that turns its guide around: the guide reads an image, its layers transposed write the answer.

A classifier's gradient in its input is itself the output of a network: the classifier's layers transposed, the last
first, each gated by what was active on the way in. A `Mirror` is that network with weights of its own. At
first they are the guide's, and the answer is a step along the gradient's sign (FGSM, Goodfellow et al. 2015); trained,
they know where the gradient is going on the way through the ball. Nothing is differentiated when it answers: one
round costs one forward pass of the guide and one, as large, of its mirror.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from advgan.errors import InputError
from advgan.networks import opinion, zero
from advgan.targets.chain import Average, Normalised, Residual, Shortcut
from advgan.threat import Norm, bounded

# A layer, what it saw, and what else its way back needs: of a pool where its answers stood, of a residual block what
# was seen inside, and its answer.
Seen = tuple[nn.Module, Tensor, Any]
Reading = tuple[list[Seen], Tensor]


class Mirror(nn.Module):
    """Rounds of reading and writing, each at the image that the one before has made of the clean one, all of the same
    weights: a network that is unrolled, as deep as it has rounds.

    `guide` is a classifier made of a chain of layers, `condition` the length of the vector that says what is wanted,
    `width` the channels of the convolutions that a round ends with. Raises InputError for a guide of another make.
    """

    def __init__(self, guide: Any, rounds: int, width: int, condition: int, norm: Norm) -> None:
        super().__init__()
        layers = chain(guide)
        if rounds < 1:
            raise InputError(f"a mirror answers in at least 1 round, got depth {rounds}")
        self.norm: Norm = norm
        self.rounds = rounds
        self.round = Round(layers, guide.image_shape[0], guide.num_classes, width, condition)

    def start(self, guide: Any) -> None:
        """Take the weights of `guide`, transposed: from here on the training begins."""
        for own, layer in zip(self.round.layers, weighted(chain(guide)), strict=True):
            own.get_parameter("weight").data.copy_(layer.weight.data)

    def forward(
        self,
        x: Tensor,
        guide: Any,
        reading: Reading,
        wanted: Tensor,
        y_target: Tensor,
        eps: Tensor,
        rounds: int | None = None,
    ) -> Tensor:
        """The unbounded perturbation, the shape of clean `x` (n, c, h, w), for what is wanted (n, condition): classes
        (n,) with -1 for "away from its own", and radii (n,).

        reading   the guide's of `x`, see `read`
        rounds    None are those it was made with
        """
        inputs, logits = reading
        raw, seen, own = torch.zeros_like(x), x, logits.argmax(1)  # what the clean image is taken for
        for i in range(self.rounds if rounds is None else rounds):
            if i:
                inputs, logits = read(guide, seen)
            raw = self.round(x, (seen - x) / rearrange(eps, "n -> n 1 1 1"), raw, inputs, logits, own, y_target, wanted)
            seen = bounded(raw, x, self.norm, eps)
        return raw


class Round(nn.Module):
    """From what the layers of the guide have seen, and what it said, to a better perturbation."""

    def __init__(self, layers: list[nn.Module], channels: int, classes: int, width: int, condition: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(mirrored(layer) for layer in weighted(layers))
        self.told = nn.Sequential(nn.Linear(condition + 2 * classes, condition), nn.SiLU())
        self.direction = zero(nn.Linear(condition, classes))
        self.films = nn.ModuleList(zero(nn.Linear(condition, into(layer))) for layer in weighted(layers))
        self.steps = zero(nn.Linear(condition, 2))
        self.last = nn.Sequential(
            nn.Conv2d(4 * channels, width, 5, padding=2),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            zero(nn.Conv2d(width, channels, 3, padding=1)),
        )

    def forward(
        self,
        x: Tensor,
        share: Tensor,
        raw: Tensor,
        inputs: list[Seen],
        logits: Tensor,
        own: Tensor,
        y_target: Tensor,
        wanted: Tensor,
    ) -> Tensor:
        """raw (n, c, h, w) of the round before -> of this one.

        share     (x_adv - x) / eps of the round before
        inputs    what each layer of the guide saw there, logits (n, k) what the guide said, own (n,) what it says of x
        """
        told = self.told(torch.cat([wanted, opinion(logits)], dim=1))
        v = ascent(logits, own, y_target) + self.direction(told)
        v = self.back(inputs, v, told, zip(reversed(self.layers), reversed(self.films), strict=True))
        v = v.float()
        v = v / v.abs().mean((1, 2, 3), keepdim=True).clamp_min(1e-12)
        keep, step = rearrange(self.steps(told).float(), "n two -> two n 1 1 1")
        raw = (1 + keep) * raw + 2 * (1 + step) * v
        more: Tensor = self.last(torch.cat([v, raw, 2 * x - 1, share], dim=1))
        return raw + more.float()

    def back(
        self, inputs: list[Seen], v: Tensor, told: Tensor, mirrors: Iterator[tuple[nn.Module, nn.Module]]
    ) -> Tensor:
        """`v` from the end of a chain to its beginning, by the layers' `mirrors`, the last first."""
        for layer, x, more in reversed(inputs):
            if isinstance(layer, nn.Linear | nn.Conv2d):
                mirror, film = next(mirrors)
                scale = 1 + film(told)
                v = mirror(v, x.shape) * (scale if x.ndim == 2 else rearrange(scale, "n w -> n w 1 1"))
            elif isinstance(layer, Residual):
                inside, answer = more
                v = gated(v, answer)
                v = self.back(inside, v, told, mirrors) + back(layer.shortcut, v, x)
            else:
                v = back(layer, v, x, more)
        return v


class TransposedLinear(nn.Module):
    """v -> W^T v, where the guide's layer has W (out, in)."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.weight = nn.Parameter(layer.weight.detach().clone())

    def forward(self, v: Tensor, shape: torch.Size) -> Tensor:
        return v @ self.weight


class TransposedConv(nn.Module):
    """The transposed convolution, back to the size that the guide's layer saw."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.weight = nn.Parameter(layer.weight.detach().clone())
        self.size, self.stride, self.padding = layer.kernel_size, layer.stride, tuple(map(int, layer.padding))

    def forward(self, v: Tensor, shape: torch.Size) -> Tensor:
        least = ((v.shape[i] - 1) * self.stride[i] - 2 * self.padding[i] + self.size[i] for i in (-2, -1))
        missing = [size - short for size, short in zip(shape[-2:], least, strict=True)]
        return F.conv_transpose2d(v, self.weight, None, self.stride, self.padding, tuple(missing))


def chain(guide: Any) -> list[nn.Module]:
    """The layers of a guide that can be turned around. Raises InputError for one that is no chain of such layers."""
    layers: list[nn.Module] = guide.chain()
    if not layers or not all(map(turns, layers)):
        made = "a chain of layers that it can turn (mnist-a, mnist-b, mnist-c and the like, cifar-resnet20 to -110)"
        raise InputError(f"architecture mirror turns its guide around: expected {made}, got {guide.name}")
    return layers


def turns(layer: nn.Module) -> bool:
    """Whether a layer, as it is set, can be turned around here."""
    if isinstance(layer, Residual):
        return all(map(turns, layer.inner()))
    if isinstance(layer, nn.Conv2d):
        return layer.groups == 1 and layer.dilation == (1, 1) and not isinstance(layer.padding, str)
    if isinstance(layer, nn.MaxPool2d):
        return (layer.kernel_size, layer.stride, layer.padding) == (2, 2, 0)
    if isinstance(layer, nn.BatchNorm2d):
        return layer.affine and layer.track_running_stats
    return isinstance(layer, nn.Linear | nn.ReLU | nn.Flatten | nn.Dropout | Normalised | Average)


def weighted(layers: Iterable[nn.Module]) -> list[nn.Linear | nn.Conv2d]:
    """The layers that have a mirror, in the order in which an image passes them."""
    found: list[nn.Linear | nn.Conv2d] = []
    for layer in layers:
        if isinstance(layer, nn.Linear | nn.Conv2d):
            found.append(layer)
        elif isinstance(layer, Residual):
            found += weighted(layer.inner())
    return found


def mirrored(layer: nn.Linear | nn.Conv2d) -> nn.Module:
    return TransposedLinear(layer) if isinstance(layer, nn.Linear) else TransposedConv(layer)


def into(layer: nn.Linear | nn.Conv2d) -> int:
    """Width of what a layer sees."""
    return layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels


@torch.no_grad()
def read(guide: Any, x: Tensor) -> Reading:
    """What each layer sees when the guide, which is in eval mode, looks at `x`; and the logits."""
    inputs, logits = followed(guide.chain(), x)
    return inputs, logits.float()


def followed(layers: Iterable[nn.Module], x: Tensor) -> tuple[list[Seen], Tensor]:
    """`x` on its way through a chain: what was seen, and what comes out."""
    inputs: list[Seen] = []
    for layer in pools_first(layers):
        seen = x
        more: Any = None
        if isinstance(layer, nn.MaxPool2d):
            x, more = F.max_pool2d(x, 2, return_indices=True)
        elif isinstance(layer, Residual):
            inside, x = followed(layer.inner(), x)
            x = F.relu(layer.shortcut(seen) + x)
            more = inside, x
        else:
            x = layer(x)
        inputs.append((layer, seen, more))
    return inputs, x


def pools_first(layers: Iterable[nn.Module]) -> list[nn.Module]:
    """The same function, where a ReLU follows the pool that it stood before: it has a quarter to do."""
    order: list[nn.Module] = []
    for layer in layers:
        swaps = isinstance(layer, nn.MaxPool2d) and order and isinstance(order[-1], nn.ReLU)
        order.insert(len(order) - bool(swaps), layer)
    return order


def ascent(logits: Tensor, own: Tensor, y_target: Tensor) -> Tensor:
    """How the logits (n, k) should move: from class `own` (n,) toward the likeliest others or, where `y_target` (n,) is
    not -1, toward it, from the likeliest others: the gradient of a soft margin."""
    aimed = y_target >= 0
    one = F.one_hot(y_target.where(aimed, own), logits.shape[1]).to(logits.dtype)
    others = logits.masked_fill(one.bool(), float("-inf")).softmax(1)
    return (others - one) * (1 - 2 * aimed[:, None].to(logits.dtype))


def back(layer: nn.Module, v: Tensor, x: Tensor, largest: Tensor | None = None) -> Tensor:
    """`v` through a layer without a mirror, backward: `x` is what it saw, `largest` where a pool found its answers."""
    if isinstance(layer, nn.ReLU):
        return gated(v, x)
    if isinstance(layer, nn.Flatten):
        return v.reshape(x.shape)
    if isinstance(layer, nn.BatchNorm2d) and layer.running_var is not None:
        scale = layer.weight * torch.rsqrt(layer.running_var + layer.eps)
        return v * rearrange(scale.to(v.dtype), "w -> w 1 1")
    if isinstance(layer, Normalised):
        return v / layer.std
    if isinstance(layer, Average):
        return rearrange(v / x[0, 0].numel(), "n w -> n w 1 1").expand(x.shape)
    if isinstance(layer, Shortcut) and layer.added:
        spread = v.new_zeros(x.shape)
        spread[:, :, :: layer.stride, :: layer.stride] = v[:, layer.added : -layer.added]
        return spread
    if largest is not None:
        return F.max_unpool2d(v, largest, (2, 2), output_size=x.shape)
    return v


def gated(v: Tensor, x: Tensor) -> Tensor:
    """`v` where `x` is above 0, else 0, as autograd does it: a product with a mask takes five times as long."""
    kept: Tensor = torch.ops.aten.threshold_backward(v, x, 0)
    return kept
