"""The defenses that fail: they hide the gradients, and leave every decision, and every mistake, where it was.

They are here to show what a robust accuracy against FGSM and PGD alone is worth (Papernot et al. 2017, "Practical
black-box attacks", section 8; Athalye et al. 2018, "Obfuscated gradients"): a substitute's images, the scores, the
decisions, or the gradients of the classifier behind them fool them as if they were not there.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advgan.classifiers.black_box import FLOOR
from advgan.core.errors import InputError
from advgan.defenses.base import Defended, adaptive

LEAST = 1e-7  # what float32 tells from 1


class Masking(Defended):
    """It decides as the classifier behind it does, so an attacker who knows it takes that one's gradients."""

    def adaptive(self) -> nn.Module:
        return adaptive(self.inner)


class LabelsOnly(Masking):
    """Log-probabilities of a classifier that tells its decision alone: 0 for the class, log(1e-12) for all others.

    The gradient is there, so that attacks run, and zero.
    """

    word = "labels-only"

    def forward(self, x: Tensor) -> Tensor:
        logits = self.inner(x)
        decision = F.one_hot(logits.argmax(1), logits.shape[1]).float()
        answer: Tensor = decision.clamp_min(FLOOR).log() + 0 * logits
        return answer


class Saturated(Masking):
    """log softmax(`scale` z), of probabilities cut to [1e-7, 1 - 1e-7]: most images have no others, and no gradient.

    What a softmax does after distillation at a temperature of `scale` (Carlini & Wagner 2017, section VIII).
    """

    word = "saturated"

    def __init__(self, inner: nn.Module, scale: float = 100.0) -> None:
        _positive(f"{self.word}:scale", scale)
        super().__init__(inner, scale=scale)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        probabilities: Tensor = (self.scale * self.inner(x).float()).softmax(1)
        return probabilities.clamp(LEAST, 1 - LEAST).log()


class Misleading(Masking):
    """Its answers are the classifier's; of their gradient at the image (n, c, h, w) a subclass gives back `told`."""

    def told(self, gradient: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        entering = x.clone()
        if entering.requires_grad:
            entering.register_hook(self.told)
        logits: Tensor = self.inner(entering)
        return logits


class NoisyGradients(Misleading):
    """The gradient plus Gaussian noise `sigma` times as long, drawn anew each time; the answers are never random."""

    word = "noisy-gradients"
    random_gradients = True

    def __init__(self, inner: nn.Module, sigma: float = 100.0) -> None:
        _positive(f"{self.word}:sigma", sigma)
        super().__init__(inner, sigma=sigma)
        self.sigma = sigma

    def told(self, gradient: Tensor) -> Tensor:
        noise = torch.randn(gradient.shape, generator=self.rng).to(gradient)
        length = gradient.flatten(1).norm(dim=1) / noise.flatten(1).norm(dim=1)
        return gradient + self.sigma * length.view(-1, 1, 1, 1) * noise


class TruncatedGradients(Misleading):
    """Of an image's gradient the `share` of largest entries, one at least; all others are zero."""

    word = "truncated-gradients"

    def __init__(self, inner: nn.Module, share: float = 0.01) -> None:
        if not 0 < share < 1:
            raise InputError(f"{self.word}:share must be between 0 and 1, of the gradient's entries, got {share}")
        super().__init__(inner, share=share)
        self.share = share

    def told(self, gradient: Tensor) -> Tensor:
        flat = gradient.flatten(1)
        largest = flat.abs().topk(max(int(self.share * flat.shape[1]), 1), dim=1).indices
        return torch.zeros_like(flat).scatter(1, largest, flat.gather(1, largest)).view_as(gradient)


def _positive(name: str, value: float) -> None:
    if not 0 < value < float("inf"):
        raise InputError(f"{name} must be positive, got {value}")
