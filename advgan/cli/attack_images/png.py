"""PNG files with metadata that identify finished outputs, for resuming."""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from advgan.core.errors import InputError
from advgan.core.files import atomic_write, sha256_of
from advgan.core.json_files import parse_object

KEY = "advgan"  # key of the PNG text chunk with the record


def write_png(path: Path, pixels: np.ndarray, record: dict[str, Any], icc_profile: bytes = b"") -> str:
    """Write uint8 `pixels` (c, h, w), c 1 or 3, with the `record` as text, atomically; returns the file's SHA-256.

    `icc_profile` is left out where it is for another number of channels (a CMYK photo, a grey output). Equal arguments
    give equal bytes. Raises OSError where the file cannot be written.
    """
    text, buffer = PngImagePlugin.PngInfo(), io.BytesIO()
    text.add_text(KEY, json.dumps(record))
    image = Image.fromarray(np.ascontiguousarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)))
    profile = icc_profile if icc_profile[16:20] == (b"GRAY" if len(pixels) == 1 else b"RGB ") else None  # ICC.1, 7.2
    # For noise, level 6 saves 6 % in three times the time.
    image.save(buffer, "PNG", pnginfo=text, compress_level=1, icc_profile=profile)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, buffer.getvalue())
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def read_metadata(path: Path) -> dict[str, Any] | None:
    """The record in a PNG of this command, with the file's SHA-256 as "sha256"; None for any other file.

    A damaged one keeps its record, without "sha256".
    """
    try:
        content = path.read_bytes()
        image = Image.open(io.BytesIO(content), formats=("PNG",))
        record = parse_object(image.info[KEY])
    except Exception:  # no PNG, no text, no JSON: another file
        return None
    if not isinstance(record, dict):
        return None
    try:
        image.verify()
    except Exception:  # truncated or damaged
        return record
    return {**record, "sha256": hashlib.sha256(content).hexdigest()}


def sha256_or_none(path: Path) -> str | None:
    """The SHA-256 of a file's bytes; None where it cannot be read."""
    try:
        return sha256_of(path)
    except OSError:
        return None


def check_output_path(root: Path, name: str) -> Path:
    """The path of the output `name` below `root`. Raises InputError where a name or a link leads out of it."""
    path = root / name
    if not path.parent.resolve().is_relative_to(root.resolve()) or path.name in ("", ".", ".."):
        raise InputError(f"{name} leads out of {root}, expected names that stay in it")
    return path
