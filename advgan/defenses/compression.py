"""Compressed classifiers: 8-bit integers instead of floats, and pruning of small weights.

The inner classifier is unchanged and runs itself, so that the evaluation counts its forwards.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from advgan.core.errors import InputError
from advgan.defenses.base import Defended, adaptive, checked_share

LAYERS = (nn.Linear, nn.Conv2d)


class Int8(Defended):
    """Every linear layer and convolution with its weights and inputs rounded to 255 levels, `int8`: of a weight per
    output channel, of an input per image ("dynamic": by its own range). Symmetric, after Jacob et al. 2018, section 2.

    The output of 8-bit arithmetic, simulated in float32, as slow as without. Rounding has no gradient, so an adaptive
    attacker uses that of the unrounded classifier.
    """

    spec_name = "int8"

    def forward(self, x: Tensor) -> Tensor:
        with FakeQuantMode():
            logits: Tensor = self.inner(x)
        return logits

    def adaptive(self) -> nn.Module:
        return adaptive(self.inner)


class FakeQuantMode(TorchFunctionMode):
    """Within it, all linear layers and convolutions round input and weight by `int8`."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if function in (F.linear, F.conv2d):
            args = (*map(int8, args[:2]), *args[2:])
        return function(*args, **(kwargs or {}))


def int8(values: Tensor) -> Tensor:
    """`values` (n, ...) rounded to -127, ..., 127 times a step, the largest entry of each of the n divided by 127."""
    step = values.detach().abs().flatten(1).amax(1).clamp_min(1e-30).view(-1, *[1] * (values.ndim - 1)) / 127
    return (values / step).round() * step


class Prune(Defended):
    """Without the `amount` of all weights of linear layers and convolutions that is smallest, over all layers: zero
    (Han et al. 2015, without its retraining; torch.nn.utils.prune.global_unstructured). Its gradients are exact.

    The masks are computed when the defense is built, and saved with it.
    """

    spec_name = "prune"

    def __init__(self, inner: nn.Module, amount: float = 0.5) -> None:
        super().__init__(inner, amount=checked_share("prune:amount", amount, "a share of the weights"))
        weights = self._weights()
        if not weights:
            raise InputError("prune needs a classifier with linear layers or convolutions, got one without")
        for i, mask in enumerate(_kept(weights, amount)):
            self.register_buffer(f"kept_{i}", mask)

    def _weights(self) -> list[Tensor]:
        layers = (module for module in self.inner.modules() if isinstance(module, LAYERS))
        return list(dict.fromkeys(layer.weight for layer in layers))

    def forward(self, x: Tensor) -> Tensor:
        return self.pruned(self.inner, x)

    def pruned(self, model: nn.Module, x: Tensor) -> Tensor:
        """Logits (n, k) of `model`, with the classifier's weights but the small ones."""
        zeroed = {weight: weight * getattr(self, f"kept_{i}") for i, weight in enumerate(self._weights())}
        changed = {name: zeroed[weight] for name, weight in model.named_parameters() if weight in zeroed}
        return functional_call(model, changed, (x,))

    def adaptive(self) -> nn.Module:
        view = adaptive(self.inner)
        return self if view is self.inner else PrunedView(self, view)


def _kept(weights: Sequence[Tensor], amount: float) -> list[Tensor]:
    """For each of the `weights` a mask of its shape, bool: all values but the smallest `amount` of them all."""
    if any(weight.is_meta for weight in weights):  # without values; ranking these takes torch seconds to import
        return [torch.empty(weight.shape, dtype=torch.bool, device="meta") for weight in weights]
    sizes = torch.cat([weight.detach().abs().flatten() for weight in weights])
    mask = torch.ones_like(sizes, dtype=torch.bool)
    mask[sizes.topk(round(amount * len(sizes)), largest=False).indices] = False
    masks = zip(weights, mask.split([weight.numel() for weight in weights]), strict=True)
    return [mask.view(weight.shape) for weight, mask in masks]


class PrunedView(nn.Module):
    """A pruned classifier with the adaptive `view` of its inner classifier."""

    def __init__(self, defense: Prune, view: nn.Module) -> None:
        super().__init__()
        self.defense, self.view = defense, view

    def forward(self, x: Tensor) -> Tensor:
        return self.defense.pruned(self.view, x)
