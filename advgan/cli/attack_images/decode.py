"""Many pictures of many sizes, decoded ahead of the network that waits for them."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from advgan.core.errors import InputError
from advgan.data.image_file import MAX_PIXELS, as_array, cropped, open_picture, picture_size

BATCH_PIXELS = 16_000_000  # of one channel: 8 pictures of 1600 x 1200, 192 MB as float32 RGB
AHEAD_PIXELS = 32_000_000  # decoded, or being decoded, before the network takes them: 96 MB of 8-bit RGB


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
    paths: Sequence[str | os.PathLike[str]],
    channels: int | None,
    size: int | None,
    workers: int,
    max_pixels: int = MAX_PIXELS,
) -> Iterator[tuple[int, np.ndarray | str]]:
    """Each picture, or the reason why not, in the order of `paths`; two for each worker are under way, and together at
    most `AHEAD_PIXELS`, or one. With `size` None a picture of more than `max_pixels` is not decoded.
    """

    def pixels_of(path: str | os.PathLike[str]) -> int | str:
        """The pixels of a picture by its header, or why it is not decoded."""
        try:
            width, height = picture_size(os.fspath(path))
        except OSError as error:
            return error.strerror or str(error)
        if size is None and width * height > max_pixels:
            return f"{width} x {height} pixels, expected at most {max_pixels:,} in all (--max-pixels)"
        return width * height

    def read(path: str | os.PathLike[str]) -> np.ndarray | str:
        try:
            image = open_picture(os.fspath(path))
        except OSError as error:
            return error.strerror or str(error)
        image = image if channels is None else image.convert("L" if channels == 1 else "RGB")
        return as_array(image if size is None else cropped(image, size, size))

    with ThreadPoolExecutor(workers) as pool:
        under_way: deque[tuple[int, Future[np.ndarray | str] | str]] = deque()  # pixels, and the picture or why not
        ahead = 0  # pixels of all under way
        following = 0  # the next picture to be read
        while following < len(paths) or under_way:
            while following < len(paths) and len(under_way) < 2 * workers:
                pixels = pixels_of(paths[following])
                count = 0 if isinstance(pixels, str) else pixels
                if under_way and ahead + count > AHEAD_PIXELS:
                    break
                reading = pixels if isinstance(pixels, str) else pool.submit(read, paths[following])
                under_way.append((count, reading))
                ahead += count
                following += 1
            count, picture = under_way.popleft()
            ahead -= count
            index = following - len(under_way) - 1
            yield index, picture if isinstance(picture, str) else picture.result()
