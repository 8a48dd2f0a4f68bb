"""The user's images: `train/<class>/*.jpg`, `test/<class>/*.jpg` and optionally `val/<class>/*.jpg`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from advgan.core.errors import InputError, listing, note
from advgan.data.classes import class_order
from advgan.data.image_file import EXTENSIONS
from advgan.data.image_io import MEMORY_LIMIT, StoredImages, infer_shape, split_images
from advgan.data.split import Data, Split, fair_order, stratified_holdout
from advgan.data.walk import identity, image_files, is_data_name

SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing"),
}
LAYOUT = "expected train/<class>/*.jpg, test/<class>/*.jpg and, if there is one, val/<class>/*.jpg"


def load_folder(
    root: Path,
    *,
    image_size: int | None = None,
    channels: int | None = None,
    seed: int = 0,
    memory_limit: int = MEMORY_LIMIT,
) -> Data:
    """Load class folders; the classes are the sorted folder names of train/ (`class_order`), the same in every split.

    Every split is in an order of which the first m images are a fair sample (`fair_order`). Hidden files and folders
    are skipped; a file counts once, however many links lead to it.

    Args:
        root: the folder of train/, test/ and optionally val/ (or valid/, validation/, dev/).
        image_size: resize the shorter side to this and crop the centre square; None: all images have one size.
        channels: 1 or 3; None: 1 if all images are grey.
        seed: of the draw of validation images without a val/ (`stratified_holdout`).
        memory_limit: a set that takes more bytes than this when decoded stays on disk and is decoded batch by batch;
            broken files and images of another size raise an error then. A smaller one is decoded now.

    Raises:
        InputError: a folder is missing or empty, or there are two of a split; classes differ; a file is in two splits
            or classes through links; images cannot be read or differ in size.
    """
    folders = split_folders(root)
    for part in ("train", "test"):
        if part not in folders:
            raise InputError(f"no folder {root / part}; {LAYOUT}")
    classes = _classes(folders["train"])
    train, test = _images(folders["train"], classes), _images(folders["test"], classes)
    listings = {"train": train, "test": test}
    if "validation" in folders:
        listings["validation"] = validation = _images(folders["validation"], classes)
    _check_apart({str(folders[part]): images for part, images in listings.items()})
    if "validation" not in folders:
        kept, held = stratified_holdout(train.labels, seed)
        train, validation = train.pick(kept), train.pick(held)
    train, validation, test = (part.pick(fair_order(part.labels)) for part in (train, validation, test))

    parts = (train, validation, test)
    paths = [path for part in parts for path in part.paths]
    files = StoredImages(paths, infer_shape(paths, image_size, channels), image_size is not None, range(len(paths)))
    images = split_images(files, [len(part.paths) for part in parts], memory_limit)
    splits = [Split(*pair) for pair in zip(images, (part.labels for part in parts), strict=True)]
    return Data("folder", splits[0], splits[1], splits[2], classes)


def by_split(names: Sequence[str], where: object, kind: str, hint: str = "") -> dict[str, str]:
    """The `names` of "train", "validation" and "test", by any of their `SPLITS` names.

    Others are listed in a note on stderr, with `hint` at its end, if there is a split. `kind`: plural noun of the named
    objects. Raises InputError for two of one split.
    """
    splits: dict[str, str] = {}
    unused = []
    for name in names:
        split = next((split for split, aliases in SPLITS.items() if name.casefold() in aliases), None)
        if split is None:
            unused.append(name)
        elif split in splits:
            raise InputError(f"{where} has two {kind} for {split}, {splits[split]} and {name}: expected one")
        else:
            splits[split] = name
    if splits and unused:
        note(f"{kind} of {where} that are not used: {listing(unused)}{hint}")
    return splits


class Listing(NamedTuple):
    """The images of a split as n paths, and labels `(n,)`."""

    paths: list[str]
    labels: Tensor

    def pick(self, indices: Tensor) -> Listing:
        return Listing([self.paths[i] for i in indices.tolist()], self.labels[indices])


def split_folders(root: Path) -> dict[str, Path]:
    """The folders below `root` that are "train", "validation" and "test", by any of their `SPLITS` names.

    Folders of other names are listed in a note on stderr. Raises InputError for two folders of one split.
    """
    names = _folders(root) if root.is_dir() else []
    return {split: root / name for split, name in by_split(names, root, "folders", f" ({LAYOUT})").items()}


def _folders(folder: Path) -> list[str]:
    """The names of the folders in `folder`, sorted, without hidden and system ones (.ipynb_checkpoints)."""
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and is_data_name(entry.name))


def _classes(folder: Path) -> tuple[str, ...]:
    """The names of the class folders in `folder`: in the order of their numbers where all are numbers, else as text."""
    return tuple(class_order(_folders(folder)))


def _images(folder: Path, classes: tuple[str, ...]) -> Listing:
    """All images in `folder/<class>`, in the order of the classes and the file names. Raises InputError for a file
    that is in two classes."""
    names = _classes(folder)
    if not names:
        raise InputError(f"no class folders in {folder}; {LAYOUT}")
    if names != classes:
        additional, missing = class_order([*{*names} - {*classes}]), class_order([*{*classes} - {*names}])
        differences = (("lacks", missing), ("also has", additional))
        description = " and ".join(f"{what} {listing(names)}" for what, names in differences if names)
        raise InputError(f"{folder} must have the same classes as train/, but {description}")
    if len(classes) < 2:
        raise InputError(f"at least two classes expected, {folder} has only {classes[0]}")
    by_class = {str(folder / name): image_files(folder / name) for name in classes}
    for path, files in by_class.items():
        if not files:
            raise InputError(f"no images in {path} (files that end with {' '.join(EXTENSIONS)})")
    labels = torch.arange(len(classes)).repeat_interleave(torch.tensor([*map(len, by_class.values())]))
    _check_apart({path: Listing(files, labels) for path, files in by_class.items()})
    return Listing([path for files in by_class.values() for path in files], labels)


def class_images(folder: Path) -> tuple[tuple[str, ...] | None, Listing]:
    """The classes and images of `folder/<class>`, in a fair order; no classes (None) where `folder` has no folders."""
    classes = _classes(folder)
    if not classes:
        return None, Listing([], torch.empty(0, dtype=torch.long))
    listed = _images(folder, classes)
    return classes, listed.pick(fair_order(listed.labels))


def flat_images(folder: Path) -> Listing:
    """The images of a folder, of no class: all labels are 0. Raises InputError where there are none."""
    files = image_files(folder)
    if not files:
        raise InputError(f"no images in {folder} (files that end with {' '.join(EXTENSIONS)})")
    return Listing(files, torch.zeros(len(files), dtype=torch.long))


def _check_apart(listings: dict[str, Listing]) -> None:
    """Raise InputError for a file that is in two of the folders through links."""
    owner: dict[tuple[int, int], tuple[str, str]] = {}
    shared = []
    for folder, part in listings.items():
        for path in part.paths:
            other_folder, known_path = owner.setdefault(identity(path), (folder, path))
            if other_folder != folder:
                shared.append((known_path, path))
    if shared:
        first, second = shared[0]
        raise InputError(
            f"{len(shared)} files are in two splits or classes through links, expected each in one: "
            f"{first} and {second}{', ...' if len(shared) > 1 else ''} are one file"
        )
