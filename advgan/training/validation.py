"""Validation of a generator during training: the score that selects the best one, and warnings of collapse."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from advgan.core.errors import InputError
from advgan.core.fraction import eps_text
from advgan.core.inputs import predicted
from advgan.core.rejection import accepts, can_reject
from advgan.data import Split
from advgan.data.split import prediction_batch
from advgan.defenses import Transforms
from advgan.evaluation.metrics import LargestClass
from advgan.evaluation.runner import timed
from advgan.models import losses
from advgan.models.generator import Generator
from advgan.report.gallery import gallery
from advgan.training.gan import LossConfig, wrong_classes

AFTER = "asr after "  # a transform


@dataclass(frozen=True)
class ValidationResult:
    """Metrics over all validation images, warnings of collapse, and this process's first images."""

    metrics: dict[str, float]
    predictions: Tensor  # (k,) number of perturbed images predicted as each class
    warnings: list[str]
    x: Tensor  # (m, c, h, w) clean
    x_adv: Tensor  # (m, c, h, w)
    y: Tensor  # (m,)
    logits: Tensor  # (m, k) of x
    logits_adv: Tensor  # (m, k) of x_adv

    @property
    def score(self) -> float:
        """What selects the best generator: `asr`, or the mean of those after the transforms."""
        after = [value for name, value in self.metrics.items() if name.startswith(AFTER)]
        return sum(after) / len(after) if after else self.metrics["asr"]


@dataclass(frozen=True)
class EvalSetting:
    """Conditions of a generator on every validation image: eps, and a target class or all wrong classes in turn."""

    eps: float
    y_target: int | None = None
    all_wrong_classes: bool = False

    @property
    def label(self) -> str:
        return f"eps {eps_text(self.eps)}{', targeted' if self.all_wrong_classes else ''}"


def eval_settings(generator: Generator) -> list[EvalSetting]:
    """The largest eps first; of conditional generators also the smallest and middle ones, and all wrong classes."""
    largest = generator.threat.eps
    settings = [EvalSetting(largest, generator.y_target)]
    if generator.eps_min is not None:
        eps_values = [generator.eps_min + fraction * (largest - generator.eps_min) for fraction in (0.0, 0.25, 0.5)]
        settings += [EvalSetting(eps, generator.y_target) for eps in eps_values]
    if generator.classes:
        settings.append(EvalSetting(largest, all_wrong_classes=True))
    return settings


def check_attackable(n: int, n_correct: int, n_attackable: int, y_target: int | None) -> None:
    """Raise InputError unless an attack can succeed on one of `n` validation images: on those that are classified
    correctly (`n_correct`), and of another class than `y_target`."""
    if not n_attackable:
        others = "" if not n_correct or y_target is None else f", all of them of the target class {y_target}"
        raise InputError(
            f"no validation image can be attacked: expected a target that classifies at least one correctly, got "
            f"{n_correct} of {n}{others or '; advgan.check_model(model, x, y) looks for the cause'}"
        )


def success(logits: Tensor, y: Tensor, y_target: Tensor) -> Tensor:
    """Whether each image (n,) is predicted as its `y_target`, or where that is -1 as any other class than `y`."""
    predicted = logits.argmax(1)
    return torch.where(y_target < 0, predicted != y, predicted == y_target)


class Validator:
    """The validation images of this process, every num_processes-th, with the frozen target's logits for clean ones.

    Counts and sums are added over the processes, never means: any number of processes gets the same metrics.
    """

    def __init__(
        self,
        target: Any,
        split: Split,
        accelerator: Accelerator,
        settings: list[EvalSetting],
        loss: LossConfig,
        *,
        seed: int = 0,
        transforms: Transforms | None = None,
    ) -> None:
        self.threshold, self.gan = loss.hinge_threshold or 0.0, loss.gan
        self.transforms = transforms or Transforms(())
        self.target, self.split, self.accelerator, self.settings, self.seed = target, split, accelerator, settings, seed
        if len(split) < 2 * accelerator.num_processes:
            raise InputError(
                f"at least 2 validation images per process expected, of at least 4 images, got {len(split)}"
            )
        indices = range(accelerator.process_index, len(split), accelerator.num_processes)
        size = prediction_batch(split.image_shape, accelerator.device)
        self.batches = [indices[i : i + size] for i in range(0, len(indices), size)]
        self.rejects = can_reject(target)
        with torch.no_grad():
            self.logits = [target(self._images(batch)[0]).float() for batch in self.batches]
            self.accepted = [accepts(target, self._images(batch)[0]) for batch in self.batches]

    def check_attackable(self) -> None:
        """Raise InputError where the target has logits that are not finite, or no image is eligible, as
        `check_attackable` does; all processes alike."""
        y_target, totals = self.settings[0].y_target, torch.zeros(3, device=self.accelerator.device)
        for batch, logits, accepted in zip(self.batches, self.logits, self.accepted, strict=True):
            _, y = self._images(batch)
            correct = (logits.argmax(1) == y) & accepted
            attackable = correct & (y != (-1 if y_target is None else y_target))
            totals += torch.stack([correct.sum(), attackable.sum(), (~torch.isfinite(logits).all(1)).sum()])
        n_correct, n_attackable, n_not_finite = (int(count) for count in self._reduce(totals))
        if n_not_finite:
            n = f"{n_not_finite} of {len(self.split)} validation images"
            raise InputError(f"the target returns NaN or infinity for {n}, expected finite logits")
        check_attackable(len(self.split), n_correct, n_attackable, y_target)

    def _images(self, batch: range) -> tuple[Tensor, Tensor]:
        x, y = self.split.__getitems__(batch)
        return x.to(self.accelerator.device), y.to(self.accelerator.device)

    def __call__(self, generator: Any, discriminator: nn.Module | None) -> ValidationResult:
        """Evaluate `generator` and `discriminator`, if any; the hinge's threshold and the GAN loss are those of `loss`.

        Metrics: n, n_correct (eligible clean images), asr over these, mean l2 and linf, the fraction with an active
        hinge, and the accuracy of the discriminator; all for the first setting. Of several settings asr is the mean,
        and each has its own beside it. "asr after NAME" is the first setting's after each of the transforms. Where the
        target can reject, an image is eligible, or a success, only if it is
        accepted; `rejected` is the rejected fraction of the perturbed eligible images.
        """
        transforms = [self.transforms, *[Transforms(())] * (len(self.settings) - 1)]
        first, *others = [
            self._evaluate(generator, discriminator, setting, after)
            for setting, after in zip(self.settings, transforms, strict=True)
        ]
        metrics = first.metrics
        if others:
            rates = [result.metrics["asr"] for result in (first, *others)]
            metrics |= {f"asr {setting.label}": rate for setting, rate in zip(self.settings, rates, strict=True)}
            metrics["asr"] = sum(rates) / len(rates)
        return replace(first, metrics=metrics)

    @torch.no_grad()
    def _evaluate(
        self,
        generator: Any,
        discriminator: nn.Module | None,
        setting: EvalSetting,
        transforms: Transforms,
    ) -> ValidationResult:
        with_gan = discriminator is not None
        transforms.reseed(self.seed)
        first: ValidationResult | None = None
        sums: dict[str, Tensor] = {}  # of this process's images
        histogram, attacked, hits = torch.zeros(3, self.logits[0].shape[1], device=self.accelerator.device)
        for batch, logits, accepted in zip(self.batches, self.logits, self.accepted, strict=True):
            x, y = self._images(batch)
            y_target = torch.full_like(y, -1 if setting.y_target is None else setting.y_target)
            if setting.all_wrong_classes:
                y_target = wrong_classes(generator.target_classes, y, torch.tensor(batch, device=y.device))
            eps = torch.full_like(x[:, 0, 0, 0], setting.eps)
            x_adv = generator(x, y, y_target, eps, self._noise(generator, batch))
            logits_adv = self.target(x_adv).float()
            predicted, delta = logits_adv.argmax(1), (x_adv - x).flatten(1)
            eligible, accepted_adv = (logits.argmax(1) == y) & (y != y_target) & accepted, accepts(self.target, x_adv)
            successful = eligible & success(logits_adv, y, y_target) & accepted_adv
            l2, linf = delta.norm(dim=1), delta.abs().amax(1)
            columns = {"n": torch.ones_like(y), "n_correct": eligible, "asr": successful, "l2": l2, "linf": linf}
            columns["hinge_active"] = l2 > self.threshold
            d_real = d_fake = torch.zeros_like(l2)
            if discriminator is not None:
                d_real = losses.predicted_real(discriminator(x).float(), form=self.gan).float()
                d_fake = 1 - losses.predicted_real(discriminator(x_adv).float(), form=self.gan).float()
                columns["d_accuracy"] = (d_real + d_fake) / 2
            if self.rejects:
                columns["rejected"] = eligible & ~accepted_adv
            for name, seen in transforms.each(x_adv, x).items():
                succeeded = success(self.target(seen), y, y_target) & accepts(self.target, seen)
                columns[AFTER + name] = eligible & succeeded
            sums = {name: sums.get(name, 0) + column.float().sum() for name, column in columns.items()}
            for column, of_class in ((histogram, predicted), (attacked, y[eligible]), (hits, y[successful])):
                column += torch.bincount(of_class, minlength=len(column))
            if first is None:
                warnings = collapse_warnings(
                    x_adv - x,
                    x,
                    setting.eps if generator.threat.norm == "linf" else None,
                    d_real_acc=d_real.mean().item(),
                    d_fake_acc=d_fake.mean().item(),
                    universal=generator.universal,
                    with_gan=with_gan,
                )
                first = ValidationResult({}, histogram, warnings, x[:8], x_adv[:8], y[:8], logits[:8], logits_adv[:8])
        assert first is not None, "a validation split is never empty"
        totals = dict(zip(sums, self._reduce(torch.stack(list(sums.values()))).tolist(), strict=True))
        n, n_correct = totals["n"], max(totals["n_correct"], 1)
        of_correct = [name for name in totals if name in ("asr", "rejected") or name.startswith(AFTER)]
        metrics = {name: total / (n_correct if name in of_correct else n) for name, total in totals.items()}
        metrics |= {"n": n, "n_correct": totals["n_correct"]}
        histogram, attacked, hits = self._reduce(torch.stack([histogram, attacked, hits]))
        warnings = first.warnings
        if not setting.all_wrong_classes and setting.y_target is None:
            warnings = warnings + class_warnings(attacked, hits, histogram, labels=bool(generator.labels))
        return replace(first, metrics=metrics, predictions=histogram, warnings=warnings)

    def _noise(self, generator: Any, batch: range) -> Tensor | None:
        """The same noise for an image at every validation, whichever process has it."""
        if not generator.noise:
            return None
        values = [np.random.default_rng((self.seed, i)).standard_normal(generator.noise, np.float32) for i in batch]
        return torch.from_numpy(np.stack(values)).to(self.accelerator.device)

    def _reduce(self, values: Tensor) -> Tensor:
        total: Tensor = self.accelerator.reduce(values, reduction="sum")
        return total.cpu()


def seconds_per_pass(target: nn.Module, x: Tensor, y: Tensor) -> float:
    """Seconds of a forward and input-gradient pass of the target on a batch: the unit of training times."""
    x = x.detach().clone().requires_grad_(True)
    _, seconds = timed(x.device, lambda: torch.autograd.grad(nn.functional.cross_entropy(target(x), y), x))
    return seconds


def write_validation(log: SummaryWriter, result: ValidationResult, step: int, classes: tuple[str, ...]) -> None:
    """A validation in TensorBoard: scalars, histogram of the predictions, and images."""
    for name, value in result.metrics.items():
        if not name.startswith("n"):
            tag = "asr/validation" if name == "asr" else f"validation/{name}"  # TensorBoard opens on the first group
            log.add_scalar(tag, value, step)
    hits = torch.repeat_interleave(torch.arange(len(result.predictions)), result.predictions.long())
    log.add_histogram("validation/predicted classes", hits, step, bins=[i - 0.5 for i in range(len(classes) + 1)])
    (confidence_clean, class_clean), (confidence_adv, class_adv) = map(predicted, (result.logits, result.logits_adv))
    image = gallery(
        result.x, result.x_adv, result.y, (class_clean, confidence_clean), (class_adv, confidence_adv), classes
    )
    log.add_image("validation/clean, perturbation, adversarial", image, step, dataformats="HWC")
    for line in result.warnings:
        log.add_text("warnings", line, step)


def collapse_warnings(
    delta: Tensor,
    x: Tensor,
    eps: float | None,
    *,
    d_real_acc: float,
    d_fake_acc: float,
    universal: bool = False,
    with_gan: bool = True,
) -> list[str]:
    """One line for each sign of collapse on validation images; none for a healthy training.

    delta, x      (n, c, h, w) perturbations and clean images, n >= 2
    eps           the linf bound; None for another norm, where tanh cannot saturate
    d_real_acc    accuracy of the discriminator on clean images
    d_fake_acc    its accuracy on perturbed images
    with_gan      whether there is a discriminator
    """
    warnings = []
    if with_gan and d_real_acc > 0.99 and d_fake_acc > 0.99:
        lower = min(d_real_acc, d_fake_acc)
        warnings.append(f"discriminator accuracy {lower:.1%}: the GAN loss gives almost no gradient")
    elif with_gan and (d_real_acc < 0.01 or d_fake_acc < 0.01):
        warnings.append(
            f"the discriminator is constant: accuracy {d_real_acc:.1%} on clean, {d_fake_acc:.1%} on perturbed images"
        )
    if eps is not None:
        unclipped = (x >= eps) & (x <= 1 - eps)  # elsewhere the box shortens one side
        signed = delta[unclipped] / eps if unclipped.any() else (delta / eps).flatten()
        for sign, bound in ((1, "+eps"), (-1, "-eps")):
            if (sign * signed > 0.95).float().mean() > 0.95:
                warnings.append(
                    f"tanh is saturated at {bound} in nearly every pixel: no gradient reaches the generator"
                )
    spread, size = delta.var(dim=0).sum().sqrt(), delta.flatten(1).norm(dim=1).mean()
    if size < 1e-6:
        warnings.append("the perturbation is zero")
    elif spread / size < 0.02 and not universal:
        warnings.append(f"all images get the same perturbation (spread {spread / size:.1%} of its length)")
    return warnings


def class_warnings(attacked: Tensor, hits: Tensor, predicted: Tensor, *, labels: bool = False) -> list[str]:
    """Warnings of an untargeted generator: nearly all images in one class (`LargestClass`), and each class that absorbs
    predictions while its own images resist, a usual plateau.

    attacked, hits   (k,) eligible images of each class, and the successes among them
    predicted        (k,) perturbed images predicted as each class
    labels           whether the label is an input already
    """
    guide = "a guide (--guide, in Python guide=True)"
    tries = guide if labels else f"the label as an input (--labels, in Python labels=True), {guide},"
    rate, mean = hits / attacked.clamp_min(1), hits.sum() / attacked.sum().clamp_min(1)
    fair = predicted.sum() / len(predicted)
    stuck = (attacked >= 5) & (rate < 0.7 * mean) & (predicted > 2 * fair)
    largest = LargestClass.of(predicted, int(predicted.sum()))
    text = f"{largest.most / largest.n:.0%} of the perturbed images are predicted as class {largest.y}"
    advice = f"{mean:.0%} overall; try {tries} or more steps"
    return ([text] if largest.too_many else []) + [
        f"class {c} absorbs predictions: success {rate[c]:.0%} on its own images, {advice}"
        for c in stuck.nonzero().flatten().tolist()
    ]
