"""The directory of a training: its lock, the state to resume, TensorBoard's log; without one nothing is written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from safetensors.torch import load_file
from torch.optim.lr_scheduler import LRScheduler

from advgan.core.errors import InputError, NotFiniteError
from advgan.core.lock import release
from advgan.training.runtime.checkpoint import Record, State, saving
from advgan.training.runtime.loop import Interrupted, Terminated, open_log
from advgan.training.runtime.output_dir import claim


@dataclass(frozen=True)
class Place:
    """Where a run is kept (None: nowhere), and what becomes of an earlier one there.

    artefact   the folder in it that the run makes: generator or classifier
    """

    directory: Path | None = None
    resume: bool = False
    overwrite: bool = False
    artefact: str = "generator"

    def claim(self) -> None:
        """Keep other runs out of the directory. Raises InputError as `claim`."""
        if self.directory is not None:
            claim(self.directory, self.artefact, resume=self.resume, overwrite=self.overwrite)
        elif self.resume:
            raise InputError("resume needs the output_dir of the run to be continued, got none")

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """A block in which no other run uses the directory. Raises InputError as `claim`."""
        self.claim()
        try:
            yield
        finally:
            if self.directory is not None:
                release(self.directory)


class RunDirectory:
    """The files of a run in `place`; without a directory every method does nothing. `record` is what is known of it.

    log   name of its folder below logs/
    """

    def __init__(self, place: Place, accelerator: Accelerator, record: Record, total_steps: int, log: str) -> None:
        self.place, self.accelerator, self.record, self.total, self.log = place, accelerator, record, total_steps, log
        self.directory = place.directory
        self.state: State | None = None

    def open_state(self, *objects: Any, schedules: tuple[LRScheduler, ...] = ()) -> None:
        """Load the state of the run that is continued: what the accelerator has prepared, the record, `objects`;
        `schedules` are those of them that may be continued with another number of steps."""
        if self.directory is None:
            return
        state = State(self.accelerator, self.directory, self.place.artefact, self.total, self.record, *objects)
        self.state = state
        if self.place.resume:
            state.load(*schedules)

    @contextmanager
    def open_log(self) -> Iterator[Any]:
        """TensorBoard's writer in the main process; None in the others, and without a directory."""
        if self.directory is None:
            yield None
            return
        record = self.record
        with open_log(self.accelerator, self.directory, self.log, record["step"], record["settings"]) as log:
            yield log

    def clear(self, *more: str) -> None:
        """Remove an earlier run, with the folders `more` in the directory, unless it is continued."""
        if self.state is not None and not self.place.resume:
            self.state.clear(*more)

    def save_state(self, step: int) -> None:
        if self.state is not None:
            self.state.save(step)

    @contextmanager
    def writing(self) -> Iterator[bool]:
        """A block whose value says whether to write files: in the main process, where there is a directory. A full disk
        there ends all processes."""
        if self.directory is None:
            yield False
            return
        with saving(self.accelerator, self.directory):
            yield self.accelerator.is_main_process

    @contextmanager
    def naming_what_is_kept(self, folder: str | None = None) -> Iterator[None]:
        """A block whose NotFiniteError ends with what is kept of the run: `folder`, or the artefact."""
        try:
            yield
        except NotFiniteError as error:
            kept = None if self.directory is None else self.directory / (folder or self.place.artefact)
            good = f"the last good {kept.name} is in {kept}" if kept and kept.exists() else "nothing was kept yet"
            error.args = (f"{error}; {good}",)
            raise

    def raise_if_stopped(self, code: int, trained: Any) -> None:
        """Raise what ends a training that a signal stopped (exit code `code`), with the best model so far."""
        if code == Interrupted.code:
            left = "; resume=True continues" if self.directory else ""
            raise Interrupted(f"stopped after step {self.record['step']} of {self.total}{left}", trained)
        if code:
            raise Terminated(code)

    def saved_weights(self) -> dict[str, Any] | None:
        """Those of the best model before a resume."""
        file = None if self.directory is None else self.directory / self.place.artefact / "model.safetensors"
        return load_file(file) if file is not None and self.place.resume and file.exists() else None
