"""Many pictures of many sizes, decoded ahead of the network that waits for them."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from advgan.data.picture import as_array, cropped, open_picture
from advgan.errors import InputError

BATCH_PIXELS = 16_000_000  # of one channel: 8 pictures of 1600 x 1200, 192 MB as float32 RGB


class Batch(NamedTuple):
    """Pictures of one shape: their places in the list that was asked for, and uint8 `(n, c, h, w)`."""

    indices: list[int]
    images: Tensor


class Unreadable(NamedTuple):
    """A picture that cannot be had: its place in the list, and why."""

    place: int
    reason: str


def pictures(
    paths: Sequence[str | os.PathLike[str]],
    batch_size: int,
    *,
    channels: int | None = None,
    size: int | None = None,
    workers: int = 4,
    batch_pixels: int = BATCH_PIXELS,
) -> Iterator[Batch | Unreadable]:
    """Decode pictures in `workers` threads (Pillow decodes outside the GIL) while the caller works on the last batch.

    Pictures of one shape are put together until they are `batch_size`, or have `batch_pixels`. Four full batches wait
    at most: where there are many shapes, the one that has waited longest goes as it is. What comes, and in what order,
    depends on the pictures alone.

    Args:
        channels: 1 (grey) or 3 (RGB) for all; None: as each one is.
        size: resize the shorter side to this and crop the centre square; None: as each one is.

    Raises:
        InputError: at once, for a value out of range. A picture that cannot be read is no error, but `Unreadable`.
    """
    for name, value in (("batch size", batch_size), ("workers", workers), ("batch pixels", batch_pixels)):
        if value < 1:
            raise InputError(f"{name} must be at least 1, got {value}")
    if channels not in (None, 1, 3):
        raise InputError(f"channels must be 1 (grey) or 3 (RGB), got {channels}")
    return grouped(decoded(paths, channels, size, workers), batch_size, batch_pixels)


def grouped(
    found: Iterable[tuple[int, np.ndarray | str]], batch_size: int, batch_pixels: int = BATCH_PIXELS
) -> Iterator[Batch | Unreadable]:
    """The batches of what `decoded` found."""
    waiting: dict[tuple[int, ...], list[tuple[int, np.ndarray]]] = {}  # the shape that has waited longest first
    held = 0  # pixels in all of them

    def leave(shape: tuple[int, ...]) -> Batch:
        nonlocal held
        indices, arrays = zip(*waiting.pop(shape), strict=True)
        held -= len(arrays) * shape[1] * shape[2]
        return Batch(list(indices), torch.from_numpy(np.stack(arrays)))

    for index, each in found:
        if isinstance(each, str):
            yield Unreadable(index, each)
            continue
        shape, pixels = each.shape, each.shape[1] * each.shape[2]
        group = waiting.setdefault(shape, [])
        group.append((index, each))
        held += pixels
        if len(group) == batch_size or (len(group) + 1) * pixels > batch_pixels:
            yield leave(shape)
        while held > 4 * batch_pixels:
            yield leave(next(iter(waiting)))
    while waiting:
        yield leave(next(iter(waiting)))


def decoded(
    paths: Sequence[str | os.PathLike[str]], channels: int | None, size: int | None, workers: int
) -> Iterator[tuple[int, np.ndarray | str]]:
    """Each picture, or the reason why not, in the order of `paths`; two for each worker are under way."""

    def read(path: str | os.PathLike[str]) -> np.ndarray | str:
        try:
            image = open_picture(os.fspath(path))
        except OSError as error:
            return error.strerror or str(error)
        image = image if channels is None else image.convert("L" if channels == 1 else "RGB")
        return as_array(image if size is None else cropped(image, size, size))

    with ThreadPoolExecutor(workers) as pool:
        left = iter(paths)
        under_way: deque[Future[np.ndarray | str]] = deque(pool.submit(read, p) for p in islice(left, 2 * workers))
        for index in range(len(paths)):
            found = under_way.popleft().result()
            under_way.extend(pool.submit(read, path) for path in islice(left, 1))
            yield index, found
