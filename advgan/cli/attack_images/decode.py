"""Images of many sizes, decoded in advance in threads."""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from advgan.data.image_file import MAX_PIXELS, as_array, image_dimensions, open_image
from advgan.data.model_input import ModelInput

BATCH_PIXELS = 16_000_000  # of one channel: 8 images of 1600 x 1200, 192 MB as float32 RGB
AHEAD_PIXELS = 32_000_000  # decoded in advance, or being decoded: 96 MB of 8-bit RGB


class Photo(NamedTuple):
    """A decoded image, uint8 `(c, h, w)`; the classifier's input that is made of it, the image itself where it is that;
    and its ICC colour profile, b"" for none."""

    pixels: np.ndarray
    input: np.ndarray
    icc_profile: bytes = b""


class Batch(NamedTuple):
    """Inputs of one shape: their indices in the list of paths, uint8 `(n, c, h, w)`, and the photos."""

    indices: list[int]
    images: Tensor
    photos: list[Photo]


class Unreadable(NamedTuple):
    """An image that cannot be read: its index in the list of paths, and the reason."""

    number: int
    reason: str


def group_by_shape(
    decoded: Iterable[tuple[int, Photo | str]], batch_size: int, batch_pixels: int = BATCH_PIXELS
) -> Iterator[Batch | Unreadable]:
    """Batches of the images of `decode_images`: inputs of one shape, `batch_size` or `batch_pixels` of photos at most.

    At most four full batches wait: then the shape that has waited longest is returned as a smaller batch. Batches and
    their order depend on the images alone.
    """
    waiting: dict[tuple[int, ...], list[tuple[int, Photo]]] = {}  # the shape that has waited longest first
    waiting_pixels = 0  # pixels in all of them

    def take(shape: tuple[int, ...]) -> Batch:
        nonlocal waiting_pixels
        indices, photos = zip(*waiting.pop(shape), strict=True)
        waiting_pixels -= sum(map(_pixels, photos))
        return Batch(list(indices), torch.from_numpy(np.stack([photo.input for photo in photos])), list(photos))

    for index, image in decoded:
        if isinstance(image, str):
            yield Unreadable(index, image)
            continue
        shape, pixels = image.input.shape, _pixels(image)
        group = waiting.setdefault(shape, [])
        group.append((index, image))
        waiting_pixels += pixels
        if len(group) == batch_size or sum(_pixels(photo) for _, photo in group) + pixels > batch_pixels:
            yield take(shape)
        while waiting_pixels > 4 * batch_pixels:
            yield take(next(iter(waiting)))
    while waiting:
        yield take(next(iter(waiting)))


def _pixels(photo: Photo) -> int:
    """The pixels of a photo or of its input, whichever are more."""
    return max(image.shape[1] * image.shape[2] for image in (photo.pixels, photo.input))


def decode_images(
    paths: Sequence[str | os.PathLike[str]],
    channels: int | None,
    model_input: ModelInput | None,
    workers: int,
    max_pixels: int = MAX_PIXELS,
    *,
    inputs_only: bool = False,
) -> Iterator[tuple[int, Photo | str]]:
    """The index of each path and its photo, or the reason why it cannot be read, in order.

    `workers` threads decode in advance (Pillow decodes outside the GIL): at most two images for each, of
    `AHEAD_PIXELS` together, or one. `channels` 1 (grey) or 3 (RGB), None: those of the image. `model_input` makes the
    classifier's inputs; None: the images themselves. `inputs_only`: the inputs take the place of the photos; else no
    image of more than `max_pixels` is decoded.
    """

    def pixels_of(path: str | os.PathLike[str]) -> int | str:
        """The number of pixels in an image's header, or the reason why it is not decoded."""
        try:
            width, height = image_dimensions(os.fspath(path))
        except OSError as error:
            return error.strerror or str(error)
        if not (inputs_only and model_input) and width * height > max_pixels:
            return f"{width} x {height} pixels, expected at most {max_pixels:,} in all (--max-pixels)"
        return width * height

    def read(path: str | os.PathLike[str]) -> Photo | str:
        try:
            image = open_image(os.fspath(path))
            profile = image.info.get("icc_profile") or b""
            image = image if channels is None else image.convert("L" if channels == 1 else "RGB")
            resized = image if model_input is None else model_input(image)
        except OSError as error:
            return error.strerror or str(error)
        pixels = as_array(image)
        inputs = pixels if resized is image else as_array(resized)
        return Photo(inputs if inputs_only else pixels, inputs, profile)

    with ThreadPoolExecutor(workers) as pool:
        in_progress: deque[tuple[int, Future[Photo | str] | str]] = deque()  # pixels; image or reason
        pixels_in_progress = 0  # pixels of all under way
        next_index = 0  # the next image to be read
        while next_index < len(paths) or in_progress:
            while next_index < len(paths) and len(in_progress) < 2 * workers:
                pixels = pixels_of(paths[next_index])
                count = 0 if isinstance(pixels, str) else pixels
                if in_progress and pixels_in_progress + count > AHEAD_PIXELS:
                    break
                future = pixels if isinstance(pixels, str) else pool.submit(read, paths[next_index])
                in_progress.append((count, future))
                pixels_in_progress += count
                next_index += 1
            count, image = in_progress.popleft()
            pixels_in_progress -= count
            index = next_index - len(in_progress) - 1
            yield index, image if isinstance(image, str) else image.result()
