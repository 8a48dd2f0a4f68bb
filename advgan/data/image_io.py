"""Images -> uint8 tensors. Unreadable images raise an error with their names."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import accumulate
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from advgan.core.errors import InputError
from advgan.core.terminal import bar_console
from advgan.data.image_file import (
    ImageSource,
    as_array,
    cropped,
    image_dimensions,
    is_grey,
    name_of,
    open_image,
    random_crop,
    size_of,
)

SIZED = 64  # images whose sizes in bytes are part of a set's fingerprint
MEMORY_LIMIT = 2 << 30  # bytes; a larger decoded set is decoded batch by batch


@dataclass(frozen=True)
class StoredImages:
    """Images with the interface of a uint8 tensor `(n, c, h, w)`; indexing decodes them.

    With `crop` an image is resized (antialiased) until it just covers `(h, w)`, or until its shorter side has `resize`
    pixels, and cropped around its centre; without, it has to be `(h, w)` already. Colours are converted to `c`
    channels.

    Args:
        sources: a sequence of images.
        order: the indices of the images in `sources`.
    """

    sources: Sequence[ImageSource]
    image_shape: tuple[int, int, int]
    crop: bool
    order: Sequence[int]
    resize: int | None = None

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
        sources = [self.sources[self.order[i]] for i in indices]
        return self._decoded(sources, lambda i: self._decode(sources[i]))

    def names_and_sizes(self) -> list[Any]:
        """The names of files, with their folders' (a set may be moved), and the bytes of `SIZED` evenly spread images;
        of a table the bytes alone."""
        files = self.sources if isinstance(self.sources, list) else ()  # a table reads its images at access
        names = ["/".join(Path(name_of(files[i])).parts[-2:]) for i in self.order if files]
        spread = {self.order[i] for i in np.linspace(0, len(self) - 1, min(SIZED, len(self))).astype(int)}
        some = [self.sources[i] for i in sorted(spread)]
        return names + [size_of(source) for source in some]

    def keys(self) -> list[Hashable]:
        """Of each image the name and size of its file, as those of a copy in another folder; of a table its bytes."""
        sources = [self.sources[i] for i in self.order]
        return [(Path(s).name, size_of(s)) if isinstance(s, str) else hash(s.data) for s in sources]

    def random_crops(self, indices: Sequence[int], seed: Sequence[int]) -> Tensor:
        """A random crop of each image at `indices` (`image_file.random_crop`), a function of `seed` and its index."""
        sources = [self.sources[self.order[i]] for i in indices]
        channels, side, _ = self.image_shape

        def crop(i: int) -> np.ndarray:
            image = random_crop(sources[i], side, np.random.default_rng((*seed, indices[i])))
            return as_array(image.convert("L" if channels == 1 else "RGB"))

        return self._decoded(sources, crop)

    def _decoded(self, sources: Sequence[ImageSource], decode: Callable[[int], np.ndarray]) -> Tensor:
        """The arrays `decode(i)` of all sources, as one tensor."""
        images = torch.empty(len(sources), *self.image_shape, dtype=torch.uint8)
        pixels = images.numpy()
        broken: list[tuple[str, OSError]] = []

        def read(chunk: range) -> None:
            for i in chunk:
                try:
                    pixels[i] = decode(i)
                except OSError as error:
                    broken.append((name_of(sources[i]), error))

        everything = range(len(sources))
        chunks = [everything[i : i + 32] for i in range(0, len(sources), 32)]
        # A progress bar on a terminal, by one of several processes, for many images.
        quiet = len(sources) < 2000 or os.environ.get("LOCAL_RANK", "0") != "0"
        with ThreadPoolExecutor() as pool:
            for _ in track(
                pool.map(read, chunks),
                f"reading {len(sources)} images",
                total=len(chunks),
                console=bar_console(stderr=True),
                transient=True,
                disable=quiet,
            ):
                pass
        if broken:
            raise unreadable(broken, len(sources))
        return images

    def _decode(self, source: ImageSource) -> np.ndarray:
        """One image as uint8 `(c, h, w)`."""
        channels, height, width = self.image_shape
        image = open_image(source).convert("L" if channels == 1 else "RGB")
        if self.crop:
            image = cropped(image, width, height, self.resize)
        elif image.size != (width, height):
            raise InputError(
                f"all images must have the same size, but {name_of(source)} is {image.width} x {image.height} and "
                f"others are {width} x {height}; --image-size N (in Python model.image_shape) resizes and crops all"
            )
        return as_array(image)


def split_images(images: StoredImages, lengths: Sequence[int]) -> list[Tensor | StoredImages]:
    """Consecutive splits of `images`, decoded now unless that takes more bytes than `MEMORY_LIMIT`.

    All are decoded together: one progress bar, and one error for all broken images.
    """
    if prod(images.shape) <= MEMORY_LIMIT:
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
                size = open_image(source).size
            grey = grey and is_grey(source)
        except OSError as error:  # an error only if all are broken, else when decoded
            broken.append((name_of(source), error))
        if size and (channels or not grey):
            break
    if size is None:
        raise unreadable(broken, len(sources))
    width, height = (image_size, image_size) if image_size else size
    return channels or (1 if grey else 3), height, width


def mixed_sizes(sources: Sequence[ImageSource]) -> bool:
    """Whether images differ in size, by the headers of some."""
    return len({*_sizes(sources)}) > 1


def larger_than(sources: Sequence[ImageSource], side: int) -> bool:
    """Whether most images are larger than `side` pixels in both directions, by the headers of some."""
    return bool(np.median([min(size) for size in _sizes(sources)] or [0]) > side)


def _sizes(sources: Sequence[ImageSource]) -> list[tuple[int, int]]:
    """Width and height of 64 images, without those that cannot be read."""
    sizes = []
    for i in {*np.linspace(0, len(sources) - 1, 64).astype(int).tolist()} if len(sources) else ():
        with suppress(OSError):
            sizes.append(image_dimensions(sources[i]))
    return sizes


def resizing_text(image_size: int | None, resize: int | None = None) -> str:
    """How images are resized and cropped, for reports; "" where they are as they are."""
    if image_size is None:
        return ""
    return f"shorter side to {resize or image_size} pixels (bilinear, antialiased), centre crop of {image_size}"


def unreadable(broken: list[tuple[str, OSError]], total: int) -> InputError:
    """The error for broken images: their number, the first five names, and the first reason."""
    broken = sorted(broken, key=lambda entry: entry[0])
    names = ", ".join(name for name, _ in broken[:5]) + (", ..." if len(broken) > 5 else "")
    reason = " ".join(str(broken[0][1]).split())
    return InputError(
        f"{len(broken)} of {total} image files cannot be read: {names} (the first: {reason}); repair or remove them"
    )
