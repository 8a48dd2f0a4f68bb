"""Shards through Hugging Face `datasets`, and checks for damaged ones.

Readers accept truncated archives, and their errors contain no path; these checks detect both.
"""

import os
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from textwrap import shorten
from typing import Any

from advgan.core.errors import InputError, one_line
from advgan.core.optional import require_package
from advgan.data.columns import Columns
from advgan.data.labels import Names
from advgan.data.stream import Example


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
    messages = "; ".join(shorten(f"{type(cause).__name__}: {cause}", 300, placeholder=" ...") for cause in causes)
    return InputError(
        f"cannot load {name}, expected a folder or a repository that Hugging Face datasets reads: {messages}"
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
