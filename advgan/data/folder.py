"""The user's own images: `train/<class>/*.jpg`, `test/<class>/*.jpg` and, if there is one, `val/<class>/*.jpg`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from advgan.data.images import MEMORY_LIMIT, StoredImages, cut, infer_shape
from advgan.data.picture import EXTENSIONS
from advgan.data.split import Data, Split, hold_out
from advgan.errors import InputError

LAYOUT = "expected train/<class>/*.jpg, test/<class>/*.jpg and, if there is one, val/<class>/*.jpg"


def load_folder(
    root: Path,
    *,
    image_size: int | None = None,
    channels: int | None = None,
    seed: int = 0,
    memory_limit: int = MEMORY_LIMIT,
) -> Data:
    """Load class folders; the classes are the sorted folder names of train/, the same in every split.

    Args:
        root: the folder that has train/, test/ and, if there is one, val/ (or validation/).
        image_size: resize the shorter side to this and crop the centre square; None: all images have one size.
        channels: 1 or 3; None: 1 if all images are grey.
        seed: draws the validation images if there is no val/ (`hold_out`).
        memory_limit: a set that takes more bytes than this when decoded stays on disk and is decoded batch by batch;
            broken files and images of another size are then found when they are met. A smaller one is decoded now.

    Raises:
        InputError: a folder is missing or empty, classes differ, images cannot be read or differ in size.
    """
    for part in ("train", "test"):
        if not (root / part).is_dir():
            raise InputError(f"no folder {root / part}; {LAYOUT}")
    classes = _classes(root / "train")
    train, test = _images(root / "train", classes), _images(root / "test", classes)
    validation_dir = next((root / part for part in ("val", "validation") if (root / part).is_dir()), None)
    if validation_dir:
        validation = _images(validation_dir, classes)
    else:
        kept, held = hold_out(train.labels, seed)
        train, validation = train.pick(kept), train.pick(held)

    parts = (train, validation, test)
    paths = [path for part in parts for path in part.paths]
    files = StoredImages(paths, infer_shape(paths, image_size, channels), image_size is not None, range(len(paths)))
    images = cut(files, [len(part.paths) for part in parts], memory_limit)
    splits = [Split(*pair) for pair in zip(images, (part.labels for part in parts), strict=True)]
    return Data("folder", splits[0], splits[1], splits[2], classes)


class Listing(NamedTuple):
    """The images of a split before any is opened: n paths, labels `(n,)`."""

    paths: list[str]
    labels: Tensor

    def pick(self, indices: Tensor) -> Listing:
        return Listing([self.paths[i] for i in indices.tolist()], self.labels[indices])


def _classes(folder: Path) -> tuple[str, ...]:
    """The names of the class folders in `folder`, sorted; hidden ones (.ipynb_checkpoints) are none."""
    return tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")))


def _images(folder: Path, classes: tuple[str, ...]) -> Listing:
    """All images in `folder/<class>`, alternating between the classes.

    So the first n images are balanced, and the order does not depend on the file system.
    """
    found = _classes(folder)
    if not found:
        raise InputError(f"no class folders in {folder}; {LAYOUT}")
    if found != classes:
        extra, missing = sorted({*found} - {*classes}), sorted({*classes} - {*found})
        differences = (("lacks", missing), ("also has", extra))
        said = " and ".join(f"{what} {', '.join(names)}" for what, names in differences if names)
        raise InputError(f"{folder} must have the same classes as train/, but {said}")
    if len(classes) < 2:
        raise InputError(f"at least two classes expected, {folder} has only {classes[0]}")

    ranked = []
    for label, name in enumerate(classes):
        paths = sorted(
            os.path.join(parent, file)
            for parent, _, names in os.walk(folder / name, followlinks=True)
            for file in names
            if file.lower().endswith(EXTENSIONS) and not file.startswith(".")
        )
        if not paths:
            raise InputError(f"no images in {folder / name} (files that end with {' '.join(EXTENSIONS)})")
        ranked += [(rank, label, path) for rank, path in enumerate(paths)]
    ranked.sort()
    return Listing([path for _, _, path in ranked], torch.tensor([label for _, label, _ in ranked]))
