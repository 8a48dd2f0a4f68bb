"""Untrusted image files: size limits, 8 bits per channel, grey or RGB, upright."""

import io
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from advgan.core.errors import InputError
from advgan.core.files import check_regular

EXTENSIONS = (
    ".jpg",
    ".jpeg",
    ".jfif",
    ".png",
    ".bmp",
    ".webp",
    ".tif",
    ".tiff",
    ".gif",
    ".pbm",
    ".pgm",
    ".pnm",
    ".ppm",
)
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "PPM", "GIF")  # not EPS, for which Pillow runs Ghostscript
MAX_PIXELS = 89_478_485  # 256 MiB of RGB; the number for which Pillow warns
LARGEST_SIDE = math.isqrt(MAX_PIXELS)
GREY = ("1", "L", "LA", "La")


class InMemoryImage(NamedTuple):
    """An encoded image in memory: a name for messages, and its bytes."""

    name: str
    data: bytes


ImageSource = str | InMemoryImage  # before it is decoded: a path, or a name and bytes
ImageFile = ImageSource | Path | BinaryIO


def open_image(source: ImageFile, least: float | None = None) -> Image.Image:
    """An image as 8 bits grey (mode L) or RGB, rotated by its EXIF orientation.

    Of an animated file the first frame; transparency is dropped. The header is checked before decoding. A JPEG file may
    be decoded at a half, a fourth or an eighth of its size, if its shorter side has at least `least` pixels then.

    Raises:
        OSError: no image of `FORMATS`, a damaged one, more than `MAX_PIXELS` pixels or more than 8 bits per channel.
            The message is the reason, without the name of the file.
    """
    with _opened(source) as file:
        if least is not None:
            scale = least / min(file.size)
            file.draft(None, (math.ceil(file.width * scale), math.ceil(file.height * scale)))
        if file.mode[0] in "IF":  # Pillow would clip 16 bits to 8 and make the image white
            raise OSError(f"8 bits per channel expected, got mode {file.mode}")
        image = file.convert("L" if file.mode in GREY else "RGB")
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF data, intact pixels
        return image


def image_dimensions(source: ImageFile) -> tuple[int, int]:
    """Width and height in an image's header, before rotation. Raises OSError as `open_image`."""
    with _opened(source) as file:
        return file.width, file.height


def is_grey(source: ImageFile) -> bool:
    """Whether an image is grey, by its header. Raises OSError as `open_image`."""
    with _opened(source) as file:
        return file.mode in GREY


@contextmanager
def _opened(source: ImageFile) -> Iterator[Image.Image]:
    """Pillow's lazy image, within the size limit. Any exception becomes an OSError."""
    try:
        if isinstance(source, (str, Path)):
            check_regular(source)
        stream = io.BytesIO(source.data) if isinstance(source, InMemoryImage) else source
        with Image.open(stream, formats=FORMATS) as file:
            if file.width * file.height > MAX_PIXELS:
                raise OSError(f"at most {MAX_PIXELS} pixels expected, got {file.width} x {file.height}")
            yield file
    except UnidentifiedImageError:  # Pillow's message has the address of the object
        raise OSError(f"no image that can be read ({', '.join(FORMATS)})") from None
    except Image.DecompressionBombError as error:  # Pillow's own, at twice our limit
        raise OSError(f"at most {MAX_PIXELS} pixels expected: {error}") from None
    except OSError:
        raise
    except Exception as error:  # Pillow's decoders may raise any exception: SyntaxError, struct.error, ...
        raise OSError(f"{type(error).__name__}: {error}") from None


def check_sizes(side: int | None, resize: int | None) -> None:
    """Raise InputError for a `side` of images, or a shorter side before the crop, `resize`, out of range; None: any."""
    if side is not None and not 1 <= side <= LARGEST_SIDE:
        raise InputError(f"image_size must be at least 1 and at most {LARGEST_SIDE}, got {side}")
    if resize is not None and not (least := side or 1) <= resize <= LARGEST_SIDE:
        raise InputError(f"resize must be at least the image size, {least}, and at most {LARGEST_SIDE}, got {resize}")


def cropped(image: Image.Image, width: int, height: int, resize: int | None = None) -> Image.Image:
    """Resized (bilinear, antialiased) until it just covers the size, or its shorter side to `resize` pixels, and
    cropped around its centre, as torchvision's Resize and CenterCrop do. Raises OSError for more than `MAX_PIXELS`."""
    if resize is None:
        return ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
    short = min(image.size)
    size = [int(resize * side / short) for side in image.size]
    if size[0] * size[1] > MAX_PIXELS:
        raise OSError(f"at most {MAX_PIXELS} pixels expected, got {size[0]} x {size[1]} after resize {resize}")
    resized = image.resize(size, Image.Resampling.BILINEAR)
    left, top = (round((have - want) / 2) for have, want in zip(resized.size, (width, height), strict=True))
    return resized.crop((left, top, left + width, top + height))


def random_crop(source: ImageSource, side: int, rng: np.random.Generator) -> Image.Image:
    """A random square of an image, with 0.5 to 1 of the area of the largest, resized to `side` pixels (bilinear,
    antialiased), never enlarged unless the image is smaller, and mirrored or not.

    Raises OSError as `open_image`.
    """
    short = min(image_dimensions(source))
    share = math.sqrt(rng.uniform(min(1.0, max(0.5, (side / short) ** 2)), 1.0))
    image = open_image(source, least=side / share if side < share * short else None)
    edge = share * min(image.size)
    left, top = (rng.uniform(0, length - edge) for length in image.size)
    crop = image.resize((side, side), Image.Resampling.BILINEAR, box=(left, top, left + edge, top + edge))
    return ImageOps.mirror(crop) if rng.random() < 0.5 else crop


def as_array(image: Image.Image) -> np.ndarray:
    """An image of mode L or RGB as uint8 `(c, h, w)`."""
    pixels = np.asarray(image)
    return pixels[None] if image.mode == "L" else pixels.transpose(2, 0, 1)


def as_image(pixels: np.ndarray) -> Image.Image:
    """The image of uint8 pixels `(c, h, w)`, c 1 or 3."""
    return Image.fromarray(np.ascontiguousarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)))


def name_of(source: ImageSource) -> str:
    return source if isinstance(source, str) else source.name


def size_of(source: ImageSource) -> int:
    """The bytes of an encoded image; 0 for a file that is gone, which is an error when it is decoded."""
    if isinstance(source, str):
        return os.path.getsize(source) if os.path.exists(source) else 0
    return len(source.data)
