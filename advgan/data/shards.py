"""Files and shards of a data set that Hugging Face `datasets` opens: checked and selected before, read, and checked for
damage.

Readers accept truncated archives, and their errors contain no path; the checks detect both.
"""

import os
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any

from advgan.core.errors import InputError, one_line
from advgan.core.optional import require_package
from advgan.data.columns import Columns, Names, names_of
from advgan.data.image_file import EXTENSIONS
from advgan.data.stream import Example
from advgan.data.walk import identity, is_data_name

DATA = (*EXTENSIONS, ".parquet", ".tar", ".arrow", ".json", ".jsonl", ".csv", ".txt", ".zip", ".gz")


def check_folder(folder: Path) -> None:
    """Raise InputError for entries of `folder` on which a library would not terminate: a link to a folder that leads
    back into it, a FIFO, a socket or a device in place of a file."""
    root = folder.resolve()
    for parent, folders, names in os.walk(folder):  # links to folders are not followed
        for name in folders:
            path = os.path.join(parent, name)
            target = Path(os.path.realpath(path))
            if os.path.islink(path) and (target.is_relative_to(root) or root.is_relative_to(target)):
                raise InputError(f"{path} is a link that leads back into {folder} ({target}): expected a folder")
        for name in names:
            path = os.path.join(parent, name)
            if name.casefold().endswith(DATA) and os.path.exists(path) and not os.path.isfile(path):
                raise InputError(f"{path} is no regular file, expected none but files in {folder}")


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

    Raises InputError for a damaged file, a column that is missing or there twice, and for names in one file where
    another has numbers.
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
            count = schema.names.count(column)
            kind = str(schema.field(column).type) if count == 1 else "there twice" if count else "missing"
            if count != 1 or (names_of(feature) is None and text != ("string" in kind)):
                raise InputError(f"{name}: column {column} is {kind} in {path} and {feature.dtype} in others")
        names_of_files.append(names or names_of(feature))
    return names_of_files


class LibraryShards:
    """The shards of a streamed split, each by the library's `split_dataset_by_node`; `names`: the class names of the
    label column in each of the `files`, or one for all."""

    def __init__(self, dataset: Any, columns: Columns, files: list[str], names: Sequence[Names]) -> None:
        self.name, self.columns = columns.name, columns
        self.dataset = columns.only(dataset)
        complete = len(files) == self.dataset.num_shards
        self.files = files if complete else [f"{self.name} shard {i}" for i in range(self.dataset.num_shards)]

        self.names = names if complete else [names[0] if names else None] * len(self.files)

    def __len__(self) -> int:
        return len(self.files)

    def read(self, shard: int) -> Iterator[Example]:
        split_by_node = require_package("datasets.distributed", "hf").split_dataset_by_node
        file, image, label = self.files[shard], self.columns.image, self.columns.label
        if file.endswith(".tar") and (damaged := describe_damage(file)):
            raise InputError(f"{self.name} has a damaged shard, {damaged}")
        batches = split_by_node(self.dataset, rank=shard, world_size=len(self)).iter(batch_size=8)
        count = 0
        while True:
            try:  # not iter(), which splits the shard again over PyTorch's workers
                rows = next(batches, None)
            except Exception as error:  # the library raises anything
                raise load_error(self.name, [file], error) from None
            if rows is None:
                return
            for content, value in zip(rows[image], rows[label], strict=True):
                count += 1
                where = f"{file} example {count}"
                yield self.columns.image_source(content, where), self.columns.number(value, where, self.names[shard])


def describe_damage(path: str) -> str | None:
    """The damage of a local tar or parquet file, as `path: reason`; None for an undamaged one.

    Of a tar archive the headers are read, up to the mark at its end; a parquet file is read through.
    """
    if not os.path.isfile(path):
        return None
    try:
        if path.endswith(".tar"):
            _walk(path)
        elif path.endswith(".parquet"):
            for _ in require_package("pyarrow.parquet", "hf").ParquetFile(path).iter_batches(batch_size=64):
                pass
    except Exception as error:  # pyarrow's and tarfile's own
        return f"{path}: {one_line(error)}"
    return None


def first_damage(paths: Iterable[str]) -> str | None:
    """`describe_damage` of the first damaged file of `paths`; None without any."""
    return next(filter(None, map(describe_damage, paths)), None)


def load_error(name: str, paths: Iterable[str], error: Exception) -> InputError:
    """An InputError for the library's `error`, with the damaged file if there is one."""
    if damaged := first_damage(paths):
        return InputError(f"{name} has a damaged shard, {damaged}")
    causes = [error, *filter(None, [error.__cause__])]
    of_names = "int() with base 10" in str(error)  # the library reads .cls as a number
    hint = ": labels that are names belong in .txt files, with --label-column txt" if of_names else ""
    messages = "; ".join(shorten(f"{type(cause).__name__}: {cause}", 300, placeholder=" ...") for cause in causes)
    return InputError(
        f"cannot load {name}, expected a folder or a repository that Hugging Face datasets reads: {messages}{hint}"
    )


def _walk(path: str) -> None:
    """Read all headers of a tar archive. tarfile treats a damaged header or a truncation as the end of the archive."""
    with tarfile.open(path, "r:") as archive:
        for _ in archive:
            pass
        assert archive.fileobj is not None
        archive.fileobj.seek(archive.offset)
        if archive.fileobj.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
            raise tarfile.ReadError(f"truncated or damaged at byte {archive.offset}, no end-of-archive mark")
