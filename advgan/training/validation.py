"""A generator judged on validation images while it trains: what the best one is chosen by, and whether it collapses."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from advgan.core.errors import InputError
from advgan.core.threat_model import eps_text
from advgan.data import Split
from advgan.defenses import can_reject
from advgan.evaluation.runner import timed
from advgan.models import losses
from advgan.models.generator import Generator
from advgan.training.collapse import absorbing_classes, collapse_warnings


@dataclass(frozen=True)
class ValidationResult:
    """Figures over all validation images; what is wrong, in words; and this process's first images to look at."""

    metrics: dict[str, float]
    predictions: Tensor  # (k,) how often the target says each class of a perturbed image
    warnings: list[str]
    x: Tensor  # (m, c, h, w) clean
    x_adv: Tensor  # (m, c, h, w)
    y: Tensor  # (m,)
    logits: Tensor  # (m, k) of x
    logits_adv: Tensor  # (m, k) of x_adv


@dataclass(frozen=True)
class Question:
    """What a generator is asked on every validation image: a radius, and a class or (aimed) any wrong one, in turn."""

    eps: float
    y_target: int | None = None
    aimed: bool = False

    @property
    def label(self) -> str:
        return f"eps {eps_text(self.eps)}{', aimed' if self.aimed else ''}"


def questions(generator: Generator) -> list[Question]:
    """Its largest radius first; where it has a choice, also its smallest and the middle ones, and all wrong classes."""
    largest = generator.threat.eps
    found = [Question(largest, generator.y_target)]
    if generator.eps_min is not None:
        radii = [generator.eps_min + share * (largest - generator.eps_min) for share in (0.0, 0.25, 0.5)]
        found += [Question(eps, generator.y_target) for eps in radii]
    if generator.classes:
        found.append(Question(largest, aimed=True))
    return found


def check_attackable(n: int, n_right: int, n_attackable: int, y_target: int | None) -> None:
    """Raise InputError unless an attack can succeed on one of `n` validation images: on those that are classified
    correctly (`n_right`), and of another class than `y_target`."""
    if not n_attackable:
        others = "" if not n_right or y_target is None else f", all of them of class {y_target}, the one to be reached"
        raise InputError(
            f"no validation image can be attacked: expected a target that classifies at least one correctly, got "
            f"{n_right} of {n}{others}"
        )


class Validation:
    """The validation images of this process, every num_processes-th, with the frozen target's answers to clean ones.

    Counts and sums are added over the processes, never means: any number of processes gets the same metrics.
    """

    def __init__(
        self, target: Any, split: Split, accelerator: Accelerator, asked: list[Question], seed: int = 0
    ) -> None:
        self.target, self.split, self.accelerator, self.asked, self.seed = target, split, accelerator, asked, seed
        if len(split) < 2 * accelerator.num_processes:
            raise InputError(f"at least 2 validation images per process expected, got {len(split)}")
        share = range(accelerator.process_index, len(split), accelerator.num_processes)
        self.batches = [share[i : i + 250] for i in range(0, len(share), 250)]
        self.rejects = can_reject(target)
        with torch.no_grad():
            self.logits = [target(self._images(batch)[0]).float() for batch in self.batches]
            self.accepted = [self._accepted(self._images(batch)[0]) for batch in self.batches]

    def check_attackable(self) -> None:
        """Raise InputError where no image counts, as `check_attackable` does; all processes alike."""
        y_target, counts = self.asked[0].y_target, torch.zeros(2, device=self.accelerator.device)
        for batch, logits, accepted in zip(self.batches, self.logits, self.accepted, strict=True):
            _, y = self._images(batch)
            right = (logits.argmax(1) == y) & accepted
            counts += torch.stack([right.sum(), (right & (y != (-1 if y_target is None else y_target))).sum()])
        right_n, attackable = (int(count) for count in self._add_up(counts))
        check_attackable(len(self.split), right_n, attackable, y_target)

    def _images(self, batch: range) -> tuple[Tensor, Tensor]:
        x, y = self.split.__getitems__(batch)
        return x.to(self.accelerator.device), y.to(self.accelerator.device)

    def _accepted(self, x: Tensor) -> Tensor:
        """Which images (n,) bool the target answers."""
        every = torch.ones(len(x), dtype=torch.bool, device=x.device)
        return self.target.rejection_score(x) <= 0 if self.rejects else every

    def __call__(
        self, generator: Any, discriminator: nn.Module, *, c: float, gan: losses.GANLoss, with_gan: bool = True
    ) -> ValidationResult:
        """Judge `generator`, with the hinge active above l2 length `c`, and `discriminator` of form `gan`.

        Figures: n, n_correct (clean images that count), asr over these, mean l2 and linf and the share with an active
        hinge over all, and how often the discriminator is right; all for the first question. Where there are several,
        asr is the mean over them, and each one's stands beside it. Where the target can reject, an image counts, before
        and after, if it is answered; `rejected` is the share of the perturbed images that count and are not.
        """
        first, *others = [
            self._judge(generator, discriminator, question, c=c, gan=gan, with_gan=with_gan) for question in self.asked
        ]
        if not others:
            return first
        rates = [each.metrics["asr"] for each in (first, *others)]
        each = {f"asr {question.label}": rate for question, rate in zip(self.asked, rates, strict=True)}
        return replace(first, metrics=first.metrics | {"asr": sum(rates) / len(rates)} | each)

    @torch.no_grad()
    def _judge(
        self,
        generator: Any,
        discriminator: nn.Module,
        question: Question,
        *,
        c: float,
        gan: losses.GANLoss,
        with_gan: bool,
    ) -> ValidationResult:
        device, sums = self.accelerator.device, torch.zeros(9, device=self.accelerator.device)
        first: ValidationResult | None = None
        histogram, attacked, hits = torch.zeros(3, self.logits[0].shape[1], device=device)
        for batch, logits, accepted in zip(self.batches, self.logits, self.accepted, strict=True):
            x, y = self._images(batch)
            y_target = self._aims(question, batch, y)
            x_adv = generator(x, y_target, torch.full_like(x[:, 0, 0, 0], question.eps), self._noise(generator, batch))
            logits_adv = self.target(x_adv).float()
            predicted, delta = logits_adv.argmax(1), (x_adv - x).flatten(1)
            counts, answered = (logits.argmax(1) == y) & (y != y_target) & accepted, self._accepted(x_adv)
            fooled = torch.where(y_target < 0, predicted != y, predicted == y_target) & answered
            kept = losses.predicted_real(discriminator(x).float(), form=gan)
            caught = ~losses.predicted_real(discriminator(x_adv).float(), form=gan)
            length, largest = delta.norm(dim=1), delta.abs().amax(1)
            columns = [torch.ones_like(y), counts, counts & fooled, length, largest, length > c, kept, caught]
            columns.append(counts & ~answered)
            sums += torch.stack([column.float().sum() for column in columns])
            for column, of_class in ((histogram, predicted), (attacked, y[counts]), (hits, y[counts & fooled])):
                column += torch.bincount(of_class, minlength=len(column))
            if first is None:
                found = collapse_warnings(
                    x_adv - x,
                    x,
                    question.eps if generator.threat.norm == "linf" else None,
                    predicted,
                    d_real_acc=kept.float().mean().item(),
                    d_fake_acc=caught.float().mean().item(),
                    targeted=question.y_target is not None,
                    universal=generator.universal,
                    with_gan=with_gan,
                )
                first = ValidationResult({}, histogram, found, x[:8], x_adv[:8], y[:8], logits[:8], logits_adv[:8])
        assert first is not None, "a validation split is never empty"
        totals = self._add_up(sums).tolist()
        n, n_correct, fooled_n, length_sum, largest_sum, active, kept_n, caught_n, rejected = totals
        metrics = {
            "n": n,
            "n_correct": n_correct,
            "asr": fooled_n / max(n_correct, 1),
            "l2": length_sum / n,
            "linf": largest_sum / n,
            "hinge_active": active / n,
            "d_accuracy": (kept_n + caught_n) / (2 * n),
        }
        if self.rejects:
            metrics["rejected"] = rejected / max(n_correct, 1)
        histogram, attacked, hits = self._add_up(torch.stack([histogram, attacked, hits]))
        sunk = [] if question.aimed or question.y_target is not None else absorbing_classes(attacked, hits, histogram)
        return replace(first, metrics=metrics, predictions=histogram, warnings=first.warnings + sunk)

    def _aims(self, question: Question, batch: range, y: Tensor) -> Tensor:
        """The class that each image of a batch is pulled toward, -1 for none; all wrong ones in turn where aimed."""
        if not question.aimed:
            return torch.full_like(y, -1 if question.y_target is None else question.y_target)
        k = self.logits[0].shape[1]
        return (y + 1 + torch.tensor(batch, device=y.device) % (k - 1)) % k

    def _noise(self, generator: Any, batch: range) -> Tensor | None:
        """The same noise for an image at every validation, whichever process has it."""
        if not generator.noise:
            return None
        drawn = [np.random.default_rng((self.seed, i)).standard_normal(generator.noise, np.float32) for i in batch]
        return torch.from_numpy(np.stack(drawn)).to(self.accelerator.device)

    def _add_up(self, values: Tensor) -> Tensor:
        total: Tensor = self.accelerator.reduce(values, reduction="sum")
        return total.cpu()


def seconds_per_pass(target: nn.Module, x: Tensor, y: Tensor) -> float:
    """One forward and input-gradient pass of the target on a batch: the unit in which training time is told."""
    x = x.detach().clone().requires_grad_(True)
    _, seconds = timed(x.device, lambda: torch.autograd.grad(nn.functional.cross_entropy(target(x), y), x))
    return seconds
