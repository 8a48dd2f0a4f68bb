"""The validations of a training in TensorBoard."""

import torch
from torch.utils.tensorboard import SummaryWriter

from advgan.core.inputs import predicted
from advgan.report.gallery import gallery
from advgan.training.validation import ValidationResult


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
        log.add_text("symptoms", line, step)
