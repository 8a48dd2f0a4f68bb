"""What people look at in TensorBoard: a comparison (table, scalars, galleries), a training run's validations."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

from advgan.evaluation.validation import Judgement
from advgan.report.gallery import gallery
from advgan.report.table import markdown, picture
from advgan.storage import write_aside

SCALARS = (
    *("asr", "asr_8bit", "asr_any_norm", "robust_accuracy", "l2_mean", "l2_median", "linf_mean", "ssim_mean"),
    *("images_per_second", "forwards_per_image", "backwards_per_image"),
)


def write_comparison(directory: Path, results: Mapping[str, Any], galleries: Mapping[str, np.ndarray]) -> None:
    """Write event files to `directory`, in place of what stood there.

    results     as in results.json: "rows", "target", "environment"
    galleries   attack -> picture (height, width, 3) uint8

    TensorBoard opens on cards sorted by name: "1_table" is the first one, and has the table as text behind its own tab.
    Scalars are one chart per figure, its attacks side by side, because a comparison has no steps.
    """

    def write(folder: Path) -> None:
        with SummaryWriter(str(folder)) as log:
            log.add_image("1_table/comparison", picture(results["rows"]), dataformats="HWC")
            log.add_text("comparison", markdown(results["rows"]))
            log.add_text("target", _as_code(results["target"]))
            log.add_text("environment", _as_code(results["environment"]))
            for row in results["rows"]:
                for name in SCALARS:
                    if row[name] is not None:
                        log.add_scalar(f"{name}/{row['attack']}", row[name])
            for attack, image in galleries.items():
                log.add_image(f"2_gallery/{attack}", image, dataformats="HWC")

    write_aside(directory, write)


def write_validation(log: SummaryWriter, judgement: Judgement, step: int, classes: tuple[str, ...]) -> None:
    """A validation in TensorBoard: scalars, what the target now answers, and images to look at."""
    for name, value in judgement.figures.items():
        if not name.startswith("n"):
            log.add_scalar(f"validation/{name}", value, step)
    answers = torch.repeat_interleave(torch.arange(len(judgement.predictions)), judgement.predictions.long())
    log.add_histogram("validation/predicted classes", answers, step, bins=[i - 0.5 for i in range(len(classes) + 1)])
    picture = gallery(judgement.x, judgement.x_adv, judgement.y, judgement.logits, judgement.logits_adv, classes)
    log.add_image("validation/clean, perturbation, adversarial", picture, step, dataformats="HWC")
    for line in judgement.symptoms:
        log.add_text("symptoms", line, step)


def command(logs: Path) -> str:
    """What to type to look at `logs`; with the path of this environment's TensorBoard if the shell would find none."""
    program = "tensorboard" if shutil.which("tensorboard") else str(Path(sys.executable).with_name("tensorboard"))
    return f"{shlex.quote(program)} --logdir {shlex.quote(str(logs))} --samples_per_plugin images=100"


def _as_code(value: Any) -> str:
    """JSON as a Markdown code block."""
    return "\n".join(f"    {line}" for line in json.dumps(value, indent=2).splitlines())
