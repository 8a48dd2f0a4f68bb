"""Pictures -> uint8 tensors. What cannot be read is named, never skipped."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from rich.console import Console
from rich.progress import track
from torch import Tensor

from advgan.errors import InputError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".pgm", ".ppm")


FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "PPM", "GIF")  # not EPS: Pillow hands that to Ghostscript
MAX_PIXELS = 89_478_485  # 256 MiB of RGB; Pillow's own line, where it only warns
GREY = ("1", "L", "LA", "La")


def open_picture(source: str | Path | BinaryIO) -> Image.Image:
    """A picture from strangers as 8 bits grey (mode L) or RGB, turned upright as its EXIF data say.

    Of an animated file the first frame; transparency is dropped. The header is looked at before anything is decoded.

    Raises:
        OSError: it is no picture of `FORMATS`, is damaged, has more than `MAX_PIXELS` pixels or more than 8 bits a
            channel. The reason is in the message, the name of the file is the caller's to add.
    """
    try:
        with Image.open(source, formats=FORMATS) as file:
            if file.width * file.height > MAX_PIXELS:
                raise OSError(f"at most {MAX_PIXELS} pixels expected, got {file.width} x {file.height}")
            if file.mode[0] in "IF":  # Pillow would clip 16 bits to 8 and make the image white
                raise OSError(f"8 bits per channel expected, got mode {file.mode}")
            image = file.convert("L" if file.mode in GREY else "RGB")
    except UnidentifiedImageError:  # Pillow's message has the address of the object
        raise OSError(f"no picture that can be read ({', '.join(FORMATS)})") from None
    except Image.DecompressionBombError as error:  # Pillow's own, at twice our limit
        raise OSError(f"at most {MAX_PIXELS} pixels expected: {error}") from None
    except OSError:
        raise
    except Exception as error:  # Pillow's decoders raise anything: SyntaxError, struct.error, ...
        raise OSError(f"{type(error).__name__}: {error}") from None
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF data say nothing about the pixels
        return image


@dataclass(frozen=True)
class ImageFiles:
    """Image files that look like a uint8 tensor `(n, c, h, w)`: indexing decodes.

    With `crop` an image is resized (antialiased) until it just covers `(h, w)` and cropped around its centre; without,
    it has to be `(h, w)` already. Colours are converted to `c` channels, transparency is dropped.
    """

    paths: Sequence[str]
    image_shape: tuple[int, int, int]
    crop: bool

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self), *self.image_shape

    def take(self, indices: Iterable[int]) -> ImageFiles:
        return replace(self, paths=[self.paths[i] for i in indices])

    def __getitem__(self, indices: Iterable[int]) -> Tensor:
        """Decode the images at `indices`, in parallel threads (Pillow decodes outside the GIL).

        Raises:
            InputError: files that cannot be read, all counted and the first few named; an image of another size.
        """
        paths = [self.paths[i] for i in indices]
        images = torch.empty(len(paths), *self.image_shape, dtype=torch.uint8)
        pixels = images.numpy()
        broken: list[tuple[str, Exception]] = []

        def read(chunk: range) -> None:
            for i in chunk:
                try:
                    pixels[i] = self._decode(paths[i])
                except InputError:
                    raise
                except Exception as error:  # Pillow's decoders raise anything: OSError, SyntaxError, struct.error, ...
                    broken.append((paths[i], error))

        everything = range(len(paths))
        chunks = [everything[i : i + 32] for i in range(0, len(paths), 32)]
        # A terminal sees the progress, from one process of several, unless it is a matter of a moment.
        quiet = len(paths) < 2000 or os.environ.get("LOCAL_RANK", "0") != "0"
        with ThreadPoolExecutor() as pool:
            for _ in track(
                pool.map(read, chunks),
                f"reading {len(paths)} images",
                total=len(chunks),
                console=Console(stderr=True),
                transient=True,
                disable=quiet,
            ):
                pass
        if broken:
            raise unreadable(broken, len(paths))
        return images

    def _decode(self, path: str) -> np.ndarray:
        """One image as uint8 `(c, h, w)`."""
        channels, height, width = self.image_shape
        image = open_picture(path).convert("L" if channels == 1 else "RGB")
        if self.crop:
            image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
        elif image.size != (width, height):
            raise InputError(
                f"all images must have the same size, but {path} is {image.width} x {image.height} and others are "
                f"{width} x {height}; --image-size N resizes and crops all to N x N"
            )
        pixels = np.asarray(image)
        return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def infer_shape(paths: Sequence[str], image_size: int | None, channels: int | None) -> tuple[int, int, int]:
    """`(c, h, w)` for a set of files: grey if all are, and the size of the first one, unless asked for otherwise.

    Reads headers only, of as few files as it can.

    Raises:
        InputError: none of the files can be read.
    """
    size, grey, broken = None, True, []
    for path in paths:
        try:
            with Image.open(path) as image:  # decodes nothing yet
                size = size or image.size
                grey = grey and image.mode in ("1", "L", "LA", "I;16", "I", "F")
        except Exception as error:  # named here only if there is nothing else, otherwise when it is decoded
            broken.append((path, error))
        if size and (channels or not grey):
            break
    if size is None:
        raise unreadable(broken, len(paths))
    width, height = (image_size, image_size) if image_size else size
    return channels or (1 if grey else 3), height, width


def unreadable(broken: list[tuple[str, Exception]], total: int) -> InputError:
    """The error that names broken files: how many, the first five, and why the first."""
    broken = sorted(broken, key=lambda entry: entry[0])
    names = ", ".join(path for path, _ in broken[:5]) + (", ..." if len(broken) > 5 else "")
    reason = " ".join(str(broken[0][1]).split()) or type(broken[0][1]).__name__
    return InputError(
        f"{len(broken)} of {total} image files cannot be read: {names} (the first: {reason}); repair or remove them"
    )
