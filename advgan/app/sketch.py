"""The field to draw on, with examples and a place for pictures: HTML for both pages, its script, and what it sends."""

import base64
import binascii
import io
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image
from torch import Tensor

from advgan.app.digits import example_digits
from advgan.core.errors import InputError, one_line
from advgan.data.image_file import as_image, open_image

ASSETS = Path(__file__).with_name("assets")
TEMPLATES = Environment(loader=FileSystemLoader(ASSETS), autoescape=True, undefined=StrictUndefined)
FIRST = 7  # the example with which a page opens
LARGEST = 32 << 20  # characters of a picture's URL


def asset(name: str) -> str:
    """The text of a file in assets/."""
    return (ASSETS / name).read_text(encoding="utf-8")


def render(template: str, **values: object) -> str:
    """A template of assets/, filled in: everything is escaped, nothing may be missing."""
    return TEMPLATES.get_template(template).render(values)


def sketch_html(digits: bool) -> str:
    """The field; to draw on and with examples, where the classifier is one of `digits`."""
    examples = [data_uri(image) for image in example_pixels().split(1)] if digits else []
    return render("sketch.html.jinja", examples=examples, first=FIRST)


def example_pixels() -> Tensor:
    """The examples as uint8 (10, 1, 28, 28)."""
    return (255 * example_digits()).round().byte()


def data_uri(pixels: Tensor) -> str:
    """A uint8 image (1, c, h, w) as PNG in a URI."""
    buffer = io.BytesIO()
    as_image(pixels[0].numpy()).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def decode_uri(uri: object) -> Image.Image:
    """The image, in mode L or RGB, of a data URI, as a browser makes it of a file. Raises InputError for anything else,
    for a file that is no image, and for a large one."""
    if not isinstance(uri, str) or not uri.startswith("data:") or len(uri) > LARGEST:
        raise InputError("this picture cannot be read: expected an image of at most 24 MB")
    try:
        return open_image(io.BytesIO(base64.b64decode(uri.partition(",")[2], validate=True)))
    except (OSError, binascii.Error) as error:
        raise InputError(f"this picture cannot be read: {one_line(error)}") from None
