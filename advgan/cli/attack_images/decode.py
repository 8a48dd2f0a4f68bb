"""Many images of many sizes, decoded ahead of the network."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from advgan.data.image_file import MAX_PIXELS, as_array, cropped, image_dimensions, open_image

BATCH_PIXELS = 16_000_000  # of one channel: 8 images of 1600 x 1200, 192 MB as float32 RGB
AHEAD_PIXELS = 32_000_000  # decoded, or being decoded, before the network takes them: 96 MB of 8-bit RGB


class Batch(NamedTuple):
    """Images of one shape: their indices in the list of paths, and uint8 `(n, c, h, w)`."""

    indices: list[int]
    images: Tensor


class Unreadable(NamedTuple):
    """An image that cannot be read: its index in the list of paths, and the reason."""

    number: int
    reason: str


def group_by_shape(
    decoded: Iterable[tuple[int, np.ndarray | str]], batch_size: int, batch_pixels: int = BATCH_PIXELS
) -> Iterator[Batch | Unreadable]:
    """Batches of the images of `decode_images`: of one shape, `batch_size` of them or `batch_pixels` at most.

    Four full batches wait at most: of many shapes, the one that has waited longest is delivered as it is. Batches and
    their order depend on the images alone.
    """
    waiting: dict[tuple[int, ...], list[tuple[int, np.ndarray]]] = {}  # the shape that has waited longest first
    held = 0  # pixels in all of them

    def take(shape: tuple[int, ...]) -> Batch:
        nonlocal held
        indices, arrays = zip(*waiting.pop(shape), strict=True)
        held -= len(arrays) * shape[1] * shape[2]
        return Batch(list(indices), torch.from_numpy(np.stack(arrays)))

    for index, image in decoded:
        if isinstance(image, str):
            yield Unreadable(index, image)
            continue
        shape, pixels = image.shape, image.shape[1] * image.shape[2]
        group = waiting.setdefault(shape, [])
        group.append((index, image))
        held += pixels
        if len(group) == batch_size or (len(group) + 1) * pixels > batch_pixels:
            yield take(shape)
        while held > 4 * batch_pixels:
            yield take(next(iter(waiting)))
    while waiting:
        yield take(next(iter(waiting)))


def decode_images(
    paths: Sequence[str | os.PathLike[str]],
    channels: int | None,
    size: int | None,
    workers: int,
    max_pixels: int = MAX_PIXELS,
) -> Iterator[tuple[int, np.ndarray | str]]:
    """The index of each path and its image uint8 (c, h, w), or the reason why it cannot be read, in order.

    `workers` threads decode ahead of the caller (Pillow decodes outside the GIL): at most two images for each, of
    `AHEAD_PIXELS` together, or one. `channels` 1 (grey) or 3 (RGB), None: those of the image. `size`: the shorter side
    is resized to it, the centre square cropped; None: no image of more than `max_pixels` is decoded.
    """

    def pixels_of(path: str | os.PathLike[str]) -> int | str:
        """The number of pixels in an image's header, or the reason why it is not decoded."""
        try:
            width, height = image_dimensions(os.fspath(path))
        except OSError as error:
            return error.strerror or str(error)
        if size is None and width * height > max_pixels:
            return f"{width} x {height} pixels, expected at most {max_pixels:,} in all (--max-pixels)"
        return width * height

    def read(path: str | os.PathLike[str]) -> np.ndarray | str:
        try:
            image = open_image(os.fspath(path))
        except OSError as error:
            return error.strerror or str(error)
        image = image if channels is None else image.convert("L" if channels == 1 else "RGB")
        return as_array(image if size is None else cropped(image, size, size))

    with ThreadPoolExecutor(workers) as pool:
        under_way: deque[tuple[int, Future[np.ndarray | str] | str]] = deque()  # pixels; image or reason
        ahead = 0  # pixels of all under way
        following = 0  # the next image to be read
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
            count, image = under_way.popleft()
            ahead -= count
            index = following - len(under_way) - 1
            yield index, image if isinstance(image, str) else image.result()
