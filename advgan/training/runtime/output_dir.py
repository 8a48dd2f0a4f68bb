"""Output directories: one run at a time."""

import shutil
import socket
import tempfile
from pathlib import Path

import torch.distributed as dist

from advgan.core.errors import InputError
from advgan.core.files import sweep
from advgan.core.lock import LOCK, acquire
from advgan.training.runtime.checkpoint import latest_state


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
            _check_writable(output_dir)
            if holder := acquire(output_dir):
                raise InputError(
                    f"output directory {output_dir} is in use by {holder}: wait for its end, or choose another "
                    "--output-dir"
                )
            sweep(output_dir)
            for partial in output_dir.glob("state/*/.step-*"):
                shutil.rmtree(partial, ignore_errors=True)
            _check_unused(output_dir, artefact, resume, overwrite)
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
        output_dir.mkdir(parents=True, exist_ok=True)
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
            f"{'' if resume is None else 'continue it with --resume, '}"
            "replace it with --overwrite, or choose another --output-dir"
        )
