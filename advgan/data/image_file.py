"""One picture from strangers: opened with care, 8 bits a channel, grey or RGB, upright."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from advgan.core.files import check_regular

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".pbm", ".pgm", ".pnm", ".ppm")
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "PPM", "GIF")  # not EPS: Pillow hands that to Ghostscript
MAX_PIXELS = 89_478_485  # 256 MiB of RGB; Pillow's own line, where it only warns
GREY = ("1", "L", "LA", "La")


def open_picture(source: str | Path | BinaryIO) -> Image.Image:
    """A picture as 8 bits grey (mode L) or RGB, turned upright as its EXIF data say.

    Of an animated file the first frame; transparency is dropped. Nothing is decoded before the header has been judged.

    Raises:
        OSError: it is no picture of `FORMATS`, is damaged, has more than `MAX_PIXELS` pixels or more than 8 bits a
            channel. The message is the reason; the name of the file is the caller's to add.
    """
    with _opened(source) as file:
        if file.mode[0] in "IF":  # Pillow would clip 16 bits to 8 and make the image white
            raise OSError(f"8 bits per channel expected, got mode {file.mode}")
        image = file.convert("L" if file.mode in GREY else "RGB")
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF data say nothing about the pixels
        return image


def picture_size(source: str | Path | BinaryIO) -> tuple[int, int]:
    """Width and height of a picture by its header, before it is turned upright. Raises OSError as `open_picture`."""
    with _opened(source) as file:
        return file.width, file.height


@contextmanager
def _opened(source: str | Path | BinaryIO) -> Iterator[Image.Image]:
    """Pillow's lazy image, small enough to be decoded. Whatever goes wrong in or with it is an OSError."""
    try:
        if isinstance(source, (str, Path)):
            check_regular(source)
        with Image.open(source, formats=FORMATS) as file:
            if file.width * file.height > MAX_PIXELS:
                raise OSError(f"at most {MAX_PIXELS} pixels expected, got {file.width} x {file.height}")
            yield file
    except UnidentifiedImageError:  # Pillow's message has the address of the object
        raise OSError(f"no picture that can be read ({', '.join(FORMATS)})") from None
    except Image.DecompressionBombError as error:  # Pillow's own, at twice our limit
        raise OSError(f"at most {MAX_PIXELS} pixels expected: {error}") from None
    except OSError:
        raise
    except Exception as error:  # Pillow's decoders raise anything: SyntaxError, struct.error, ...
        raise OSError(f"{type(error).__name__}: {error}") from None


class Named(NamedTuple):
    """A picture that lies in no file of its own: the name to call it by, and its bytes."""

    name: str
    data: bytes


Picture = str | Named  # before it is decoded: a path, or a name and bytes


def read_picture(picture: Picture) -> Image.Image:
    """`open_picture` of either kind."""
    return open_picture(_source(picture))


def is_grey(picture: Picture) -> bool:
    """Whether a picture has no colours, by its header alone. Raises OSError as `open_picture` does."""
    with _opened(_source(picture)) as file:
        return file.mode in GREY


def _source(picture: Picture) -> str | BinaryIO:
    return picture if isinstance(picture, str) else io.BytesIO(picture.data)


def cropped(image: Image.Image, width: int, height: int) -> Image.Image:
    """Resized (antialiased) until it just covers the size, and cropped around its centre."""
    return ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)


def as_array(image: Image.Image) -> np.ndarray:
    """A picture of mode L or RGB as uint8 `(c, h, w)`."""
    pixels = np.asarray(image)
    return pixels[None] if image.mode == "L" else pixels.transpose(2, 0, 1)


def name_of(picture: Picture) -> str:
    return picture if isinstance(picture, str) else picture.name
