"""Image files below a folder: regular files with an image's suffix, each once despite links."""

import os
from collections.abc import Iterator
from pathlib import Path

from advgan.data.image_file import EXTENSIONS

JUNK = {"__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found", "__pycache__"}


def is_data_name(name: str) -> bool:
    """Whether a file or folder of this name is read: no hidden one (.git, ._photo.jpg), no system file."""
    return not name.startswith(".") and name.casefold() not in JUNK


def is_image_name(name: str) -> bool:
    return is_data_name(name) and name.casefold().endswith(EXTENSIONS)


def identity(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Device and inode, which identify a file or folder under any name."""
    status = os.stat(path)
    return status.st_dev, status.st_ino


def walk(folder: Path, *, follow: bool = True) -> Iterator[tuple[str, list[str]]]:
    """Each folder from `folder` on down and the names of its entries that are no folders, both sorted.

    A link to a folder is followed with `follow`, once: not into a folder that was visited before, so that a link back
    into the tree ends. Hidden entries and `JUNK` are skipped, and so is a folder that cannot be listed.
    """
    visited: set[tuple[int, int]] = set()
    pending = [os.fspath(folder)]
    while pending:
        parent = pending.pop()
        try:
            key = identity(parent)
            with os.scandir(parent) as listed:
                entries = sorted((entry for entry in listed if is_data_name(entry.name)), key=lambda e: e.name)
            inside = {entry.name for entry in entries if _is_folder(entry)}
        except OSError:
            continue
        if key in visited:
            continue
        visited.add(key)
        # links last, so that files below `folder` have their own path
        folders = [e for e in entries if e.name in inside and (follow or not e.is_symlink())]
        pending = [e.path for e in folders if e.is_symlink()] + pending
        pending += [entry.path for entry in reversed(folders) if not entry.is_symlink()]
        yield parent, [entry.name for entry in entries if entry.name not in inside]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or a link to one; a link that leads to itself is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def image_files(folder: Path) -> list[str]:
    """The paths of the images below `folder`, sorted: regular files, each once where several links lead to it."""
    paths: dict[tuple[int, int], str] = {}
    for parent, names in walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            if is_image_name(name) and os.path.isfile(path):
                paths.setdefault(identity(path), path)
    return sorted(paths.values())
