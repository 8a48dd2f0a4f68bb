"""The validations of a training in TensorBoard."""

from __future__ import annotations

import torch
from torch.utils.tensorboard import SummaryWriter

from advgan.report.gallery import gallery
from advgan.training.validation import ValidationResult


def write_validation(log: SummaryWriter, judgement: ValidationResult, step: int, classes: tuple[str, ...]) -> None:
    """A validation in TensorBoard: scalars, what the target now answers, and images to look at."""
    for name, value in judgement.metrics.items():
        if not name.startswith("n"):
            log.add_scalar(f"validation/{name}", value, step)
    answers = torch.repeat_interleave(torch.arange(len(judgement.predictions)), judgement.predictions.long())
    log.add_histogram("validation/predicted classes", answers, step, bins=[i - 0.5 for i in range(len(classes) + 1)])
    (sure, says), (sure_adv, says_adv) = (z.float().softmax(1).max(1) for z in (judgement.logits, judgement.logits_adv))
    shown = gallery(judgement.x, judgement.x_adv, judgement.y, (says, sure), (says_adv, sure_adv), classes)
    log.add_image("validation/clean, perturbation, adversarial", shown, step, dataformats="HWC")
    for line in judgement.warnings:
        log.add_text("symptoms", line, step)
