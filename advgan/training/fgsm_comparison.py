"""A trained generator beside FGSM, on the same validation images: whether the training was worth it."""

from dataclasses import dataclass
from typing import Any

import torch

from advgan.attacks.common import find_adversarial
from advgan.attacks.fgsm import fgsm
from advgan.data.split import Split
from advgan.models.generator import Generator

IMAGES = 200  # at most: as long as a few steps of the training


@dataclass(frozen=True)
class FGSMComparison:
    """Successes of both attacks on the same `n` images, which the classifier classifies correctly."""

    n: int
    generator: int
    fgsm: int

    def __str__(self) -> str:
        rates = f"generator {self.generator / self.n:.1%}, FGSM {self.fgsm / self.n:.1%}"
        return f"{rates} of {self.n} validation images"


def compare_with_fgsm(generator: Generator, model: Any, split: Split, device: torch.device) -> FGSMComparison | None:
    """Both at the generator's largest eps, toward its target class if it has one; None where no image is eligible.

    Labels that are an input are given.
    """
    x, y = next(split.first(IMAGES).batches(IMAGES))
    x, y, y_target = x.to(device), y.to(device), generator.y_target
    correct = find_adversarial(model, x, y, y)  # "toward its own class": classified correctly, and not rejected
    eligible = correct & (y != (-1 if y_target is None else y_target))
    x, y = x[eligible], y[eligible]
    if not len(x):
        return None
    targets = None if y_target is None else torch.full_like(y, y_target)
    threat, labels = generator.threat, y if generator.labels else None
    rng = torch.Generator().manual_seed(0)
    x_adv = generator.perturb(x, labels, y_target=y_target, rng=rng)
    gradient = fgsm(model, x, y, eps=threat.eps, norm=threat.norm, y_target=targets)
    successes = (int(find_adversarial(model, images, y, targets).sum()) for images in (x_adv, gradient))
    return FGSMComparison(len(x), *successes)
