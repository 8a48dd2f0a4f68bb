"""Intentionally broken baselines: gradient masking, without any change of decisions.

They show the value of robust accuracy against FGSM and PGD alone (Papernot et al. 2017, "Practical black-box attacks",
section 8; Athalye et al. 2018, "Obfuscated gradients"): transferred images, attacks by scores or decisions, and
gradients of the inner classifier succeed as without them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advgan.classifiers.black_box import FLOOR
from advgan.defenses.base import Defended, adaptive, checked_positive, checked_share

LEAST = 1e-7  # 1 - LEAST is not 1 in float32


class GradientMasking(Defended):
    """The decisions are those of the inner classifier, whose gradients adaptive attacks use."""

    def adaptive(self) -> nn.Module:
        return adaptive(self.inner)


class LabelsOnly(GradientMasking):
    """Log-probabilities of the decision only: 0 for the class, log(1e-12) for all others.

    The gradient exists, so that attacks run, and is zero.
    """

    spec_name = "labels-only"

    def forward(self, x: Tensor) -> Tensor:
        logits = self.inner(x)
        decision = F.one_hot(logits.argmax(1), logits.shape[1]).float()
        return decision.clamp_min(FLOOR).log() + 0 * logits


class Saturated(GradientMasking):
    """log softmax(`scale` z), of probabilities clamped to [1e-7, 1 - 1e-7]: for most images these, without gradient.

    As a softmax after distillation at a temperature of `scale` (Carlini & Wagner 2017, section VIII).
    """

    spec_name = "saturated"

    def __init__(self, inner: nn.Module, scale: float = 100.0) -> None:
        super().__init__(inner, scale=checked_positive("saturated:scale", scale))
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        probabilities: Tensor = (self.scale * self.inner(x).float()).softmax(1)
        return probabilities.clamp(LEAST, 1 - LEAST).log()


class PerturbedGradient(GradientMasking):
    """Logits of the classifier, with their gradient (n, c, h, w) at the image replaced by `modify_gradient`."""

    def modify_gradient(self, gradient: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        x_input = x.clone()
        if x_input.requires_grad:
            x_input.register_hook(self.modify_gradient)
        return self.inner(x_input)


class NoisyGradients(PerturbedGradient):
    """The gradient plus Gaussian noise `sigma` times as long, drawn anew each time; the logits are never random."""

    spec_name = "noisy-gradients"
    random_gradients = True

    def __init__(self, inner: nn.Module, sigma: float = 100.0) -> None:
        super().__init__(inner, sigma=checked_positive("noisy-gradients:sigma", sigma))
        self.sigma = sigma

    def modify_gradient(self, gradient: Tensor) -> Tensor:
        noise = torch.randn(gradient.shape, generator=self.rng).to(gradient)
        length = gradient.flatten(1).norm(dim=1) / noise.flatten(1).norm(dim=1)
        return gradient + self.sigma * length.view(-1, 1, 1, 1) * noise


class TruncatedGradients(PerturbedGradient):
    """Of an image's gradient the `share` of largest entries, one at least; all others are zero."""

    spec_name = "truncated-gradients"

    def __init__(self, inner: nn.Module, share: float = 0.01) -> None:
        super().__init__(inner, share=checked_share("truncated-gradients:share", share, "of the gradient's entries"))
        self.share = share

    def modify_gradient(self, gradient: Tensor) -> Tensor:
        flat = gradient.flatten(1)
        largest = flat.abs().topk(max(int(self.share * flat.shape[1]), 1), dim=1).indices
        return torch.zeros_like(flat).scatter(1, largest, flat.gather(1, largest)).view_as(gradient)
