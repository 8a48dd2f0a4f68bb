"""The attack of the command on a batch: one pass of a generator, or any other attack with the target's gradients."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from advgan.attacks import AttackSpec, make_attack
from advgan.core.errors import InputError
from advgan.core.threat_model import Threat
from advgan.defenses import attack_view
from advgan.evaluation.compatibility import gradient_fault_of
from advgan.models.generator import Generator

GRADIENT_PIXELS = 1_000_000  # of the images that an attack with gradients gets at once: 20 of 224 x 224


@dataclass(frozen=True)
class Perturber:
    """An attack `spec` within `threat` (None: a minimum-norm attack, without a ball) toward class `y_target` (None:
    untargeted), by `generator` or with `target`, the classifier. Both on one device, in eval mode.

    Raises InputError for an attack that cannot be run with them.
    """

    spec: AttackSpec
    threat: Threat | None
    y_target: int | None
    seed: int
    generator: Generator | None
    target: Any

    def __post_init__(self) -> None:
        generator, threat = self.generator, self.threat
        if generator is not None and threat is not None:
            reason = generator.incompatibility(eps=threat.eps, norm=threat.norm, y_target=self.y_target)
            if reason:
                raise InputError(reason)
        if self.one_pass:
            return
        if self.target is None:
            raise InputError(f"attack {self.spec.label} needs the classifier under attack, expected --target")
        if self.spec.access == "gradients" and (fault := gradient_fault_of(self.target)):
            raise InputError(f"attack {self.spec.label} needs gradients: {fault}")
        x = torch.rand(1, *self.target.image_shape, generator=torch.Generator().manual_seed(0))
        make_attack(self.spec, self.target, threat or Threat(), self.y_target, torch.Generator(), generator)(
            x[:0].to(self.device), torch.zeros(0, dtype=torch.long, device=self.device)
        )  # wrong settings are errors here

    @property
    def one_pass(self) -> bool:
        """Whether the attack is a pass of the generator alone."""
        return self.spec.name == "advgan" and not self.spec.settings

    @property
    def random(self) -> bool:
        return self.spec.attack.random or (self.generator is not None and bool(self.generator.noise))

    @property
    def device(self) -> torch.device:
        model = self.target if self.generator is None else self.generator
        return next((tensor.device for tensor in model.parameters()), torch.device("cpu"))

    def __call__(self, x: Tensor, labels: Tensor, names: Sequence[str]) -> Tensor:
        """Adversarial images, not checked, of `x` (n, c, h, w) float32 in [0, 1] with the predicted `labels` (n,), -1
        for unknown. `names` of the images seed noise."""
        if self.one_pass:
            generator = self.generator
            assert generator is not None, "checked above"
            z = torch.stack([self._noise(name) for name in names]) if generator.noise else None
            y = labels if generator.labels else None
            eps = None if self.threat is None else self.threat.eps
            return generator.perturb(x, y, y_target=self.y_target, eps=eps, z=z, check_finite=False)
        model = attack_view(self.target, self.spec.view) if self.spec.access == "gradients" else self.target
        rng, step = self._rng(names[0]), max(1, GRADIENT_PIXELS // (x.shape[2] * x.shape[3]))
        attack = make_attack(self.spec, model, self.threat or Threat(), self.y_target, rng, self.generator)
        pairs = zip(x.split(step), labels.clamp_min(0).split(step), strict=True)
        return torch.cat([attack(images.to(self.device), y.to(self.device)).cpu() for images, y in pairs])

    def _noise(self, name: str) -> Tensor:
        assert self.generator is not None, "only of a generator"
        return torch.randn(self.generator.noise, generator=self._rng(name))

    def _rng(self, name: str) -> torch.Generator:
        digest = hashlib.sha256(f"{self.seed} {name}".encode("utf-8", "surrogateescape")).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
