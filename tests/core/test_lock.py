"""The directory lock: killed holders, concurrent claims, file systems without flock, special files."""

import errno
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from advgan import InputError
from advgan.core import lock
from advgan.core.lock import LOCK, acquire, release
from tests.core.test_file_faults import ended, forked

NO_FLOCK = [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP]
GONE = 2**22 - 1  # no process has this number


@pytest.fixture(autouse=True)
def released() -> Iterator[None]:
    yield
    release()


@pytest.fixture(params=["flock", *map(os.strerror, NO_FLOCK), "not implemented"])
def file_system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file system with flock, or one whose flock raises."""
    faults: dict[str, Exception] = {os.strerror(number): OSError(number, os.strerror(number)) for number in NO_FLOCK}
    faults["not implemented"] = NotImplementedError()

    def flock(descriptor: int, operation: int) -> None:
        raise faults[request.param]

    if request.param != "flock":
        monkeypatch.setattr(lock.fcntl, "flock", flock)
    return str(request.param)


def write_stale_lock(directory: Path) -> None:
    (directory / LOCK).write_text(f"process {GONE} on {socket.gethostname()}\n")


def test_lock_is_reentrant_and_removed_on_release(file_system: str, tmp_path: Path) -> None:
    assert acquire(tmp_path) is None
    assert acquire(tmp_path) is None, "a process may hold one twice"
    assert (tmp_path / LOCK).read_text() == f"process {os.getpid()} on {socket.gethostname()}\n"
    release()
    assert list(tmp_path.iterdir()) == []


def test_lock_of_live_process_is_respected(file_system: str, tmp_path: Path) -> None:
    child = forked(lambda: (acquire(tmp_path), (tmp_path / "ready").touch(), time.sleep(60)))
    while not (tmp_path / "ready").exists():
        time.sleep(0.005)
    try:
        holder = acquire(tmp_path)
        assert holder is not None
        assert f"process {child} on {socket.gethostname()}" in holder
    finally:
        os.kill(child, signal.SIGKILL)
        ended(child)
    assert (tmp_path / LOCK).exists()
    assert acquire(tmp_path) is None


@pytest.mark.parametrize("file_system", ["flock", os.strerror(errno.ENOSYS)], indirect=True)
@pytest.mark.parametrize("before", ["nothing", "a lock of a process that is gone", "two of them"])
def test_exactly_one_of_ten_concurrent_claims_wins(file_system: str, before: str, tmp_path: Path) -> None:
    if before != "nothing":
        write_stale_lock(tmp_path)
    if before == "two of them":  # a second process was about to replace the first file
        (tmp_path / f"{LOCK}.next").write_text((tmp_path / LOCK).read_text())
    go = tmp_path / "go"

    def contend(name: str) -> None:
        while not go.exists():
            time.sleep(0.001)
        if acquire(tmp_path) is None:
            (tmp_path / f"won-{name}").touch()
            time.sleep(0.5)

    children = [forked(lambda name=str(i): contend(name)) for i in range(10)]  # type: ignore[misc]
    go.touch()
    assert [ended(child) for child in children] == [0] * 10
    assert len(list(tmp_path.glob("won-*"))) == 1
    assert acquire(tmp_path) is None
    assert not (tmp_path / f"{LOCK}.next").exists() or file_system == "flock"


def test_lock_file_unlinked_during_open_is_retried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The holder unlinks and unlocks its file between the open and the flock of the next process."""
    opened = []

    def open_and_lose(path: Path, flags: int, real: Callable[[Path, int], int] = lock._open) -> int:
        descriptor = real(path, flags)
        if not opened:
            path.unlink()
        opened.append(descriptor)
        return descriptor

    monkeypatch.setattr(lock, "_open", open_and_lose)
    assert acquire(tmp_path) is None
    assert len(opened) == 2
    assert os.path.samestat(os.stat(tmp_path / LOCK), os.fstat(opened[1]))


@pytest.mark.parametrize("content", ["", "process x on y", f"process {GONE} on another-machine", "\x00\xff"])
def test_without_flock_unknown_holder_is_respected(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "fcntl", None)
    (tmp_path / LOCK).write_text(content)
    holder = acquire(tmp_path)
    assert holder is not None
    assert "is of a process that is gone: remove it then" in holder
    assert (tmp_path / LOCK).read_text() == content


@pytest.mark.parametrize("trap", ["a directory", "a link", "a link to nothing", "a pipe"])
def test_special_file_in_place_of_lock_raises(file_system: str, trap: str, tmp_path: Path) -> None:
    precious, directory = tmp_path / "precious", tmp_path / "run"
    precious.write_text("kept")
    directory.mkdir()
    path = directory / LOCK
    {
        "a directory": path.mkdir,
        "a link": lambda: path.symlink_to(precious),
        "a link to nothing": lambda: path.symlink_to(tmp_path / "nothing"),
        "a pipe": lambda: os.mkfifo(path),
    }[trap]()
    with pytest.raises(InputError, match=r"cannot lock .*/\.lock: .*expected a regular file"):
        acquire(directory)
    assert precious.read_text() == "kept"
    assert not (tmp_path / "nothing").exists()


def test_unwritable_directory_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(lock.tempfile, "TemporaryFile", refuse)
    with pytest.raises(InputError, match=r"cannot lock .*: Permission denied"):
        acquire(tmp_path)


def test_forked_child_does_not_release_lock_of_parent(tmp_path: Path) -> None:
    assert acquire(tmp_path) is None
    assert ended(forked(release)) == 0
    assert (tmp_path / LOCK).exists()
    child = forked(lambda: os._exit(7 if acquire(tmp_path) else 0))
    assert ended(child) == 7
