"""Atomic writing of files and folders (written under another name, then renamed), and size-limited reading."""

import errno
import hashlib
import os
import re
import secrets
import shutil
import socket
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from advgan.core.errors import InputError
from advgan.core.terminal import utf8

HOST = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:6]
# .NAME.HOST-PROCESS-RANDOM.aside: being written; .old: being replaced, restored if the new one is missing.
ASIDE = re.compile(r"\.(?P<name>.+)\.(?P<host>[0-9a-f]{6})-(?P<process>\d+)-[0-9a-f]{6}\.(?P<kind>aside|old)(\.\w+)?")
LONGEST = 150  # bytes of a name that are kept in temporary names; file systems allow 255
REPORTS = (".csv", ".html", ".json", ".md", ".tex", ".yaml")  # suffixes of files that programs write beside folders
OLD_AGE = 24 * 3600  # seconds after which another machine's leftovers are removed


def optional_folder(value: Any, name: str) -> Path | None:
    """`folder_path`, or None for None."""
    return None if value is None else folder_path(value, name)


def folder_path(value: Any, name: str = "directory") -> Path:
    """A caller's path of a folder. Raises InputError for an empty one, and for anything else."""
    if not isinstance(value, (str, os.PathLike)) or not str(value):
        raise InputError(f"{name} must be the path of a folder, got {value!r:.60}")
    return Path(value)


def atomic_write_dir(directory: Path, write: Callable[[Path], Any], *, keep: bool = False) -> None:
    """Fill `directory` by `write(temporary directory)`, then rename: complete, or unchanged.

    What stood there goes; with `keep`, files that are not written again stay. Behind a symbolic link it is the link's
    directory that is filled. Raises InputError for the path of a file, and for the working directory, which cannot be
    replaced. Leftovers of killed processes are removed, or restored where one was killed between two renames.
    """
    if directory.exists() and not directory.is_dir():
        raise InputError(f"expected a directory, got the file {directory}")
    directory = directory.resolve()
    if directory == Path.cwd():
        raise InputError(f"expected a new directory or one below, got the working directory {directory}")
    directory.parent.mkdir(parents=True, exist_ok=True)
    sweep(directory.parent)
    aside = _aside(directory, "aside")
    old = _aside(directory, "old")
    try:
        aside.mkdir()
        write(aside)
        if directory.exists() or directory.is_symlink():
            directory.rename(old)
        aside.rename(directory)
        for path in old.iterdir() if keep and old.is_dir() else ():
            if not os.path.lexists(directory / path.name):
                path.rename(directory / path.name)
    except OSError as error:
        if error.errno is None or (error.filename and str(aside) not in str(error.filename)):  # of what `write` reads
            raise
        raise _naming(directory, error) from None
    finally:
        if os.path.lexists(old) and not directory.exists():
            with suppress(OSError):  # the next call's `sweep` restores it
                old.rename(directory)
        if directory.exists():
            _remove(old)
        _remove(aside)


@contextmanager
def staged(directory: Path) -> Iterator[Path]:
    """A temporary folder whose files and folders, those in `logs` each, replace the ones of `directory` at the end,
    JSON files last. Before that, and after an exception, `directory` is unchanged."""
    sweep(directory)
    aside = _aside(directory / "report", "aside")
    try:
        aside.mkdir()
        yield aside
        parts = [*aside.glob("logs/*"), *(path for path in aside.iterdir() if path.name != "logs")]
        for part in sorted(parts, key=lambda part: part.suffix == ".json"):
            place = directory / part.relative_to(aside)
            if part.is_dir():
                atomic_write_dir(place, partial(_move_content, part))
            else:
                os.replace(part, place)
    except OSError as error:
        raise _naming(directory, error) from None
    finally:
        _remove(aside)


def _move_content(source: Path, folder: Path) -> None:
    for path in source.iterdir():
        shutil.move(path, folder)  # which may be on another disk, behind a link


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file that replaces `path` at the end, and is removed after an exception."""
    aside = _aside(path, f"aside{path.suffix if re.fullmatch(r'[.][A-Za-z0-9_]+', path.suffix) else ''}")
    try:
        yield aside
        os.replace(aside, path)
    except OSError as error:
        raise _naming(path, error) from None
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)


def _naming(path: Path, error: OSError) -> OSError:
    """`error` with the name of `path`: that of the temporary file is of no use, and a full disk has none."""
    return type(error)(error.errno, error.strerror or str(error), str(path))


def atomic_write(path: Path, content: str | bytes) -> None:
    """Write `content` to a temporary file, then rename: the file is complete, or unchanged. Bytes of names that are no
    UTF-8 are escaped."""
    with replacing(path) as aside:
        aside.write_bytes(utf8(content).encode() if isinstance(content, str) else content)


def sweep(directory: Path) -> None:
    """Remove leftovers of killed processes from `directory`; restore files that they were about to replace."""
    with suppress(OSError):
        for path in sorted(directory.iterdir()):
            match = ASIDE.fullmatch(path.name)
            if match is None or _is_in_use(path, match["host"], int(match["process"])):
                continue
            original = directory / match["name"]
            if match["kind"] == "old" and not os.path.lexists(original):
                path.rename(original)
            else:
                _remove(path)


def check_writable(directory: Path) -> None:
    """Raise InputError unless files can be written in `directory`, or in its nearest existing parent."""
    place = directory
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    probe = _aside(place / "probe", "aside")
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        raise InputError(f"cannot write in {place}: {error.strerror}") from None


def check_places(directory: Path, folders: Iterable[str]) -> None:
    """Raise InputError where `directory` holds something else in the place of one of the `folders`, or a folder that is
    named like a file that programs write there; and for a path in which TensorBoard and safetensors cannot write."""
    try:
        str(directory.absolute()).encode()
    except UnicodeEncodeError:
        raise InputError(f"the path of a directory of results must be UTF-8, got {directory.absolute()}") from None
    places = [directory / name for name in folders]
    if os.path.isdir(logs := directory / "logs"):
        places += [place for place in logs.iterdir() if not place.suffix]  # of TensorBoard, one for each program
    for place in places:
        if os.path.lexists(place) and not place.is_dir():
            raise InputError(f"{place} is in the way of a folder, expected one or nothing: choose another directory")
    for place in directory.glob("*") if os.path.isdir(directory) else ():  # a name may be too long to look there
        if place.suffix in REPORTS and place.is_dir():
            raise InputError(f"{place} is a folder, expected a file or nothing: choose another directory")


def check_regular(path: str | os.PathLike[str]) -> os.stat_result:
    """The status of a regular file. Raises OSError for anything else: reading a FIFO or a device may not terminate."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a device or pipe"
        raise OSError(errno.EINVAL, f"a regular file expected, got {kind}", str(path))
    return status


def check_downloaded(path: str | os.PathLike[str]) -> None:
    """Raise OSError for the pointer of Git LFS that stands in the place of a file, and for a pipe or a device."""
    check_regular(path)
    with open(path, "rb") as file:
        if file.read(64).startswith(b"version https://git-lfs.github.com/spec/"):
            raise OSError(errno.EINVAL, "a pointer of Git LFS in the place of the file: git lfs pull", str(path))


def read_bytes(path: Path, limit: int) -> bytes:
    """The content of a regular file. Raises OSError for another one, and for one of more than `limit` bytes."""
    size = check_regular(path).st_size
    with path.open("rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"at most {limit:,} bytes expected, got {size:,}", str(path))
    return content


def read_text(path: Path, limit: int) -> str:
    """`read_bytes` as text. Raises UnicodeDecodeError for other encodings than UTF-8."""
    return read_bytes(path, limit).decode("utf-8-sig")


def _aside(path: Path, kind: str) -> Path:
    name = path.name
    if len(os.fsencode(name)) > LONGEST:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
    return path.with_name(f".{name}.{HOST}-{os.getpid()}-{secrets.token_hex(3)}.{kind}")


def _is_in_use(path: Path, host: str, process: int) -> bool:
    """Whether the process that created `path` may still be running."""
    try:
        modified = path.lstat().st_mtime
    except OSError:  # gone already
        return True
    if host != HOST:
        return time.time() - modified < OLD_AGE
    import psutil  # slow to import, seldom needed

    try:
        return psutil.Process(process).create_time() <= modified + 1  # not a later process with the same number
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True


def _remove(path: Path) -> None:
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def sha256_of(*paths: Path) -> str:
    """SHA-256 of the concatenated files, read in parts. Raises OSError for an unreadable one, a pipe or a device."""
    digest = hashlib.sha256()
    for path in paths:
        check_regular(path)
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()
