"""The directory of a training: its flags, lock, settings, training state, TensorBoard's log; without one nothing is
written."""

import hashlib
import os
import shutil
import socket
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist
from accelerate import Accelerator
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from advgan.classifiers.checkpoint import layers_digest
from advgan.core.config import write_settings
from advgan.core.errors import InputError, NotFiniteError
from advgan.core.files import atomic_write_dir, check_places, sweep
from advgan.core.json_files import read_object, read_sealed, sealed
from advgan.core.lock import LOCK, acquire, create, release
from advgan.core.weights import mismatch, read_checkpoint
from advgan.data import Split
from advgan.training.runtime.checkpoint import IMAGES, NETWORKS, Checkpointer, TrainState, clear, latest_state, saving
from advgan.training.runtime.loop import Interrupted, Terminated, open_log

_in_use: set[str] = set()  # directories of trainings of this process, which may acquire a lock twice
MAX_PARTS = 200  # of a path: the standard library walks folders recursively


@dataclass(frozen=True)
class RunFlags:
    """What becomes of an earlier run, and the threads of this one."""

    resume: bool = False
    """Continue the run in the output directory where it stopped"""
    overwrite: bool = False
    """Replace an earlier run in the output directory"""
    threads: int | None = None
    """CPU threads per process; None: without a launcher OMP_NUM_THREADS, else the cores, divided among the processes"""


def prepare_output_dir(output_dir: Path, artefact: str, *, resume: bool | None, overwrite: bool) -> None:
    """Make `output_dir`, lock it until this run ends, and check that `artefact` (a folder in it) may be written there.
    Raises InputError otherwise, in all processes alike.

    Files of an earlier run are kept unless `overwrite`; `resume` continues it (None: the program cannot). The lock is
    the system's, and is released when its process ends. Partial files of killed processes are removed, and the files
    that they were about to replace are restored.
    """
    problem = None
    if main := not dist.is_initialized() or dist.get_rank() == 0:
        try:
            if not Path(artefact).suffix:  # a checkpoint or a report; beside a manifest there are the folders of images
                check_places(output_dir, (artefact, "discriminator", "state", "logs"))
            _check_writable(output_dir)
            try:
                if holder := acquire(output_dir):
                    raise InputError(
                        f"output directory {output_dir} is in use by {holder}: wait for its end, or choose another "
                        "directory"
                    )
                sweep(output_dir)
                for partial in output_dir.glob("state/*/.step-*"):
                    shutil.rmtree(partial, ignore_errors=True)
                _check_unused(output_dir, artefact, resume, overwrite)
            except InputError:
                release(output_dir)
                raise
        except InputError as error:
            problem = str(error)
    if dist.is_initialized():
        message = [problem]
        dist.broadcast_object_list(message, src=0)
        problem = message[0]
    if problem is None and not main and not (output_dir / LOCK).exists():
        problem = (
            f"output directory {output_dir} is not that of the main process: expected one that all machines share, "
            f"got another on {socket.gethostname()}"
        )
    if problem is not None:
        raise InputError(problem)


def _check_writable(output_dir: Path) -> None:
    try:
        if len(output_dir.parts) > MAX_PARTS:
            raise InputError(f"output directory must be at most {MAX_PARTS} folders deep, got {len(output_dir.parts)}")
        create(output_dir)
        with tempfile.TemporaryFile(dir=output_dir):
            pass
    except OSError as error:
        raise InputError(f"cannot write to output directory {output_dir}: {error.strerror}") from None


def _check_unused(output_dir: Path, artefact: str, resume: bool | None, overwrite: bool) -> None:
    if resume and not latest_state(output_dir, artefact):
        raise InputError(f"nothing to resume: {output_dir} holds no saved training state of a {artefact}")
    existing = [p for p in (output_dir / artefact, output_dir / "state" / artefact) if p.exists()]
    if existing and not resume and not overwrite:
        raise InputError(
            f"output directory {output_dir} already holds a {artefact} run: "
            f"{'' if resume is None else 'continue it with --resume (resume=True), '}"
            "replace it with --overwrite (overwrite=True), or choose another directory"
        )


@dataclass(frozen=True)
class Place:
    """The directory of a run (None: nothing is written), and the treatment of an earlier run there.

    artefact   its main folder: generator or classifier
    beside     further ones that a new run replaces
    """

    directory: Path | None = None
    resume: bool = False
    overwrite: bool = False
    artefact: str = "generator"
    beside: tuple[str, ...] = ()

    def saved_settings(self) -> dict[str, Any] | None:
        """The settings of the run that is resumed; None where there is none."""
        file = self.directory / "training.json" if self.directory is not None and self.resume else None
        return None if file is None or not file.exists() else dict(read_sealed(file)["settings"])

    def acquire(self) -> None:
        """Lock the directory. Raises InputError as `prepare_output_dir`."""
        if self.directory is not None:
            prepare_output_dir(self.directory, self.artefact, resume=self.resume, overwrite=self.overwrite)
            for artefact in () if self.resume else self.beside:
                prepare_output_dir(self.directory, artefact, resume=False, overwrite=self.overwrite)
        elif self.resume:
            raise InputError("resume needs the output_dir of the run to be continued, got none")

    @contextmanager
    def acquired(self) -> Iterator[None]:
        """A block in which the directory is locked. Raises InputError as `prepare_output_dir`, and for a directory in
        which this process trains already (in another thread, or around a callback)."""
        if self.directory is None:
            self.acquire()
            yield
            return
        directory = os.path.realpath(self.directory)
        if directory in _in_use:
            raise InputError(f"output directory {self.directory} is in use by another training of this process")
        self.acquire()
        _in_use.add(directory)
        try:
            yield
        finally:
            _in_use.discard(directory)
            release(self.directory)


class RunDirectory:
    """The files of a run in `place`; without a directory every method does nothing. `record` is its training state.

    log   name of its folder below logs/
    """

    def __init__(self, place: Place, accelerator: Accelerator, record: TrainState, total_steps: int, log: str) -> None:
        self.place, self.accelerator, self.record, self.total, self.log = place, accelerator, record, total_steps, log
        self.directory = place.directory
        self.state: Checkpointer | None = None

    def open_state(self, *objects: Any, images: Iterable[Split], schedules: tuple[LRScheduler, ...] = ()) -> None:
        """Load the state of a resumed run: everything that the accelerator has prepared, the record, `objects`;
        `schedules` are those that may be resumed with another number of steps. Raises InputError for other `images`,
        and for other layers of the same weights."""
        if self.directory is None:
            return
        digests = "".join(split.fingerprint() for split in images)
        self.record["settings"] = {
            **self.record["settings"],
            IMAGES: hashlib.sha256(digests.encode()).hexdigest(),
            NETWORKS: layers_digest(*map(self.accelerator.unwrap_model, self.accelerator._models)),
        }
        state = Checkpointer(self.accelerator, self.directory, self.place.artefact, self.total, self.record, *objects)
        self.state = state
        if self.place.resume:
            state.load(*schedules)

    def open_log(self) -> AbstractContextManager[Any]:
        """TensorBoard's writer in the main process; None in the others, and without a directory."""
        record = self.record
        return open_log(self.accelerator, self.directory, self.log, record["step"], record["settings"])

    def clear(self, *folders: str) -> None:
        """Remove an earlier run, with further `folders` in the directory, unless it is resumed."""
        if self.directory is None or self.place.resume:
            return
        if self.accelerator.is_main_process:
            for artefact in (self.place.artefact, *folders):
                clear(self.directory, artefact)
        self.accelerator.wait_for_everyone()

    def progress(self, *, finished: bool) -> dict[str, Any]:
        """What training.json holds for every training."""
        return {
            "settings": self.record["settings"],
            "finished": finished,
            "steps": self.record["step"],
            "total_steps": self.total,
            "training_seconds": self.record["seconds"],  # of the steps: neither loading nor validation
        }

    def finish(self) -> None:
        """The last training.json, of a subclass that writes one."""
        with self.writing() as writing:
            if writing:
                self.write_training(finished=self.record["step"] == self.total)

    def write_training(self, *, finished: bool) -> None:
        """Write training.json."""
        raise NotImplementedError

    def save_state(self, step: int) -> None:
        if self.state is not None:
            self.state.save(step)

    @contextmanager
    def writing(self) -> Iterator[bool]:
        """A block whose value is whether to write files: in the main process, with a directory. A full disk there ends
        all processes."""
        if self.directory is None:
            yield False
            return
        with saving(self.accelerator, self.directory):
            yield self.accelerator.is_main_process

    @contextmanager
    def naming_checkpoint(self, folder: str | None = None) -> Iterator[None]:
        """A block whose NotFiniteError ends with the path of the last checkpoint: `folder`, or the artefact."""
        try:
            yield
        except NotFiniteError as error:
            path = None if self.directory is None else self.directory / (folder or self.place.artefact)
            text = f"the last good {path.name} is in {path}" if path and path.exists() else "nothing was kept yet"
            error.args = (f"{error}; {text}",)
            raise

    def raise_if_stopped(self, code: int, trained: Any) -> None:
        """Raise Interrupted or Terminated for a training stopped by a signal (exit code `code`)."""
        if code == Interrupted.code:
            advice = "resume=True continues" if self.directory else "the best model so far is `trained` of this error"
            raise Interrupted(f"stopped after step {self.record['step']} of {self.total}; {advice}", trained)
        if code:
            raise Terminated(code)

    def saved_weights(self, model: nn.Module) -> dict[str, Tensor] | None:
        """The weights of the best `model` before a resume; None before the first validation. Raises InputError where
        they are missing, damaged or another model's."""
        folder = None if self.directory is None or not self.place.resume else self.directory / self.place.artefact
        if folder is None or (self.record["best"] < 0 and not folder.exists()):
            return None
        config = read_object(folder / "config.json") if (folder / "config.json").exists() else None
        tensors = read_checkpoint(folder, config)
        if problems := mismatch(model, tensors):
            raise InputError(f"cannot resume: the weights in {folder} are another model's ({problems})")
        return tensors


def save_weights(net: nn.Module, folder: Path, run: dict[str, Any] | None = None) -> None:
    """Write the weights of a module of the caller's, and the record `run` of its training, to `folder`, atomically."""

    def write(aside: Path) -> None:
        save_file({name: value.contiguous() for name, value in net.state_dict().items()}, aside / "model.safetensors")
        if run is not None:
            (aside / "training.json").write_text(sealed(run))

    atomic_write_dir(folder, write)


def save_settings(settings: Any, accelerator: Accelerator) -> None:
    """Write the settings of a run to its directory, in the main process."""
    with saving(accelerator, settings.output_dir):
        if accelerator.is_main_process:
            write_settings(settings, settings.output_dir)
