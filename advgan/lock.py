"""A directory belongs to one program at a time."""

from __future__ import annotations

import atexit
import contextlib
import os
import socket
from pathlib import Path

from filelock import FileLock, Timeout

LOCK = ".lock"  # in a directory while a program is at work there: which one that is
_held: dict[Path, FileLock] = {}


def hold(directory: Path) -> str | None:
    """Keep other processes out of `directory` until `release`; who is at work there, if it is somebody else.

    The lock is the system's own: one that a killed process has left is none. A process may hold one twice.
    """
    path = directory.resolve() / LOCK
    if path in _held:
        return None
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return path.read_text().strip() or "another process"
    path.write_text(f"process {os.getpid()} on {socket.gethostname()}\n")
    _held[path] = lock
    return None


@atexit.register
def release() -> None:
    """Let others into the directories that this process holds."""
    while _held:
        path, lock = _held.popitem()
        with contextlib.suppress(OSError):  # where an open file cannot be removed it stays, and locks nothing
            path.unlink()
        lock.release()
