"""A generator judged on validation images while it trains: what the best one is chosen by, and whether it collapses."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from advgan import losses
from advgan.data import Split
from advgan.diagnosis import symptoms
from advgan.errors import InputError
from advgan.evaluation.runner import timed


@dataclass(frozen=True)
class Judgement:
    """Figures over all validation images; what is wrong, in words; and this process's first images to look at."""

    figures: dict[str, float]
    predictions: Tensor  # (k,) how often the target says each class of a perturbed image
    symptoms: list[str]
    x: Tensor  # (m, c, h, w) clean
    x_adv: Tensor  # (m, c, h, w)
    y: Tensor  # (m,)
    logits: Tensor  # (m, k) of x
    logits_adv: Tensor  # (m, k) of x_adv


class Validation:
    """The validation images of this process, every num_processes-th, with the frozen target's answers to clean ones.

    Counts and sums are added over the processes, never means: any number of processes gets the same figures.
    """

    def __init__(self, target: nn.Module, split: Split, accelerator: Accelerator, y_target: int | None = None) -> None:
        self.target, self.split, self.accelerator, self.y_target = target, split, accelerator, y_target
        if len(split) < 2 * accelerator.num_processes:
            raise InputError(f"at least 2 validation images per process expected, got {len(split)}")
        share = range(accelerator.process_index, len(split), accelerator.num_processes)
        self.batches = [share[i : i + 250] for i in range(0, len(share), 250)]
        with torch.no_grad():
            self.logits = [target(self._images(batch)[0]).float() for batch in self.batches]

    def _images(self, batch: range) -> tuple[Tensor, Tensor]:
        x, y = self.split.__getitems__(batch)
        return x.to(self.accelerator.device), y.to(self.accelerator.device)

    @torch.no_grad()
    def __call__(self, generator: Any, critic: nn.Module, *, c: float, gan: losses.GAN) -> Judgement:
        """Judge `generator`, with the hinge active above l2 length `c`, and `critic` as a discriminator of form `gan`.

        Figures: n, n_correct (clean images that count), asr over these, mean l2 and linf and the share with an active
        hinge over all, and how often the discriminator is right.
        """
        device, sums = self.accelerator.device, torch.zeros(8, device=self.accelerator.device)
        first: Judgement | None = None
        histogram = torch.zeros(self.logits[0].shape[1], device=device)
        for batch, logits in zip(self.batches, self.logits, strict=True):
            x, y = self._images(batch)
            x_adv = generator(x)
            logits_adv = self.target(x_adv).float()
            predicted, delta = logits_adv.argmax(1), (x_adv - x).flatten(1)
            counts = logits.argmax(1) == y
            if self.y_target is not None:
                counts &= y != self.y_target
            fooled = predicted != y if self.y_target is None else predicted == self.y_target
            kept = losses.looks_real(critic(x).float(), form=gan)
            caught = ~losses.looks_real(critic(x_adv).float(), form=gan)
            length, largest = delta.norm(dim=1), delta.abs().amax(1)
            columns = [torch.ones_like(y), counts, counts & fooled, length, largest, length > c, kept, caught]
            sums += torch.stack([column.float().sum() for column in columns])
            histogram += torch.bincount(predicted, minlength=len(histogram))
            if first is None:
                found = symptoms(
                    x_adv - x,
                    x,
                    generator.threat.eps if generator.threat.norm == "linf" else None,
                    predicted,
                    kept.float().mean().item(),
                    caught.float().mean().item(),
                    targeted=self.y_target is not None,
                )
                first = Judgement({}, histogram, found, x[:8], x_adv[:8], y[:8], logits[:8], logits_adv[:8])
        assert first is not None, "a validation split is never empty"
        n, n_correct, fooled_n, length_sum, largest_sum, active, kept_n, caught_n = self._add_up(sums).tolist()
        figures = {
            "n": n,
            "n_correct": n_correct,
            "asr": fooled_n / max(n_correct, 1),
            "l2": length_sum / n,
            "linf": largest_sum / n,
            "hinge_active": active / n,
            "d_accuracy": (kept_n + caught_n) / (2 * n),
        }
        return replace(first, figures=figures, predictions=self._add_up(histogram))

    def _add_up(self, values: Tensor) -> Tensor:
        total: Tensor = self.accelerator.reduce(values, reduction="sum")
        return total.cpu()


def seconds_per_pass(target: nn.Module, x: Tensor, y: Tensor) -> float:
    """One forward and input-gradient pass of the target on a batch: the unit in which training time is told."""
    x = x.detach().clone().requires_grad_(True)
    _, seconds = timed(x.device, lambda: torch.autograd.grad(nn.functional.cross_entropy(target(x), y), x))
    return seconds
