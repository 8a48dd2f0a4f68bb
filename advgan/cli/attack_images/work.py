"""Processing of image files: finished ones are loaded, all others are attacked; and their PNG files, with metadata that
identify finished ones.
"""

import errno
import hashlib
import io
import json
import os
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, PngImagePlugin

from advgan.cli.attack_images.attacker import ImageAttacker
from advgan.cli.attack_images.decode import Unreadable, decode_images, group_by_shape
from advgan.cli.attack_images.find import InputImage
from advgan.cli.attack_images.settings import Settings
from advgan.core.errors import InputError
from advgan.core.files import atomic_write, sha256_of
from advgan.core.json_files import parse_object
from advgan.core.terminal import utf8
from advgan.data.image_file import as_image

ManifestRow = dict[str, Any]  # an image in the manifest
KEY = "advgan"  # key of the PNG text chunk with the record
NAME_ERRORS = (errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.EINVAL, errno.EILSEQ)  # errors


def load_finished(images: Sequence[InputImage], attacker: ImageAttacker, output_dir: Path) -> dict[str, ManifestRow]:
    """The rows of the images with complete outputs, except for images that changed since.

    Raises InputError for any other file with the name of an output.
    """
    rows, other_files, settings_sha256 = dict[str, ManifestRow](), list[Path](), attacker.sha256
    for image in images:
        path = check_output_path(output_dir, image.output)
        if not os.path.lexists(path):
            continue
        record = read_metadata(path)
        if record is None or (record.get("input"), record.get("settings")) != (utf8(image.name), settings_sha256):
            other_files.append(path)
        elif "sha256" in record and record.get("input_sha256") == sha256_or_none(image.path):
            rows[image.name] = _row(image, record)
    if other_files:
        raise InputError(
            f"{len(other_files)} files in the output folder are not of these images and settings, the first is "
            f"{other_files[0]}: --force replaces them"
        )
    return rows


def process(
    chunks: Sequence[Sequence[InputImage]], attacker: ImageAttacker, settings: Settings, done: Collection[str]
) -> Iterator[list[ManifestRow]]:
    """Attack the images of `chunks` that are not `done`, write the outputs, and yield the rows of each batch.

    The batches of a chunk depend on its images alone, since sums in another order differ in the last bit: the number of
    processes and interruptions do not change the bytes.
    """
    settings_sha256, images = attacker.sha256, [image for chunk in chunks for image in chunk]
    workers = max(1, torch.get_num_threads())
    stream = decode_images(
        [image.path for image in images],
        attacker.channels,
        attacker.model_input,
        workers,
        settings.max_pixels,
        inputs_only=settings.output_size == "input",
    )
    writing: list[Future[ManifestRow]] = []
    with ThreadPoolExecutor(workers) as pool:
        for chunk in chunks:
            for batch in group_by_shape(islice(stream, len(chunk)), len(chunk)):
                if isinstance(batch, Unreadable):
                    yield [skipped(images[batch.number], batch.reason)]
                    continue
                group = [images[i] for i in batch.indices]
                photos, records = attacker(batch, [image.name for image in group])
                yield [row.result() for row in writing]  # one batch at most waits to be written
                writing = [
                    pool.submit(
                        _write,
                        settings.output_dir,
                        image,
                        pixels,
                        {"input": utf8(image.name), "settings": settings_sha256, **record},
                        original.icc_profile,
                    )
                    for image, original, pixels, record in zip(group, batch.photos, photos, records, strict=True)
                    if image.name not in done
                ]
        yield [row.result() for row in writing]


def _write(
    output_dir: Path, image: InputImage, pixels: np.ndarray, record: ManifestRow, icc_profile: bytes
) -> ManifestRow:
    """Write an adversarial image without a problem; otherwise delete the file of an earlier call."""
    path, problem = check_output_path(output_dir, image.output), record["problem"]
    record = {key: value for key, value in record.items() if key != "problem"}
    if problem:
        path.unlink(missing_ok=True)
        return {**record, "input": image.name, "status": "failed", "reason": problem}
    record["input_sha256"] = sha256_or_none(image.path)
    try:
        digest = write_png(path, pixels, record, icc_profile)
    except OSError as error:
        if error.errno not in NAME_ERRORS:
            raise
        return skipped(image, f"cannot write {image.output}: {error.strerror}")
    return _row(image, {**record, "sha256": digest})


def _row(image: InputImage, record: ManifestRow) -> ManifestRow:
    return {**record, "input": image.name, "output": image.output, "status": "ok"}


def skipped(image: InputImage, reason: str) -> ManifestRow:
    """The row of an image without an output."""
    return {"input": image.name, "status": "left out", "reason": reason}


def write_png(path: Path, pixels: np.ndarray, record: dict[str, Any], icc_profile: bytes = b"") -> str:
    """Write uint8 `pixels` (c, h, w), c 1 or 3, with the `record` as text, atomically; returns the file's SHA-256.

    `icc_profile` is left out where it is for another number of channels (a CMYK photo, a grey output). Equal arguments
    give equal bytes. Raises OSError where the file cannot be written.
    """
    text, buffer = PngImagePlugin.PngInfo(), io.BytesIO()
    text.add_text(KEY, json.dumps(record))
    profile = icc_profile if icc_profile[16:20] == (b"GRAY" if len(pixels) == 1 else b"RGB ") else None  # ICC.1, 7.2
    # For noise, level 6 saves 6 % in three times the time.
    as_image(pixels).save(buffer, "PNG", pnginfo=text, compress_level=1, icc_profile=profile)
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
