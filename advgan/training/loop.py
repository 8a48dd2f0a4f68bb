"""What stands around a training loop: its schedule, a clean stop, a log and a bar."""

from __future__ import annotations

import math
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
import torch
from accelerate import Accelerator
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from advgan.training.processes import LAUNCHER


def one_cycle(progress: float, warmup: float) -> float:
    """Share of the peak learning rate: half a cosine up from 1/25, half a cosine down to nearly 0 (Smith & Topin)."""
    if progress < warmup:
        return 1 / 25 + 24 / 25 * (1 - math.cos(math.pi * progress / warmup)) / 2
    return 1e-4 + (1 - 1e-4) * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup))) / 2


def stop_at_nan(values: dict[str, float], step: int, artefact: Path) -> None:
    """End the program with exit code 1 if a value is NaN or infinite, saying at which step, which, and what is kept."""
    if bad := [name for name, value in values.items() if not math.isfinite(value)]:
        left = f"the last good {artefact.name} is in {artefact}" if artefact.exists() else "nothing was kept yet"
        sys.exit(f"error: step {step}: {', '.join(bad)} is not finite; try a smaller learning rate; {left}")


class Stop:
    """Ctrl-C and SIGTERM as a question that the loop asks after each step; a second Ctrl-C interrupts at once.

    with Stop() as stop:
        for batch in batches:
            ...
            if stop.requested(accelerator): save and leave
    """

    def __init__(self) -> None:
        self.asked = False
        launched = "ACCELERATE_MIXED_PRECISION" in os.environ
        self._launcher = int(os.environ.get(LAUNCHER, os.getppid())) if launched else None

    def __enter__(self) -> Stop:
        self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def requested(self, accelerator: Accelerator) -> bool:
        """Whether any process was asked to stop (all processes answer alike, so all must ask).

        A launcher that was killed passes no signal on: its end counts as one.
        """
        orphan = self._launcher is not None and not psutil.pid_exists(self._launcher)
        if accelerator.num_processes == 1:
            return self.asked or orphan
        flag = torch.tensor([float(self.asked or orphan)], device=accelerator.device)
        return bool(accelerator.reduce(flag, reduction="sum").item() > 0)


@contextmanager
def open_log(
    accelerator: Accelerator, output_dir: Path, name: str, step: int, settings: dict[str, Any]
) -> Iterator[SummaryWriter | None]:
    """TensorBoard's writer for `<output_dir>/logs/<name>`, in the main process only; a run from step 0 begins it anew.

    Whatever ends the run, what was logged is written. Not Accelerate's tracker: that one drops numpy scalars and lists
    and writes hyperparameters TensorBoard cannot read.
    """
    if not accelerator.is_main_process:
        yield None
        return
    directory = output_dir / "logs" / name
    if step == 0:
        shutil.rmtree(directory, ignore_errors=True)
    with SummaryWriter(str(directory), purge_step=step + 1 if step else None, flush_secs=5) as log:
        log.add_text("settings", "\n".join(f"    {name}: {value}" for name, value in settings.items()))
        yield log


def progress_bar(accelerator: Accelerator) -> Progress:
    """A bar with steps, time and the `figures` field (losses, validation); silent in all processes but the main one."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
        disable=not accelerator.is_main_process,
    )
