"""Parts of a training loop: schedule, graceful shutdown, log and progress bar."""

import math
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, Self

import psutil
import torch
from accelerate import Accelerator
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column
from torch.utils.tensorboard import SummaryWriter

from advgan.core.errors import NotFiniteError
from advgan.core.progress import BarOrLines
from advgan.core.shutdown import SAME_REQUEST, SIGNALS, exit_code, handle_signals
from advgan.core.terminal import bar_console

LAUNCHED = {"ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID"}  # set by accelerate launch, by torchrun


def one_cycle(progress: float, warmup: float) -> float:
    """Share of the peak learning rate: half a cosine up from 1/25, half a cosine down to nearly 0 (Smith & Topin)."""
    if progress < warmup:
        return 1 / 25 + 24 / 25 * (1 - math.cos(math.pi * progress / warmup)) / 2
    return 1e-4 + (1 - 1e-4) * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup))) / 2


def check_finite(
    values: dict[str, float], step: int, note: str = "", cause: Callable[[], str | None] = lambda: None
) -> None:
    """Raise NotFiniteError for a value that is NaN or infinite; `note`: the remaining checkpoint; `cause`: the cause
    (None: unknown)."""
    if bad := [name for name, value in values.items() if not math.isfinite(value)]:
        suffix = f"; {note}" if note else ""
        reason = cause() or "try a smaller learning rate"
        raise NotFiniteError(f"step {step}: {', '.join(bad)} is not finite; {reason}{suffix}")


class Interrupted(KeyboardInterrupt):
    """A training ended early by SIGINT. `trained` is the best model so far; with `output_dir` its state is saved."""

    code = 130

    def __init__(self, message: str, trained: Any) -> None:
        super().__init__(message)
        self.trained = trained


class Terminated(SystemExit):
    """A training ended early by SIGTERM or SIGHUP; with `output_dir` its state is saved."""


class GracefulShutdown:
    """SIGINT, SIGTERM and SIGHUP as a request that the loop checks after each step; `code`: the signal's exit code.

    with GracefulShutdown() as stop:
        for batch in batches:
            ...
            if stop.requested(accelerator): save and leave
    finish(accelerator, stop.code)

    A second SIGINT, a second after the first signal, exits at once. A signal after the last `requested` exits where the
    block ends.
    """

    def __init__(self) -> None:
        self.code = 0  # 130, 143 or 129 once `requested` was true
        self._first: tuple[int, float] | None = None  # number and time of the first signal
        self._waits = True
        launched = not LAUNCHED.isdisjoint(os.environ)
        self._launcher = os.getppid() if launched else None

    def __enter__(self) -> Self:
        main_thread = threading.current_thread() is threading.main_thread()  # others have no signals
        self._before = handle_signals(self._receive) if main_thread else {}
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if kind is None and self._first is not None and not self.code:
            raise SystemExit(exit_code(self._first[0]))

    @property
    def received_signal(self) -> bool:
        """Whether a signal came to this process."""
        return self._first is not None

    def _receive(self, number: int, frame: FrameType | None) -> None:
        again = self._first is not None
        self._first = self._first or (number, time.monotonic())
        first, since = self._first
        if (not self._waits and not again) or (number == signal.SIGINT and time.monotonic() - since >= SAME_REQUEST):
            raise SystemExit(exit_code(first))

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """A block that a signal ends by SystemExit, for long waits."""
        if self._first is not None:
            raise SystemExit(exit_code(self._first[0]))
        self._waits = False
        try:
            yield
        finally:
            self._waits = True

    def requested(self, accelerator: Accelerator) -> bool:
        """Whether any process received a signal (all processes get the same result, so all must call it).

        A launcher that was killed passes no signal on: its end counts as a SIGTERM.
        """
        number = self._first[0] if self._first else 0
        if not number and self._launcher is not None and not psutil.pid_exists(self._launcher):
            number = signal.SIGTERM
        if accelerator.num_processes > 1:
            flags = torch.tensor(
                [float(number == signal_number) for signal_number in SIGNALS], device=accelerator.device
            )
            received = zip(SIGNALS, accelerator.reduce(flags, reduction="sum").tolist(), strict=True)
            number = max((number for number, count in received if count), default=0)  # SIGTERM before SIGINT
        if number:
            self.code = exit_code(number)
        return bool(number)


@contextmanager
def open_log(
    accelerator: Accelerator, output_dir: Path | None, name: str, step: int, settings: dict[str, Any]
) -> Iterator[SummaryWriter | None]:
    """TensorBoard's writer for `<output_dir>/logs/<name>`, in the main process only; a run from step 0 begins it anew.
    None without a directory.

    The log is written whatever ends the run. Not Accelerate's tracker, which drops numpy scalars and lists and writes
    hyperparameters that TensorBoard cannot read.
    """
    if output_dir is None or not accelerator.is_main_process:
        yield None
        return
    directory = output_dir / "logs" / name
    if step == 0:
        shutil.rmtree(directory, ignore_errors=True)
    log = SummaryWriter(str(directory), purge_step=step + 1 if step else None, flush_secs=5)
    try:
        log.add_text("settings", "\n".join(f"    {name}: {value}" for name, value in settings.items()))
        yield log
    except BaseException:
        with suppress(OSError):  # of a full disk the error above is about, too
            log.close()
        raise
    log.close()


def progress_bar(accelerator: Accelerator | None = None, *, unit: str = "steps", disable: bool = False) -> BarOrLines:
    """A bar with steps, time and the `metrics` field (losses, validation), on one line, and without a terminal lines
    (`BarOrLines`); silent in all processes but the main one. Of 80 columns the metrics have 37 (a title of 6 letters, 4
    digits of steps).
    """
    return BarOrLines(
        TextColumn("{task.description}"),
        BarColumn(bar_width=8),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[metrics]}", table_column=Column(no_wrap=True, overflow="ellipsis")),
        unit=unit,
        disable=disable or not (accelerator is None or accelerator.is_main_process),
        console=bar_console(),
    )
