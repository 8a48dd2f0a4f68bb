"""A share of the pictures, from files to files: what is done already, and the doing of the rest."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from advgan.errors import InputError
from advgan.pictures.answers import Answers
from advgan.pictures.find import Picture
from advgan.pictures.png import check_place, finished, write_png
from advgan.pictures.stream import ahead, alike, read

Row = dict[str, Any]  # a picture's line in the manifest


def already(pictures: Sequence[Picture], answers: Answers, output_dir: Path) -> dict[str, Row]:
    """The rows of the pictures whose answers are there, whole. Raises InputError for any other file in their place."""
    rows, foreign, mark = dict[str, Row](), list[Path](), answers.sha256
    for picture in pictures:
        path = check_place(output_dir, picture.output)
        if not path.exists() and not path.is_symlink():
            continue
        record = finished(path)
        if record is None or (record.get("input"), record.get("settings")) != (picture.name, mark):
            foreign.append(path)
        elif "sha256" in record:
            rows[picture.name] = _row(picture, record)
    if foreign:
        raise InputError(
            f"{len(foreign)} files in the way were not made from these pictures with these settings, the first is "
            f"{foreign[0]}: --force replaces them"
        )
    return rows


def work(
    chunks: Sequence[Sequence[Picture]],
    answers: Answers,
    output_dir: Path,
    *,
    done: Collection[str],
    size: int | None,
    workers: int,
) -> Iterator[Row]:
    """Answer the pictures of `chunks` that are not `done`, and write the answers; a row for each when it is written.

    What goes through the network together is decided within a chunk, by its pictures alone. Sums in another order
    differ in their last bit: so one process or two, a call that goes on or that was never stopped, give the same bytes.
    """
    mark = answers.sha256
    with ThreadPoolExecutor(workers) as pool:
        decode = partial(read, channels=answers.channels, size=size, only=answers.only)
        most = max([workers, *map(len, chunks)])
        stream = ahead(pool, decode, (picture for chunk in chunks for picture in chunk), most)
        writing: list[Future[Row]] = []
        for chunk in chunks:
            for group in alike(islice(stream, len(chunk))):
                yield from (row.result() for row in writing)  # one group at most waits to be written
                whole = [(each.picture, each.pixels) for each in group if each.pixels is not None]
                yield from (_left_out(each.picture, each.problem) for each in group if each.pixels is None)
                writing = []
                if whole:
                    names = [picture.name for picture, _ in whole]
                    pixels, records = answers(np.stack([each for _, each in whole]), names)
                    for (picture, _), answer, record in zip(whole, pixels, records, strict=True):
                        if picture.name not in done:
                            record = {"input": picture.name, "settings": mark, **record}
                            writing.append(pool.submit(_write, output_dir, picture, answer, record))
        yield from (row.result() for row in writing)


def _write(output_dir: Path, picture: Picture, pixels: np.ndarray, record: Row) -> Row:
    path = check_place(output_dir, picture.output)
    return _row(picture, {**record, "sha256": write_png(path, pixels, record)})


def _row(picture: Picture, record: Row) -> Row:
    return {**record, "output": picture.output, "status": "ok"}


def _left_out(picture: Picture, reason: str) -> Row:
    return {"input": picture.name, "status": "left out", "reason": reason}
