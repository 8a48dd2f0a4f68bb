"""The state of a training on disk: whole or not there, as it was saved or refused, and never a program."""

from __future__ import annotations

import dataclasses
import errno
import json
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from torch.optim.lr_scheduler import LRScheduler

from advgan.core import files as storage
from advgan.core.errors import InputError, one_line
from advgan.core.files import sha256_of
from advgan.core.training_record import PROGRESS

# Settings that a resumed run may change: where things are and how fast they go, not what is computed.
FREE = {"recipe", "resume", "overwrite", "output_dir", "data_dir", "target_weights", "guide_dir", "threads"}
FREE |= {"accumulate", "compile", "checkpoint_target", "init"}
LONGER = {"epochs", "max_steps"}  # settings that a run may be resumed with other values of, so that it takes more steps
OBJECTS, SUMS = "objects.pt", "SHA256SUMS"


class Record:
    """A dict of plain numbers, lists and tensors that is saved and restored with the training state."""

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


class State:
    """All that a training of `steps` steps goes on from, in `<output_dir>/state/<artefact>`.

    That is what `accelerator` has prepared (weights, optimizers), each process's random numbers, `record`, and
    `objects` with a state_dict of plain values and tensors. Accelerate's own way to save such objects would unpickle
    whatever lies there: so they are not registered with it.
    """

    def __init__(
        self, accelerator: Accelerator, output_dir: Path, artefact: str, steps: int, record: Record, *objects: Any
    ) -> None:
        self.accelerator, self.output_dir, self.artefact, self.steps = accelerator, output_dir, artefact, steps
        self.record, self.objects = record, (record, *objects)

    def save(self, step: int) -> None:
        """The state after `step` steps, written aside and renamed; then the one before it goes. All processes call
        it. Killed at any moment it leaves a whole state; a full disk ends the program, and leaves the one before.
        """
        states = self.output_dir / "state" / self.artefact
        whole, aside = states / f"step-{step:07d}", states / f".step-{step:07d}"
        main = self.accelerator.is_main_process
        try:
            with saving(self.accelerator, states):
                if main:
                    shutil.rmtree(aside, ignore_errors=True)
                    aside.mkdir(parents=True)
            with saving(self.accelerator, states):
                try:
                    self.accelerator.save_state(str(aside))
                    if main:
                        torch.save([each.state_dict() for each in self.objects], aside / OBJECTS)
                except RuntimeError as error:  # in torch.save's words a full disk is an "unexpected pos"
                    raise OSError(str(error)) from error
                if main:
                    (aside / PROGRESS).write_text(json.dumps({"step": step, "steps": self.steps}) + "\n")
            with saving(self.accelerator, states):
                if main:
                    _seal(aside)
                    while whole.exists():  # it stays until the new one is there, under a name that sorts after it
                        whole = whole.with_name(f"{whole.name}+")
                    aside.rename(whole)
                    for other in states.iterdir():
                        if other != whole:
                            shutil.rmtree(other)
        finally:
            if main:
                shutil.rmtree(aside, ignore_errors=True)

    def load(self, *schedules: LRScheduler) -> None:
        """Restore the latest state.

        With `schedules`, which set learning rates as a function of the step, a run may be resumed with another number
        of steps in all: from the next step on they are those of the new number. record["lengthened"] keeps the steps at
        which that was done.

        Raises InputError where the state is damaged, or of other settings than record["settings"]: a run goes on with
        the settings it began with, but for those in FREE, and with `schedules` those in LONGER. Also for a number of
        steps that is not above the steps done.
        """
        now, own = dict(self.record["settings"]), [schedule.state_dict() for schedule in schedules]
        folder = latest_state(self.output_dir, self.artefact)
        assert folder is not None, "claim() has looked"
        _check_seal(folder)
        try:
            self.accelerator.load_state(str(folder))
            saved = torch.load(folder / OBJECTS, map_location="cpu", weights_only=True)
            for each, state in zip(self.objects, saved, strict=True):
                each.load_state_dict(state)
            progress = json.loads((folder / PROGRESS).read_text())
            step, before = int(progress["step"]), int(progress["steps"])
        except Exception as error:  # another architecture's state can end in nearly any exception
            said = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(
                f"cannot resume from {folder}: it was saved by other settings or is damaged ({said})"
            ) from None
        if changed := changes(self.record["settings"], now, FREE | (LONGER if schedules else set())):
            raise InputError(f"a run is resumed with its own settings, but {changed}")
        if before != self.steps and not schedules:
            raise InputError(f"a run is resumed with its own number of steps, {before}, got {self.steps}")
        if before != self.steps:
            if self.steps <= step:
                raise InputError(f"expected more steps in all than the {step} that are done, got {self.steps}")
            for schedule, of_all_steps in zip(schedules, own, strict=True):
                schedule.load_state_dict(of_all_steps)
                _set_step(schedule, step)
            self.record["settings"] |= {name: now[name] for name in LONGER & now.keys()}
            self.record["lengthened"] = [
                *self.record.values.get("lengthened", []),
                {"step": step, "steps": self.steps, "before": before},
            ]

    def clear(self, *more: str) -> None:
        """Remove the run that a new one replaces (`claim` has asked), the artefacts `more` of it too, so that nothing
        of it can pass for the new one's."""
        if self.accelerator.is_main_process:
            for artefact in (self.artefact, *more):
                clear(self.output_dir, artefact)
        self.accelerator.wait_for_everyone()


def _set_step(schedule: LRScheduler, step: int) -> None:
    """Put a schedule, and the learning rate of the next step, where `step` steps of it lead; what was loaded into it
    is of another length."""
    schedule.last_epoch = step
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "use get_last_lr": not yet
        rates = schedule.get_lr()
    for group, rate in zip(schedule.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


@contextmanager
def saving(accelerator: Accelerator, directory: Path) -> Iterator[None]:
    """Around what is written in `directory`: where one process cannot write, all end, with exit code 1 and the reason.

    All processes enter it, and none waits for another within.
    """
    problem = None
    try:
        yield
    except (OSError, SafetensorError) as error:
        problem = _fault(error, directory)
    failed = torch.tensor([float(problem is not None)], device=accelerator.device)
    if accelerator.reduce(failed, reduction="sum").item() > 0:
        if problem is not None:
            saved = any(directory.glob("step-*")) or any(directory.glob("state/*/step-*"))
            left = "what was saved before is whole, and the same command with --resume goes on from it"
            print(
                f"error: cannot save in {directory}: {problem}; {left if saved else 'no state was saved before'}",
                file=sys.stderr,
            )
        sys.exit(1)


def _fault(error: Exception, directory: Path) -> str:
    """What the system answered to a write in `directory`, and the free space there where that may be the cause."""
    fault = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) and error.strerror else one_line(error)
    elsewhere = isinstance(error, OSError) and error.errno not in (None, errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return fault if elsewhere else f"{fault}; {_free_space(directory) >> 20} MiB are free there"


def lengthenings(record: Record) -> str:
    """A paragraph for a card: at which steps the run was resumed with another number of steps; "" if at none."""
    return "".join(
        f"\nAfter step {each['step']} the run was resumed with {each['steps']} steps in all in place of "
        f"{each['before']}, and the learning rate from there on is that of so many.\n"
        for each in record["lengthened"]
    )


def _free_space(directory: Path) -> int:
    """Bytes on the disk of a directory, which may be missing still."""
    return shutil.disk_usage(next(path for path in (directory, *directory.absolute().parents) if path.exists())).free


def latest_state(output_dir: Path, artefact: str) -> Path | None:
    """The newest whole training state of a run, if there is one."""
    return max((output_dir / "state" / artefact).glob("step-*"), default=None)


def unfinished(output_dir: Path) -> bool:
    """Whether a training there was stopped before its last step."""
    found = [latest_state(output_dir, each.name) for each in (output_dir / "state").glob("*")]
    told = [json.loads((state / PROGRESS).read_text()) for state in found if state and (state / PROGRESS).exists()]
    return any(each["step"] < each["steps"] for each in told)


def sweep(output_dir: Path) -> None:
    """Remove what killed runs were writing in `output_dir`, which this process holds; put back what they were about to
    replace."""
    storage.sweep(output_dir)
    for aside in output_dir.glob("state/*/.step-*"):
        shutil.rmtree(aside, ignore_errors=True)


def clear(output_dir: Path, artefact: str) -> None:
    """Remove what a run has made and saved."""
    for made in (output_dir / artefact, output_dir / "state" / artefact):
        shutil.rmtree(made, ignore_errors=True)
    if artefact == "generator":  # whose they are
        shutil.rmtree(output_dir / "discriminator", ignore_errors=True)
        (output_dir / "training.json").unlink(missing_ok=True)


def plain(settings: Any) -> dict[str, Any]:
    """A settings dataclass as JSON knows it."""
    values = dataclasses.asdict(settings)
    return {k: str(v) if isinstance(v, Path) else list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def changes(before: dict[str, Any], now: dict[str, Any], free: set[str]) -> str:
    """In which settings but the `free` ones `now` differs from `before`, in words; empty if in none."""
    return "; ".join(
        f"{k} was {before.get(k)}, now {v}" for k, v in now.items() if k not in free and before.get(k) != v
    )


def _sums(folder: Path) -> dict[str, str]:
    """SHA-256 of each file in `folder` but the list of them."""
    found = {}
    for path in sorted(folder.iterdir()):
        if path.name != SUMS:
            found[path.name] = sha256_of(path)
    return found


def _seal(folder: Path) -> None:
    """Write down what every file is, as `sha256sum --check` reads it."""
    (folder / SUMS).write_text("".join(f"{digest}  {name}\n" for name, digest in _sums(folder).items()))


def _check_seal(folder: Path) -> None:
    """Raise InputError for a file that is not what it was: nothing else notices a flipped bit among the weights."""
    try:
        lines = (folder / SUMS).read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        raise InputError(f"cannot resume from {folder}: it has no {SUMS}, an older version saved it") from None
    told, found = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}, _sums(folder)
    wrong = sorted(name for name in told.keys() | found.keys() if told.get(name) != found.get(name))
    if wrong:
        raise InputError(f"cannot resume from {folder}: {', '.join(wrong)} is damaged (not the SHA-256 that was saved)")
