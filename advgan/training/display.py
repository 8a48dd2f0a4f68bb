"""A training on the terminal, in a notebook and in TensorBoard: a bar, a line per validation, warnings of collapse."""

import re
from collections.abc import Sequence
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from advgan.core.errors import warn
from advgan.training.options import TrainingConfig
from advgan.training.runtime.loop import progress_bar
from advgan.training.trainer import GANTrainer
from advgan.training.trial import FGSMComparison
from advgan.training.validation import AFTER, ValidationResult

SHORT = {"loss adversarial": "L_adv", "loss discriminator": "L_D", "loss GAN": "L_GAN", "loss hinge": "L_hinge"}
SHORT |= {"loss": "loss"}
LEFT_OF_METRICS = 35  # columns of title, bar and times, of the slash between steps, and the spaces between all


def speed(steps_per_second: float) -> str:
    """Of a training, in the unit that has a number above 1."""
    return f"{steps_per_second:.1f} step/s" if steps_per_second >= 1 else f"{1 / steps_per_second:.1f} s/step"


def first_that_fit(parts: Sequence[str], columns: int) -> str:
    """The first of the texts, whole ones, on a line of so many columns."""
    lines = [" ".join(parts[: n + 1]) for n in range(len(parts))]
    return max((line for line in lines if len(line) <= columns), key=len, default="")


class Display:
    """The `bar` of a `GeneratorTraining`; silent in all processes but the main one, and with progress=False but for
    warnings."""

    def __init__(self, training: Any, title: str = "advgan") -> None:
        accelerator, self.record, self.total = training.accelerator, training.record, training.total
        self.score, self.config, self.main = training.images.score, training.config, accelerator.is_main_process
        self.shown = self.main and self.config.run.progress
        self.terms: dict[str, float] = {}
        self.bar = progress_bar(accelerator, disable=not self.config.run.progress)
        self.task = self.bar.add_task(title, total=self.total, completed=self.record["step"], metrics="")

    def update(self, terms: dict[str, float]) -> None:
        """The bar after a step, with the terms of the losses."""
        record, self.terms = self.record, terms
        parts = [speed(record["step"] / record["seconds"])]
        parts += [f"{self.score} {record['history'][-1]['asr']:.1%}"] if record["history"] else []
        parts += [f"{short_name} {terms[name]:.2f}" for name, short_name in SHORT.items() if name in terms]
        room = self.bar.console.width - LEFT_OF_METRICS - 2 * len(str(self.total))
        self.bar.update(
            self.task, completed=record["step"], metrics=first_that_fit(parts, room), details=" ".join(parts)
        )

    def validated(self, result: ValidationResult) -> None:
        """A line for a validation, and each warning of collapse when it first occurs."""
        metrics, loss = result.metrics, self.config.loss
        columns = {"hinge active": metrics["hinge_active"]} if loss.beta else {}
        if "rejected" in metrics:  # instead of the hinge: a line of a terminal has room for two
            columns = {"rejected": metrics["rejected"]}
        columns |= {"D accuracy": metrics["d_accuracy"]} if "d_accuracy" in metrics else {}
        after = {name.removeprefix(AFTER): value for name, value in metrics.items() if name.startswith(AFTER)}
        columns = after or columns
        text = "  ".join(f"{name} {value:4.0%}" for name, value in columns.items())
        if self.shown:
            line = (
                f"step {self.record['step']:5d}  val {self.score} {metrics['asr']:6.2%}  l2 {metrics['l2']:.3f}  {text}"
            )
            self.bar.console.print(line, highlight=False, soft_wrap=True)
        self.update(self.terms)  # the bar's success rate is that of this validation
        for line in result.warnings:
            kind = re.sub(r"[\d.%]+", "", line)
            if kind not in self.record["shown_warnings"]:
                self.record["shown_warnings"].append(kind)
                self._warn(line)

    def compared(self, comparison: FGSMComparison | None, architecture: str | None) -> None:
        """The trained generator beside FGSM, with what to try where FGSM has more success."""
        if comparison is None or not self.shown:
            return
        self.bar.console.print(str(comparison), highlight=False)
        if comparison.generator < comparison.fgsm:
            more = "more depth" if architecture == "unrolled" else "architecture unrolled with the classifier as guide"
            self._warn(f"FGSM has more success; to try: more steps, {more}")

    def _warn(self, line: str) -> None:
        if self.shown:
            self.bar.console.print(f"  note: {line}", style="yellow", highlight=False, soft_wrap=True)
        elif self.main:
            warn(line)


def write_step(log: SummaryWriter, terms: dict[str, float], trainer: GANTrainer, config: TrainingConfig) -> None:
    """The terms of the losses and the learning rates in TensorBoard."""
    for name, value in terms.items():
        log.add_scalar(f"train/{name}", value, trainer.step)
    log.add_scalar("train/learning rate", trainer.schedule.get_last_lr()[0], trainer.step)
    if trainer.discriminator is None:
        return
    rate = config.optimization.discriminator_learning_rate
    log.add_scalar("train/learning rate discriminator", rate, trainer.step)
