"""A share of the pictures, from files to files: what is done already, and the doing of the rest."""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from advgan.cli.attack_images.attacker import Answers
from advgan.cli.attack_images.decode import Unreadable, decoded, grouped
from advgan.cli.attack_images.find import Picture
from advgan.cli.attack_images.png import check_place, content_of, finished, write_png
from advgan.core.errors import InputError

Row = dict[str, Any]  # a picture's line in the manifest
OF_THE_NAME = (errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.EINVAL, errno.EILSEQ)  # errors


def already(pictures: Sequence[Picture], answers: Answers, output_dir: Path) -> dict[str, Row]:
    """The rows of the pictures whose answers are there, whole; not of one that has changed since.

    Raises InputError for any other file in their place.
    """
    rows, foreign, mark = dict[str, Row](), list[Path](), answers.sha256
    for picture in pictures:
        path = check_place(output_dir, picture.output)
        if not os.path.lexists(path):
            continue
        record = finished(path)
        if record is None or (record.get("input"), record.get("settings")) != (picture.name, mark):
            foreign.append(path)
        elif "sha256" in record and record.get("input_sha256") == content_of(picture.path):
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
    max_pixels: int,
) -> Iterator[Row]:
    """Answer the pictures of `chunks` that are not `done`, and write the answers; a row for each when it is written.

    What goes through the network together is decided within a chunk, by its pictures alone. Sums in another order
    differ in their last bit: so one process or two, a call that goes on or that was never stopped, give the same bytes.
    """
    mark, only = answers.sha256, answers.only
    everything = [picture for chunk in chunks for picture in chunk]
    stream = decoded([picture.path for picture in everything], answers.channels, size, workers, max_pixels)
    writing: list[Future[Row]] = []
    with ThreadPoolExecutor(workers) as pool:
        for chunk in chunks:
            for batch in grouped(islice(stream, len(chunk)), len(chunk)):
                if isinstance(batch, Unreadable):
                    yield left_out(everything[batch.place], batch.reason)
                    continue
                group, (height, width) = [everything[i] for i in batch.indices], batch.images.shape[2:]
                if only is not None and (height, width) != only:
                    reason = f"{width} x {height} pixels, expected {only[1]} x {only[0]} (--image-size resizes)"
                    yield from (left_out(picture, reason) for picture in group)
                    continue
                pixels, records = answers(batch.images, [picture.name for picture in group])
                yield from (row.result() for row in writing)  # one batch at most waits to be written
                writing = [
                    pool.submit(
                        _write, output_dir, picture, answer, {"input": picture.name, "settings": mark, **record}
                    )
                    for picture, answer, record in zip(group, pixels, records, strict=True)
                    if picture.name not in done
                ]
        yield from (row.result() for row in writing)


def _write(output_dir: Path, picture: Picture, pixels: np.ndarray, record: Row) -> Row:
    """Write an adversarial image, if nothing is wrong with it; no file of an earlier call stays in its place."""
    path, problem = check_place(output_dir, picture.output), record["problem"]
    record = {key: value for key, value in record.items() if key != "problem"}
    if problem:
        path.unlink(missing_ok=True)
        return {**record, "status": "failed", "reason": problem}
    record["input_sha256"] = content_of(picture.path)
    try:
        digest = write_png(path, pixels, record)
    except OSError as error:
        if error.errno not in OF_THE_NAME:
            raise
        return left_out(picture, f"cannot write {picture.output}: {error.strerror}")
    return _row(picture, {**record, "sha256": digest})


def _row(picture: Picture, record: Row) -> Row:
    return {**record, "output": picture.output, "status": "ok"}


def left_out(picture: Picture, reason: str) -> Row:
    """The row of a picture without an answer."""
    return {"input": picture.name, "status": "left out", "reason": reason}
