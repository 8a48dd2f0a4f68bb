"""Files and folders that are whole or not there: written aside, then renamed."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_aside(directory: Path, write: Callable[[Path], Any]) -> None:
    """Fill `directory` by `write(temporary directory)`, then rename: it is whole, or as it was before.

    Only a process killed between two renames leaves the one before beside it, under a name that ends in -old.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    old = aside.with_name(aside.name + "-old")
    try:
        aside.chmod(0o755)
        write(aside)
        if directory.exists():
            directory.rename(old)
        aside.rename(directory)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        if old.exists() and not directory.exists():
            old.rename(directory)
        shutil.rmtree(aside, ignore_errors=True)


def sha256_of(*paths: Path) -> str:
    """SHA-256 of what is in the files, one after the other, read in parts. Raises OSError for one that cannot be."""
    found = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: found)
    return found.hexdigest()


def write_file(path: Path, content: str | bytes) -> None:
    """Write `content` beside `path`, then rename: the file is whole, or as it was before."""
    aside = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        aside.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
