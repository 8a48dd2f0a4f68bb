"""The figure of photos turned into each of several classes, from the written files."""

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from advgan.cli.attack_images.find import InputImage
from advgan.cli.attack_images.work import ManifestRow
from advgan.core.errors import InputError, warn
from advgan.core.files import atomic_write, check_writable
from advgan.data.image_file import open_image

PHOTOS = 4  # in a figure, at most
SIDE = 360  # of an image in it, in pixels


def write_figure(
    path: Path,
    images: Sequence[InputImage],
    runs: Mapping[Path, Sequence[ManifestRow]],
    aims: Sequence[str],
    title: str,
) -> None:
    """Draw the first photos that were attacked in each of the `runs`, output folder -> rows, one for each of `aims`;
    where there are none, only warn."""
    from advgan.report.figures.photo_classes import ShownPhoto, photo_classes  # imports Matplotlib: slow

    by_name = [{row["input"]: row for row in rows if row["status"] == "ok"} for rows in runs.values()]
    attacked = [image for image in images if all(image.name in rows for rows in by_name)][:PHOTOS]
    if not attacked:
        warn(f"no photo was attacked in every way: no figure {path}")
        return
    figure = []
    for image in attacked:
        clean = by_name[0][image.name]
        row = [ShownPhoto(_small(image.path), "clean", clean["before"], clean["before_confidence"] or 0)]
        for folder, rows, aim in zip(runs, by_name, aims, strict=True):
            after = rows[image.name]
            confidence, image_after = after["after_confidence"] or 0, _small(folder / after["output"])
            row.append(ShownPhoto(image_after, aim, after["after"], confidence, bool(after["success"])))
        figure.append(row)
    buffer = io.BytesIO()
    Image.fromarray(photo_classes(figure, title)).save(buffer, "PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, buffer.getvalue())
    print(f"figure       {path}")


def check_figure(path: Path | None, images: Sequence[InputImage], output_dir: Path) -> None:
    """Raise InputError where the figure cannot be written, or would replace an image or a file of the outputs."""
    if path is None:
        return
    check_writable(path.parent)
    place, out = os.path.realpath(path), os.path.realpath(output_dir)
    inside = place.startswith(out + os.sep)
    taken = any(
        place == os.path.realpath(image.path) or (inside and place.endswith(os.sep + image.output)) for image in images
    )
    if taken or path.is_dir():
        raise InputError(f"the figure must be another file than the images and their outputs, got {path}")


def _small(path: Path) -> np.ndarray:
    """An image (h, w, 3) in [0, 1], of `SIDE` pixels at most."""
    image = open_image(path).convert("RGB")
    scale = min(1.0, SIDE / max(image.size))
    size = [max(1, round(side * scale)) for side in image.size]
    return np.asarray(image.resize(size, Image.Resampling.BOX), np.float32) / 255
