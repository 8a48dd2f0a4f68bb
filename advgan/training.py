"""What every training program needs around its loop: processes, threads, a clean stop, files never half-written."""

from __future__ import annotations

import dataclasses
import math
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, set_seed
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from advgan.errors import InputError

LAUNCHER = "ADVGAN_LAUNCHER"  # process id of a launcher that is not the parent of those it started
# Settings that a resumed run may change: where things are and how fast they go, not what is computed.
FREE = {"recipe", "resume", "overwrite", "output_dir", "data_dir", "target_weights", "guide_dir", "threads"}


def start(seed: int, threads: int | None = None, *, bf16: bool = False) -> Accelerator:
    """The Accelerator of a program: all processes the launcher was asked for, all cores used once, seeds set.

    `threads` per process; None shares the cores this program may use among its local processes, because the launcher
    forces one thread otherwise and halves the speed on a CPU. `bf16` asks for mixed precision where the launcher was
    not asked. Raises InputError for engines that cannot train two
    networks.
    """
    if threads is not None and threads < 1:
        raise InputError(f"threads must be at least 1, got {threads}")
    if not 0 <= seed < 2**32:
        raise InputError(f"seed must be from 0 to {2**32 - 1}, got {seed}")
    if (precision := os.environ.get("ACCELERATE_MIXED_PRECISION", "no")) not in ("no", "bf16"):
        raise InputError(f"mixed precision must be no or bf16, got {precision}: one loss scale cannot fit two nets")
    _start_missing_processes()
    accelerator = Accelerator(mixed_precision="bf16" if bf16 else None)
    if accelerator.distributed_type in (DistributedType.DEEPSPEED, DistributedType.FSDP, DistributedType.MEGATRON_LM):
        raise InputError(
            "expected one process or data parallel processes: two networks that train in turn cannot share one "
            f"{accelerator.distributed_type.value} engine; choose distributed_type NO, MULTI_GPU or MULTI_CPU"
        )
    if accelerator.device.type == "cpu" or threads is not None:
        local = int(os.environ.get("LOCAL_WORLD_SIZE", accelerator.num_processes))
        torch.set_num_threads(threads or max(1, _cores() // local))
    set_seed(seed)
    processes = "1 process" if accelerator.num_processes == 1 else f"{accelerator.num_processes} processes"
    accelerator.print(f"{processes} on {accelerator.device.type}, {torch.get_num_threads()} threads each", flush=True)
    return accelerator


def _cores() -> int:
    """The cores that this program may use, where the system tells; else all there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start_missing_processes() -> None:
    """Start the processes that `accelerate launch --cpu --num_processes N` was asked for and did not start.

    Without MPI its simple launcher sets MASTER_ADDR for N processes, then starts a single one (accelerate 1.15). That
    one becomes torchrun here, which starts all N; N itself stands only on the launcher's command line.
    """
    environment = os.environ
    if "MASTER_ADDR" not in environment or "ACCELERATE_USE_CPU" not in environment or "WORLD_SIZE" in environment:
        return
    parent = psutil.Process().parent()
    words = " ".join(parent.cmdline() if parent else [])
    count = re.search(r"--num[_-]processes[ =](\d+)", words)
    if (
        count is None
        or "accelerate" not in words
        or any(k in environment for k in ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE"))
    ):
        return
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", count.group(1)]
    environment[LAUNCHER] = str(os.getppid())  # torchrun's children do not see it end
    environment.setdefault("OMP_NUM_THREADS", "1")  # or torchrun warns; `start` sets the real number
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *torchrun, *sys.argv])


def finish(accelerator: Accelerator) -> None:
    """End all processes together. Of several, each leaves at once: what gloo's threads still hold when the interpreter
    shuts down aborted one run in twenty (torch 2.15, "terminate called without an active exception").
    """
    several = accelerator.num_processes > 1
    accelerator.wait_for_everyone()
    accelerator.end_training()
    if several:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


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


def plain(settings: Any) -> dict[str, Any]:
    """A settings dataclass as JSON knows it."""
    values = dataclasses.asdict(settings)
    return {k: str(v) if isinstance(v, Path) else list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def changes(before: dict[str, Any], now: dict[str, Any], free: set[str]) -> str:
    """In which settings but the `free` ones `now` differs from `before`, in words; empty if in none."""
    return "; ".join(
        f"{k} was {before.get(k)}, now {v}" for k, v in now.items() if k not in free and before.get(k) != v
    )


class Record:
    """A dict of plain numbers and lists that is saved and restored with the training state."""

    def __init__(self, **values: Any) -> None:
        self.values = values

    def __getitem__(self, key: str) -> Any:
        return self.values[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self.values[key] = value

    def state_dict(self) -> dict[str, Any]:
        return self.values

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.values.update(state)


def claim(output_dir: Path, artefact: str, *, resume: bool | None, overwrite: bool) -> None:
    """Make `output_dir` and see that `artefact` (a folder in it) may be written there. Raises InputError otherwise.

    What an earlier run has made is kept unless `overwrite` says otherwise; `resume` continues it (None: the program
    cannot).
    """
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output_dir):
            pass
    except OSError as error:
        raise InputError(f"cannot write to output directory {output_dir}: {error.strerror}") from None
    if resume and not latest_state(output_dir, artefact):
        raise InputError(f"nothing to resume: {output_dir} holds no saved training state of a {artefact}")
    made = [p for p in (output_dir / artefact, output_dir / "state" / artefact) if p.exists()]
    if made and not resume and not overwrite:
        raise InputError(
            f"output directory {output_dir} already holds a {artefact} run: "
            f"{'' if resume is None else 'continue it with --resume, '}"
            "replace it with --overwrite, or choose another --output-dir"
        )


def save_state(accelerator: Accelerator, output_dir: Path, artefact: str, step: int) -> None:
    """Accelerate's full training state after `step` steps, written aside and renamed; the one before it goes."""
    states = output_dir / "state" / artefact
    whole, aside = states / f"step-{step:07d}", states / f".step-{step:07d}"
    if accelerator.is_main_process:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(aside))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        shutil.rmtree(whole, ignore_errors=True)
        aside.rename(whole)
        for other in states.iterdir():
            if other != whole:
                shutil.rmtree(other)
    accelerator.wait_for_everyone()


def latest_state(output_dir: Path, artefact: str) -> Path | None:
    """The newest whole training state of a run, if there is one."""
    return max((output_dir / "state" / artefact).glob("step-*"), default=None)


def load_state(accelerator: Accelerator, output_dir: Path, artefact: str, record: Record) -> None:
    """Restore what `save_state` saved into all that is prepared or registered, `record` among it.

    Raises InputError where it does not fit, and where record["settings"] are not those that were saved: a run goes on
    with the settings it began with, but for those in FREE.
    """
    now = dict(record["settings"])
    state = latest_state(output_dir, artefact)
    assert state is not None, "claim() has looked"
    try:
        accelerator.load_state(str(state))
    except Exception as error:  # a damaged file can end in nearly any exception
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"cannot resume from {state}: it was saved by other settings or is damaged ({reason})"
        ) from None
    if changed := changes(record["settings"], now, FREE):
        raise InputError(f"a run is resumed with its own settings, but {changed}")


def clear(accelerator: Accelerator, output_dir: Path, artefact: str) -> None:
    """Remove the run that a new one replaces (`claim` has asked), so that nothing of it can pass for the new one's."""
    if accelerator.is_main_process:
        for made in (output_dir / artefact, output_dir / "state" / artefact):
            shutil.rmtree(made, ignore_errors=True)
        if artefact == "generator":  # whose they are
            shutil.rmtree(output_dir / "discriminator", ignore_errors=True)
            (output_dir / "training.json").unlink(missing_ok=True)
    accelerator.wait_for_everyone()


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
