"""Atomic, checksummed training state; nothing is unpickled (`weights_only=True`)."""

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

from advgan.core.errors import InputError, one_line
from advgan.core.files import sha256_of
from advgan.core.fraction import eps_text
from advgan.core.json_files import as_json
from advgan.core.training_record import PROGRESS, newest_state
from advgan.training.runtime.distributed import in_any_process

# Settings that a resumed run may change: paths and speed, not results.
IGNORED_ON_RESUME = {"recipe", "resume", "overwrite", "output_dir", "data_dir", "target_weights", "guide_dir"}
IGNORED_ON_RESUME |= {"threads", "accumulate", "compile", "checkpoint_target", "init"}
EXTENDABLE = {"epochs", "max_steps"}  # settings that a resumed run may raise
# Settings that are digests: of the images; of the layers, as they are printed, of the trained networks and of those
# under attack.
IMAGES = "images_sha256"
NETWORKS, LAYERS = "network_layers_sha256", "target_layers_sha256"
NOT_OF_OLDER = {IMAGES, NETWORKS, LAYERS, "adversarial"}  # settings that runs of an older version do not record
OBJECTS_FILE, CHECKSUMS_FILE = "objects.pt", "SHA256SUMS"


class TrainState:
    """A dict of plain numbers, lists and tensors that is saved and restored with the training state.

    A state without one of its keys, of another version, or with a value of another type raises ValueError.
    """

    def __init__(self, **values: Any) -> None:
        self.values = values

    def __getitem__(self, key: str) -> Any:
        return self.values[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self.values[key] = value

    def state_dict(self) -> dict[str, Any]:
        return self.values

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if missing := sorted(self.values.keys() - state.keys()):
            raise ValueError(f"it has no {', '.join(missing)}: another version of advgan saved it")
        for key, value in self.values.items():
            if not isinstance(state[key], (int, float) if isinstance(value, float) else type(value)):
                raise ValueError(f"its {key} is of type {type(state[key]).__name__}, not {type(value).__name__}")
        self.values.update(state)


class Checkpointer:
    """Saves and loads the state of a training of `steps` steps in `<output_dir>/state/<artefact>`.

    The state is everything that `accelerator` has prepared (weights, optimizers), each process's random numbers,
    `record`, and `objects` with a state_dict of plain values and tensors. They are not registered with Accelerate,
    which would unpickle them.
    """

    def __init__(
        self, accelerator: Accelerator, output_dir: Path, artefact: str, steps: int, record: TrainState, *objects: Any
    ) -> None:
        self.accelerator, self.output_dir, self.artefact, self.steps = accelerator, output_dir, artefact, steps
        self.record, self.objects = record, (record, *objects)

    def save(self, step: int) -> None:
        """Write the state after `step` steps atomically, then remove the earlier one. All processes call it. Killed at
        any moment it leaves a complete state; a full disk ends the program, and leaves the earlier one.
        """
        states = self.output_dir / "state" / self.artefact
        folder, partial = states / f"step-{step:07d}", states / f".step-{step:07d}"
        main = self.accelerator.is_main_process
        try:
            with saving(self.accelerator, states):
                if main:
                    shutil.rmtree(partial, ignore_errors=True)
                    partial.mkdir(parents=True)
            with saving(self.accelerator, states):
                try:
                    self.accelerator.save_state(str(partial))
                    if main:
                        torch.save([item.state_dict() for item in self.objects], partial / OBJECTS_FILE)
                except RuntimeError as error:  # torch.save reports a full disk as "unexpected pos"
                    raise OSError(str(error)) from error
                if main:
                    (partial / PROGRESS).write_text(json.dumps({"step": step, "steps": self.steps}) + "\n")
            with saving(self.accelerator, states):
                if main:
                    _write_checksums(partial)
                    while folder.exists():  # kept until the new one is complete, whose name sorts after it
                        folder = folder.with_name(f"{folder.name}+")
                    partial.rename(folder)
                    for other in states.iterdir():
                        if other != folder and other.is_dir():  # a desktop adds .DS_Store
                            shutil.rmtree(other)
        finally:
            if main:
                shutil.rmtree(partial, ignore_errors=True)

    def load(self, *schedules: LRScheduler) -> None:
        """Restore the latest state.

        With `schedules`, which set learning rates as a function of the step, a run may be resumed with another total
        number of steps, which the schedules follow from the next step on; record["extensions"] lists where.

        Raises InputError where the state is damaged, of another version, or of other settings than record["settings"],
        except those in IGNORED_ON_RESUME and, with `schedules`, in EXTENDABLE; and for a number of steps that is not
        above the steps done.
        """
        settings, schedule_states = dict(self.record["settings"]), [schedule.state_dict() for schedule in schedules]
        folder = latest_state(self.output_dir, self.artefact)
        assert folder is not None, "prepare_output_dir has checked"
        _verify_checksums(folder)
        with _naming(folder):
            saved = torch.load(folder / OBJECTS_FILE, map_location="cpu", weights_only=True)
            self.record.load_state_dict(saved[0])
        ignored = IGNORED_ON_RESUME | (EXTENDABLE if schedules else set())
        ignored = ignored | (NOT_OF_OLDER - self.record["settings"].keys())
        if changed := settings_diff(self.record["settings"], settings, ignored):  # before weights, which may not fit
            raise InputError(f"a run is resumed with its own settings, but {changed}")
        with _naming(folder):
            self.accelerator.load_state(str(folder))
            for item, state in zip(self.objects, saved, strict=True):
                item.load_state_dict(state)
            progress = json.loads((folder / PROGRESS).read_text())
            step, saved_steps = int(progress["step"]), int(progress["steps"])
        if saved_steps != self.steps and not schedules:
            raise InputError(f"a run is resumed with its own number of steps, {saved_steps}, got {self.steps}")
        if saved_steps != self.steps:
            if self.steps <= step:
                raise InputError(f"expected more steps in all than the {step} that are done, got {self.steps}")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # "before optimizer.step()": that was before the resume
                for schedule, state in zip(schedules, schedule_states, strict=True):
                    schedule.load_state_dict(state)  # of this length
                    schedule.last_epoch = step - 1
                    schedule.step()  # sets the learning rate of the next step
            self.record["settings"] |= {name: settings[name] for name in EXTENDABLE & settings.keys()}
            self.record["extensions"] = [
                *self.record["extensions"],
                {"step": step, "steps": self.steps, "before": saved_steps},
            ]


@contextmanager
def _naming(folder: Path) -> Iterator[None]:
    """A block that reads the state in `folder`: whatever it raises is an InputError with its path."""
    try:
        yield
    except Exception as error:  # another architecture's state can end in nearly any exception
        cause = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"cannot resume from {folder}: it was saved by other settings or is damaged ({cause})"
        ) from None


@contextmanager
def saving(accelerator: Accelerator, directory: Path) -> Iterator[None]:
    """A block that writes to `directory`: if one process cannot, all end with exit code 1 and the reason.

    All processes enter it; within it none waits for another.
    """
    problem = None
    try:
        yield
    except (OSError, SafetensorError) as error:
        problem = _fault(error, directory)
    if in_any_process(accelerator, problem is not None):
        if problem is not None:
            saved = any(directory.glob("step-*")) or any(directory.glob("state/*/step-*"))
            advice = "the state saved before is complete, and the same command with --resume (resume=True) continues it"
            print(
                f"error: cannot save in {directory}: {problem}; {advice if saved else 'no state was saved before'}",
                file=sys.stderr,
            )
        sys.exit(1)


def _fault(error: Exception, directory: Path) -> str:
    """The system's error for a write in `directory`, and the free space there where that may be the cause."""
    fault = one_line(error)
    if isinstance(error, OSError) and error.strerror:
        fault = ": ".join(map(str, filter(None, (error.strerror, error.filename))))
    not_space = isinstance(error, OSError) and error.errno not in (None, errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    if not_space:
        return fault
    existing = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    return f"{fault}; {shutil.disk_usage(existing).free >> 20} MiB are free there"


def extension_note(record: TrainState) -> str:
    """A paragraph for a card: the steps after which the run was resumed with another total; "" without any."""
    return "".join(
        f"\nAfter step {extension['step']} the run was resumed with a total of {extension['steps']} steps instead of "
        f"{extension['before']}, which the learning rate follows from there on.\n"
        for extension in record["extensions"]
    )


def latest_state(output_dir: Path, artefact: str) -> Path | None:
    """The newest complete training state of a run, if there is one."""
    return newest_state(output_dir / "state" / artefact)


def unfinished(output_dir: Path) -> bool:
    """Whether a training there was stopped before its last step."""
    states = [latest_state(output_dir, entry.name) for entry in (output_dir / "state").glob("*")]
    progress = [json.loads((state / PROGRESS).read_text()) for state in states if state and (state / PROGRESS).exists()]
    return any(entry["step"] < entry["steps"] for entry in progress)


def clear(output_dir: Path, artefact: str) -> None:
    """Remove an artefact of a run, and its states."""
    for path in (output_dir / artefact, output_dir / "state" / artefact):
        shutil.rmtree(path, ignore_errors=True)
    if artefact == "generator":  # these belong to it
        shutil.rmtree(output_dir / "discriminator", ignore_errors=True)
        (output_dir / "training.json").unlink(missing_ok=True)


def to_jsonable(settings: Any) -> dict[str, Any]:
    """A settings dataclass as values of JSON."""
    return {name: as_json(value) for name, value in dataclasses.asdict(settings).items()}


def settings_diff(before: dict[str, Any], current: dict[str, Any], ignored: set[str]) -> str:
    """The settings, except `ignored` ones, in which `current` differs from `before`, as text; empty if none. One
    that `before`, of an older version, does not have must be unused: None, False or empty."""
    return "; ".join(
        f"{k} was {_shown(k, before.get(k))}, now {_shown(k, v)}"
        for k, v in current.items()
        if k not in ignored and before.get(k) != v and (v or k in before)
    )


def _shown(name: str, value: Any) -> str:
    """The value of a setting as text; a radius as in commands, 8/255."""
    return eps_text(value) if name == "eps" and isinstance(value, float) else str(value)


def _checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of each file in `folder` except the list of checksums."""
    return {path.name: sha256_of(path) for path in sorted(folder.iterdir()) if path.name != CHECKSUMS_FILE}


def _write_checksums(folder: Path) -> None:
    """Write the SHA-256 of every file, in the format of `sha256sum --check`."""
    (folder / CHECKSUMS_FILE).write_text("".join(f"{digest}  {name}\n" for name, digest in _checksums(folder).items()))


def _verify_checksums(folder: Path) -> None:
    """Raise InputError for a changed file: nothing else detects a flipped bit in the weights."""
    try:
        lines = (folder / CHECKSUMS_FILE).read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        raise InputError(
            f"cannot resume from {folder}: it has no {CHECKSUMS_FILE}, an older version saved it"
        ) from None
    saved, current = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}, _checksums(folder)
    damaged = sorted(name for name in saved.keys() | current.keys() if saved.get(name) != current.get(name))
    if damaged:
        raise InputError(
            f"cannot resume from {folder}: {', '.join(damaged)} is damaged (not the SHA-256 that was saved)"
        )
