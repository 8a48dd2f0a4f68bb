"""Pictures on their way to the network: decoded in threads ahead of it, batched with others of their size."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps

from advgan.data.images import open_picture
from advgan.pictures.find import Picture

T = TypeVar("T")
PENDING = 1 << 23  # pixels that wait for others of their size, or go through a network together


@dataclass(frozen=True)
class Read:
    """A picture with its pixels, uint8 (c, h, w), or the reason why there are none."""

    picture: Picture
    pixels: np.ndarray | None = None
    problem: str = ""


def read(picture: Picture, channels: int, size: int | None, only: tuple[int, int] | None) -> Read:
    """Decode a picture as `channels` 1 (grey) or 3 (RGB), upright; with `size` resized and cropped to a square.

    `only` is the one (height, width) that a network takes; None: any.
    """
    if picture.problem:
        return Read(picture, problem=picture.problem)
    try:
        image = open_picture(picture.path).convert("L" if channels == 1 else "RGB")
    except OSError as error:
        return Read(picture, problem=" ".join(str(error.strerror or error).split()))
    if size is not None:
        image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
    if only is not None and (image.height, image.width) != only:
        return Read(picture, problem=f"{image.width} x {image.height} pixels, expected {only[1]} x {only[0]}")
    pixels = np.asarray(image)
    return Read(picture, pixels[None] if channels == 1 else pixels.transpose(2, 0, 1))


def ahead(pool: Executor, work: Callable[[T], Read], items: Iterable[T], most: int) -> Iterator[Read]:
    """`work` on each item, in order, at most `most` of them ahead of who takes them; fewer where pictures are large."""
    rest, waiting, window = iter(items), deque[Future[Read]](), most
    while True:
        waiting.extend(pool.submit(work, item) for item in islice(rest, max(0, window - len(waiting))))
        if not waiting:
            return
        done = waiting.popleft().result()
        if done.pixels is not None:
            window = min(most, max(2, 16 * PENDING // done.pixels.size))
        yield done


def alike(stream: Iterable[Read]) -> Iterator[list[Read]]:
    """Groups of one shape, and those without pixels. They depend on the order of the stream alone."""
    waiting: dict[tuple[int, ...] | None, list[Read]] = {}
    pixels = 0
    for each in stream:
        waiting.setdefault(None if each.pixels is None else each.pixels.shape, []).append(each)
        pixels += 0 if each.pixels is None else each.pixels[0].size
        if pixels >= PENDING:
            shape = max(waiting, key=lambda s: 0 if s is None else s[1] * s[2] * len(waiting[s]))
            group = waiting.pop(shape)
            pixels -= sum(one.pixels[0].size for one in group if one.pixels is not None)
            yield group
    yield from waiting.values()
