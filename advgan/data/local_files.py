"""Checks and selection of a local folder's files before another library opens them."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from advgan.core.errors import InputError
from advgan.core.optional import require_package
from advgan.data.image_file import EXTENSIONS
from advgan.data.labels import Names, names_of
from advgan.data.shards import load_error
from advgan.data.walk import identity, is_data_name

DATA = (*EXTENSIONS, ".parquet", ".tar", ".arrow", ".json", ".jsonl", ".csv", ".txt", ".zip", ".gz")


def check_folder(folder: Path) -> None:
    """Raise InputError for entries of `folder` on which a library would not terminate: a link to a folder that leads
    back into it, a FIFO, a socket or a device in place of a file."""
    root = folder.resolve()
    for parent, folders, names in os.walk(folder):  # links to folders are not followed
        for name in folders:
            path = os.path.join(parent, name)
            if os.path.islink(path) and (target := Path(os.path.realpath(path))) and _overlap(target, root):
                raise InputError(f"{path} is a link that leads back into {folder} ({target}): expected a folder")
        for name in names:
            path = os.path.join(parent, name)
            if name.casefold().endswith(DATA) and os.path.exists(path) and not os.path.isfile(path):
                raise InputError(f"{path} is no regular file, expected none but files in {folder}")


def _overlap(one: Path, other: Path) -> bool:
    return one.is_relative_to(other) or other.is_relative_to(one)


def keep_data_files(name: str, folder: Path | None, data_files: Mapping[Any, list[Any]]) -> dict[str, list[str]]:
    """The files of each split. In a local `folder` hidden files, system files (__MACOSX, @eaDir) and second links
    to one file are removed from `data_files`.

    Raises InputError for a file in two splits.
    """
    owner: dict[Any, tuple[str, str]] = {}
    files: dict[str, list[str]] = {}
    for split, paths in data_files.items():
        kept = []
        for path in paths:
            text = str(path)
            local = folder is not None and os.path.isfile(text)
            if local and not _is_data(text, folder):
                continue
            key = identity(text) if local else text
            other_split, first_path = owner.setdefault(key, (str(split), text))
            if other_split != str(split):
                raise InputError(
                    f"{name} has one file in {other_split} and {split}, expected it in one: {first_path} and {text}"
                )
            if first_path == text:
                kept.append(path)
        paths[:] = kept
        files[str(split)] = [*map(str, kept)]
    return files


def _is_data(path: str, folder: Path | None) -> bool:
    """Whether neither the file nor a folder between `folder` and it has a name that is skipped."""
    for base in (os.path.abspath(folder or "."), os.path.realpath(folder or ".")):
        if path.startswith(base + os.sep):
            return all(map(is_data_name, Path(os.path.relpath(path, base)).parts))
    return is_data_name(os.path.basename(path))


def names_by_file(files: Sequence[str], column: str, feature: Any, name: str) -> list[Names]:
    """For each file of a split the class names of its label column: those in the header of a local parquet file, if
    any; else those of `feature`, to which the library casts the column.

    Raises InputError for a damaged file, and for names in one file where another has numbers.
    """
    datasets, parquet = require_package("datasets", "hf"), require_package("pyarrow.parquet", "hf")
    text = "string" in str(getattr(feature, "dtype", ""))
    names_of_files: list[Names] = []
    for path in files:
        names = None
        if path.endswith(".parquet") and os.path.isfile(path):
            try:
                schema = parquet.read_schema(path)
            except Exception as error:  # pyarrow's own
                raise load_error(name, [path], error) from None
            names = names_of(datasets.Features.from_arrow_schema(schema).get(column))
            kind = str(schema.field(column).type) if column in schema.names else "missing"
            if (text and "string" not in kind) or kind == "missing":
                raise InputError(f"{name}: column {column} is {kind} in {path} and {feature.dtype} in others")
        names_of_files.append(names or names_of(feature))
    return names_of_files


def row_count(path: str) -> int:
    """Number of rows of a parquet file."""
    return require_package("pyarrow.parquet", "hf").read_metadata(path).num_rows
