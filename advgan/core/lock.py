"""A lock for a directory that one program at a time writes to."""

import atexit
import contextlib
import errno
import os
import re
import socket
import stat
import tempfile
from pathlib import Path

import psutil

from advgan.core.errors import InputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"  # lock file in a directory in use, with the name of the process
UNSUPPORTED = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}  # no flock there
# lock file -> process that holds it (a forked child inherits this table), and its descriptor; None: without flock
_held: dict[Path, tuple[int, int | None]] = {}
_created: dict[Path, list[Path]] = {}  # directory -> it and those of its parents that were made for it, outermost first


def create(directory: Path) -> None:
    """Make `directory` and its missing parents, which `release` removes where they are empty then.

    Raises OSError for a path that cannot be made; nothing is left then.
    """
    created: list[Path] = []
    try:
        for path in reversed([path for path in (directory, *directory.parents) if not os.path.lexists(path)]):
            with contextlib.suppress(FileExistsError):  # of another process, or a path like FOLDER/..
                path.mkdir()
                created.append(path.resolve())
        directory.mkdir(exist_ok=True)  # raises for a file
    except OSError:
        _remove_empty(created)
        raise
    _created.setdefault(directory.resolve(), created)


def _remove_empty(directories: list[Path]) -> None:
    with contextlib.suppress(OSError):
        for path in reversed(directories):
            path.rmdir()


def acquire(directory: Path) -> str | None:
    """Lock `directory` until `release`; returns the name of another process that holds the lock, else None.

    The lock is the system's (flock), which ends with its process. Where the file system does not support it, the file
    itself is the lock, valid while its process on this machine exists. A process may acquire a lock twice.
    Raises InputError for a lock file that cannot be written, and for a directory or a link in its place.
    """
    path = directory.resolve() / LOCK
    if _held.get(path, (0,))[0] == os.getpid():
        return None
    try:
        return _flock(path) if _has_flock(path.parent) else _by_existence(path)
    except OSError as error:
        raise InputError(f"cannot lock {path}: {_fault(path, error)}") from None


@atexit.register
def release(directory: Path | None = None) -> None:
    """Release the lock of `directory`, or all of this process. A directory of `create` without any file goes."""
    for path in list(_held) if directory is None else [directory.resolve() / LOCK]:
        process, descriptor = _held.pop(path, (None, None))
        if process is None:  # it could not be locked
            _remove_empty(_created.pop(path.parent, []))
        if process != os.getpid():  # the parent's, which continues
            continue
        with contextlib.suppress(OSError):  # Windows cannot remove an open file, which is no lock then
            path.unlink()
        _remove_empty(_created.pop(path.parent, []))
        if descriptor is not None:
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_UN)  # of forked children that still have it open, too
            os.close(descriptor)


def _has_flock(directory: Path) -> bool:
    """Whether the file system supports flock, tested on a temporary file."""
    if fcntl is None:
        return False
    with tempfile.TemporaryFile(dir=directory) as file:
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except NotImplementedError:
            return False
        except OSError as error:
            if error.errno in UNSUPPORTED:
                return False
            raise
    return True


def _flock(path: Path) -> str | None:
    while True:
        descriptor = _open(path, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _same(path, descriptor):  # another process removed it while this one opened it
                os.close(descriptor)
                continue
            os.ftruncate(descriptor, 0)
            try:
                os.write(descriptor, _own_name().encode())
            except OSError:  # a full disk
                path.unlink()
                raise
        except BaseException as error:
            os.close(descriptor)
            if isinstance(error, BlockingIOError) or getattr(error, "errno", None) == errno.EACCES:
                return _holder(path)
            raise
        _held[path] = (os.getpid(), descriptor)
        return None


def _by_existence(path: Path) -> str | None:
    """The lock for file systems without flock: the process that creates the file holds it.

    The file of an ended process is taken over under a second lock, `<path>.next`, by one process only.
    """
    try:
        descriptor = _open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    except FileExistsError:
        holder = _holder(path)
        if not _gone(holder):
            return f"{holder}, or {path} is of a process that is gone: remove it then"
        successor = path.with_name(f"{path.name}.next")
        if _by_existence(successor) is not None:
            return "another process"
        try:
            if _holder(path) != holder:  # another process was faster
                return _holder(path)
            successor.write_text(_own_name())
            os.replace(successor, path)
        finally:
            _held.pop(successor, None)
            successor.unlink(missing_ok=True)
    else:
        os.write(descriptor, _own_name().encode())
        os.close(descriptor)
    _held[path] = (os.getpid(), None)
    return None


def _open(path: Path, flags: int) -> int:
    """A descriptor of a regular file, never through a link. Raises OSError."""
    descriptor = os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0), 0o644)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.ENODEV, "expected a regular file")
    return descriptor


def _same(path: Path, descriptor: int) -> bool:
    """Whether an open file is still the one at `path`."""
    try:
        return os.path.samestat(os.lstat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _own_name() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}\n"


def _holder(path: Path) -> str:
    """The process named in a lock file. Raises OSError for no regular file."""
    try:
        with os.fdopen(_open(path, os.O_RDONLY), errors="replace") as file:
            return file.read(200).strip() or "another process"
    except (FileNotFoundError, PermissionError):
        return "another process"


def _gone(holder: str) -> bool:
    """Whether the process in a lock file is of this machine and has ended."""
    match = re.fullmatch(r"process (\d{1,9}) on (.*)", holder)
    return bool(match) and match[2] == socket.gethostname() and not psutil.pid_exists(int(match[1]))  # type: ignore[index]


def _fault(path: Path, error: BaseException) -> str:
    if path.is_symlink():
        return "it is a link, expected a regular file or none"
    if path.is_dir():
        return "it is a directory, expected a regular file or none"
    return str(getattr(error, "strerror", None) or error)
