"""One program at a time in a directory: killed holders, many at once, file systems without flock, traps."""

from __future__ import annotations

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
from advgan.core.lock import LOCK, hold, release
from tests.core.test_file_faults import ended, forked

NO_FLOCK = [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP]
GONE = 2**22 - 1  # no process has this number


@pytest.fixture(autouse=True)
def released() -> Iterator[None]:
    yield
    release()


@pytest.fixture(params=["flock", *map(os.strerror, NO_FLOCK), "not implemented"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file system with flock, or one that answers it with an error."""
    faults: dict[str, Exception] = {os.strerror(number): OSError(number, os.strerror(number)) for number in NO_FLOCK}
    faults["not implemented"] = NotImplementedError()

    def flock(descriptor: int, operation: int) -> None:
        raise faults[request.param]

    if request.param != "flock":
        monkeypatch.setattr(lock.fcntl, "flock", flock)
    return str(request.param)


def stale(directory: Path) -> None:
    (directory / LOCK).write_text(f"process {GONE} on {socket.gethostname()}\n")


def test_one_holds_it_and_it_is_gone_afterwards(system: str, tmp_path: Path) -> None:
    assert hold(tmp_path) is None
    assert hold(tmp_path) is None, "a process may hold one twice"
    assert (tmp_path / LOCK).read_text() == f"process {os.getpid()} on {socket.gethostname()}\n"
    release()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_of_another_process_is_kept_until_that_is_killed(system: str, tmp_path: Path) -> None:
    child = forked(lambda: (hold(tmp_path), (tmp_path / "ready").touch(), time.sleep(60)))
    while not (tmp_path / "ready").exists():
        time.sleep(0.005)
    try:
        holder = hold(tmp_path)
        assert holder is not None
        assert f"process {child} on {socket.gethostname()}" in holder
    finally:
        os.kill(child, signal.SIGKILL)
        ended(child)
    assert (tmp_path / LOCK).exists()
    assert hold(tmp_path) is None


@pytest.mark.parametrize("system", ["flock", os.strerror(errno.ENOSYS)], indirect=True)
@pytest.mark.parametrize("before", ["nothing", "a lock of a process that is gone", "two of them"])
def test_of_ten_at_once_exactly_one_wins(system: str, before: str, tmp_path: Path) -> None:
    if before != "nothing":
        stale(tmp_path)
    if before == "two of them":  # the second was about to take the first one's over
        (tmp_path / f"{LOCK}.next").write_text((tmp_path / LOCK).read_text())
    go = tmp_path / "go"

    def contend(name: str) -> None:
        while not go.exists():
            time.sleep(0.001)
        if hold(tmp_path) is None:
            (tmp_path / f"won-{name}").touch()
            time.sleep(0.5)

    children = [forked(lambda name=str(i): contend(name)) for i in range(10)]  # type: ignore[misc]
    go.touch()
    assert [ended(child) for child in children] == [0] * 10
    assert len(list(tmp_path.glob("won-*"))) == 1
    assert hold(tmp_path) is None
    assert not (tmp_path / f"{LOCK}.next").exists() or system == "flock"


def test_a_file_that_was_removed_while_it_was_opened_is_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The holder unlinks its file and unlocks it, between the open and the flock of the next one."""
    opened = []

    def open_and_lose(path: Path, flags: int, real: Callable[[Path, int], int] = lock._open) -> int:
        descriptor = real(path, flags)
        if not opened:
            path.unlink()
        opened.append(descriptor)
        return descriptor

    monkeypatch.setattr(lock, "_open", open_and_lose)
    assert hold(tmp_path) is None
    assert len(opened) == 2
    assert os.path.samestat(os.stat(tmp_path / LOCK), os.fstat(opened[1]))


@pytest.mark.parametrize("content", ["", "process x on y", f"process {GONE} on another-machine", "\x00\xff"])
def test_without_flock_a_file_that_names_no_process_here_is_a_lock(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "fcntl", None)
    (tmp_path / LOCK).write_text(content)
    holder = hold(tmp_path)
    assert holder is not None
    assert "is of a process that is gone: remove it then" in holder
    assert (tmp_path / LOCK).read_text() == content


@pytest.mark.parametrize("trap", ["a directory", "a link", "a link to nothing", "a pipe"])
def test_a_trap_in_its_place_is_named_and_left_alone(system: str, trap: str, tmp_path: Path) -> None:
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
        hold(directory)
    assert precious.read_text() == "kept"
    assert not (tmp_path / "nothing").exists()


def test_a_directory_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: object, **words: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(lock.tempfile, "TemporaryFile", refuse)
    with pytest.raises(InputError, match=r"cannot lock .*: Permission denied"):
        hold(tmp_path)


def test_a_forked_child_that_ends_does_not_release_its_parents_lock(tmp_path: Path) -> None:
    assert hold(tmp_path) is None
    assert ended(forked(release)) == 0
    assert (tmp_path / LOCK).exists()
    child = forked(lambda: os._exit(7 if hold(tmp_path) else 0))
    assert ended(child) == 7
