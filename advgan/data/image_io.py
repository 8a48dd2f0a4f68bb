"""Images -> uint8 tensors. Unreadable images raise an error with their names."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import accumulate
from math import prod

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from advgan.core.errors import InputError
from advgan.data.image_file import ImageSource, as_array, cropped, is_grey, name_of, open_image, read_image

__all__ = ["MEMORY_LIMIT", "StoredImages", "infer_shape", "open_image", "split_images", "unreadable"]

MEMORY_LIMIT = 2 << 30  # bytes; a larger decoded set is decoded batch by batch


@dataclass(frozen=True)
class StoredImages:
    """Images with the interface of a uint8 tensor `(n, c, h, w)`; indexing decodes them.

    With `crop` an image is resized (antialiased) until it just covers `(h, w)` and cropped around its centre; without,
    it has to be `(h, w)` already. Colours are converted to `c` channels.

    Args:
        sources: a sequence of images.
        order: the indices of the images in `sources`.
    """

    sources: Sequence[ImageSource]
    image_shape: tuple[int, int, int]
    crop: bool
    order: Sequence[int]

    def __len__(self) -> int:
        return len(self.order)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self), *self.image_shape

    def take(self, indices: Iterable[int]) -> StoredImages:
        return replace(self, order=[self.order[i] for i in indices])

    def __getitem__(self, indices: Iterable[int]) -> Tensor:
        """Decode the images at `indices`, in parallel threads (Pillow decodes outside the GIL).

        Raises:
            InputError: unreadable images, with their number and the first names; an image of another size.
        """
        source_indices = [self.order[i] for i in indices]
        images = torch.empty(len(source_indices), *self.image_shape, dtype=torch.uint8)
        pixels = images.numpy()
        broken: list[tuple[str, OSError]] = []

        def read(chunk: range) -> None:
            for i in chunk:
                source = self.sources[source_indices[i]]
                try:
                    pixels[i] = self._decode(source)
                except OSError as error:
                    broken.append((name_of(source), error))

        everything = range(len(source_indices))
        chunks = [everything[i : i + 32] for i in range(0, len(source_indices), 32)]
        # A progress bar on a terminal, by one of several processes, for many images.
        quiet = len(source_indices) < 2000 or os.environ.get("LOCAL_RANK", "0") != "0"
        with ThreadPoolExecutor() as pool:
            for _ in track(
                pool.map(read, chunks),
                f"reading {len(source_indices)} images",
                total=len(chunks),
                console=Console(stderr=True),
                transient=True,
                disable=quiet,
            ):
                pass
        if broken:
            raise unreadable(broken, len(source_indices))
        return images

    def _decode(self, source: ImageSource) -> np.ndarray:
        """One image as uint8 `(c, h, w)`."""
        channels, height, width = self.image_shape
        image = read_image(source).convert("L" if channels == 1 else "RGB")
        if self.crop:
            image = cropped(image, width, height)
        elif image.size != (width, height):
            raise InputError(
                f"all images must have the same size, but {name_of(source)} is {image.width} x {image.height} and "
                f"others are {width} x {height}; --image-size N resizes and crops all to N x N"
            )
        return as_array(image)


def split_images(
    images: StoredImages, lengths: Sequence[int], memory_limit: int = MEMORY_LIMIT
) -> list[Tensor | StoredImages]:
    """Consecutive splits of `images`, decoded now unless that takes more bytes than the limit.

    All are decoded together: one progress bar, and one error for all broken images.
    """
    if prod(images.shape) <= memory_limit:
        return list(images[range(len(images))].split(list(lengths)))
    ends = [*accumulate(lengths)]
    return [images.take(range(end - length, end)) for end, length in zip(ends, lengths, strict=True)]


def infer_shape(sources: Sequence[ImageSource], image_size: int | None, channels: int | None) -> tuple[int, int, int]:
    """`(c, h, w)` for a set of images: grey if all are, and the size of the first one, unless given.

    Decodes the first image; reads as few headers of the others as possible.

    Raises:
        InputError: none of them can be read.
    """
    size, grey = None, True
    broken: list[tuple[str, OSError]] = []
    for source in sources:
        try:
            if size is None:
                size = read_image(source).size
            grey = grey and is_grey(source)
        except OSError as error:  # an error only if all are broken, else when decoded
            broken.append((name_of(source), error))
        if size and (channels or not grey):
            break
    if size is None:
        raise unreadable(broken, len(sources))
    width, height = (image_size, image_size) if image_size else size
    return channels or (1 if grey else 3), height, width


def unreadable(broken: list[tuple[str, OSError]], total: int) -> InputError:
    """The error for broken images: their number, the first five names, and the first reason."""
    broken = sorted(broken, key=lambda entry: entry[0])
    names = ", ".join(name for name, _ in broken[:5]) + (", ..." if len(broken) > 5 else "")
    reason = " ".join(str(broken[0][1]).split())
    return InputError(
        f"{len(broken)} of {total} image files cannot be read: {names} (the first: {reason}); repair or remove them"
    )
