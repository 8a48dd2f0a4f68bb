"""The user's images: class folders, folders of images alone, and lists of files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from advgan.core.errors import InputError, listing, note
from advgan.core.terminal import utf8
from advgan.data.classes import class_order
from advgan.data.image_file import EXTENSIONS, ImageSource, check_sizes
from advgan.data.image_io import (
    StoredImages,
    infer_shape,
    larger_than,
    mixed_sizes,
    resizing_text,
    split_images,
)
from advgan.data.label_file import SUFFIXES, ImageTable, labels_of_files, listed_files, no_labels, read_table
from advgan.data.split import Data, Split, fair_order, stratified_holdout
from advgan.data.walk import identity, image_files, is_data_name, is_image_name, walk

SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing"),
}
TABLES = (".parquet", ".arrow", ".tar", ".tar.gz", ".tgz")
LAYOUT = (
    "expected train/ and test/, if there is one val/, or images without these; of class folders or images: docs/data.md"
)
LabelSource = Literal["given", "predicted"]
OwnInput = Callable[[], tuple[tuple[int, int, int], int | None] | None]


def no_input() -> None:
    """An `OwnInput` where there is no classifier."""


@dataclass(frozen=True)
class Labels:
    """Where the labels of images come from: folder names or lists, unless `source` is "predicted"; a CSV `file`, and
    the columns of it and of lists (None: by their names)."""

    source: LabelSource | None = None
    file: Path | None = None
    image_column: str | None = None
    label_column: str | None = None

    @property
    def predicted(self) -> bool:
        return self.source == "predicted"

    def table(self, path: Path) -> ImageTable:
        """The list or CSV file `path`, with the columns chosen."""
        return read_table(path, self.image_column, self.label_column)


class Listing(NamedTuple):
    """The images of a split as n paths, and labels `(n,)`; without labels all are 0."""

    paths: list[str]
    labels: Tensor
    has_labels: bool = True

    def pick(self, indices: Tensor) -> Listing:
        return Listing([self.paths[i] for i in indices.tolist()], self.labels[indices], self.has_labels)


@dataclass(frozen=True)
class Photos:
    """The images of a split: n paths, and the names of their classes (None: no labels). `groups` are the same paths by
    class folder, or by the folder or list; `closed`: whether there is a folder for each class."""

    paths: list[str]
    names: list[str] | None
    groups: Mapping[str, list[str]]
    closed: bool = False


@dataclass(frozen=True)
class Sizing:
    """Size and channels of the images, and the classifier's input in the place of a size, as for `load_data`."""

    image_size: int | None = None
    resize: int | None = None
    channels: int | None = None
    own_input: OwnInput = no_input

    def stored(
        self, root: object, sources: Sequence[ImageSource], order: Sequence[int] | None = None
    ) -> tuple[StoredImages, str]:
        """The images `sources` of the set `root`, in this `order` (None: their own), all of one size; and how they are
        resized, for reports. Raises InputError for a `resize` without a size."""
        size, resize = self._sizes(root, sources)
        shape = infer_shape(sources, size, self.channels)
        indices = range(len(sources)) if order is None else order
        return StoredImages(sources, shape, size is not None, indices, resize), resizing_text(size, resize)

    def _sizes(self, root: object, sources: Sequence[ImageSource]) -> tuple[int | None, int | None]:
        """`image_size` and `resize`; where there is no size and `sources` differ in size, or `resize` needs one, those
        of a classifier."""
        if self.image_size is not None or (self.resize is None and not mixed_sizes(sources)):
            return self.image_size, self.resize
        own = self.own_input()
        if own is None or own[0][1] != own[0][2]:
            if self.resize is not None:
                raise InputError(
                    f"resize does nothing without an image size: expected --image-size, got resize {self.resize}"
                )
            return None, None
        side, resize = own[0][1], own[1] if self.resize is None else self.resize
        check_sizes(side, resize)
        note(f"images of {root} are made {side} x {side}, as the classifier's: {resizing_text(side, resize)}")
        return side, resize


def load_folder(root: Path, sizing: Sizing, labels: Labels, seed: int) -> Data:
    """Load images in folders `train/`, `test/` and optionally `val/`, or without them.

    Each is a folder of class folders, whose names are the classes (of all splits together, `class_order`); or of
    images, also nested, which have no labels but those in a CSV file; or a list of files, `.csv` or `.txt`. Images
    that are not in such splits are divided, 8 to 1 to 1 (a note on stderr), unless `root` itself is named like a
    split. A split that is missing is empty.

    Every split is in an order of which the first m images are a fair sample (`fair_order`). Hidden files and folders
    are skipped; a file counts once, however many links lead to it. A set that takes more than `MEMORY_LIMIT` bytes
    stays on disk and is decoded batch by batch; broken files and images of another size raise an error then.

    Args:
        root: a folder, or a list of files.
        seed: of the draw of validation images without a val/ (`stratified_holdout`), and of the division.

    Raises:
        InputError: there are no images, or two folders of a split; a file is in two splits or classes through links;
            images cannot be read or differ in size; labels of one class alone, or of a part of the images.
    """
    by_part = split_paths(root)
    photos = {part: read_photos(by_part[part], labels, root) for part in (*SPLITS, "all") if part in by_part}
    _check_apart({name: files for images in photos.values() for name, files in images.groups.items()})
    if labels.file is not None and all(images.names is None or images.closed for images in photos.values()):
        raise InputError(f"{labels.file} names none of the images in {root}")
    if (labels.image_column or labels.label_column) and not _reads_tables(photos, labels):
        raise InputError(f"columns can be chosen for hf, hf-stream and CSV files, got a folder without: {root}")
    classes = _classes(root, photos)
    listings = _divided(root, {part: _listing(images, classes) for part, images in photos.items()}, seed)
    empty = Listing([], torch.empty(0, dtype=torch.long))
    parts = [listings.get(part, empty) for part in SPLITS]
    parts = [part.pick(fair_order(part.labels)) for part in parts]
    images, preprocessing = sizing.stored(root, [path for part in parts for path in part.paths])
    train, validation, test = as_splits(images, [part.labels for part in parts], [part.has_labels for part in parts])
    partial = "train" not in photos or not photos["train"].closed
    return Data("folder", train, validation, test, classes, partial, preprocessing)


def as_splits(images: StoredImages, labels: Sequence[Tensor], has_labels: Sequence[bool]) -> list[Split]:
    """Consecutive splits of `images`, one for each of the `labels`; the first has the files as photos, where these are
    larger than the images."""
    parts = split_images(images, [len(part) for part in labels])
    splits = [Split(part, y) for part, y in zip(parts, labels, strict=True)]
    splits = [split if given else split.unlabelled() for split, given in zip(splits, has_labels, strict=True)]
    files, (_, height, width) = images.take(range(len(splits[0]))), images.image_shape
    if images.crop and height == width and larger_than(files.sources, height):
        splits[0].photos = files
    return splits


def _reads_tables(photos: Mapping[str, Photos], labels: Labels) -> bool:
    """Whether labels or names of images are of a CSV file."""
    lists = [path for images in photos.values() for path in images.groups if path.endswith(SUFFIXES)]
    return bool(lists or labels.file) or any(images.names and not images.closed for images in photos.values())


def by_split(names: Sequence[str], where: object, kind: str, hint: str = "") -> dict[str, str]:
    """The `names` of "train", "validation" and "test", by any of their `SPLITS` names.

    Others are listed in a note on stderr, with `hint` at its end, if there is a split. `kind`: plural noun of the named
    objects. Raises InputError for two of one split.
    """
    splits: dict[str, str] = {}
    unused = []
    for name in names:
        split = split_named(name)
        if split is None:
            unused.append(name)
        elif split in splits:
            raise InputError(f"{where} has two {kind} for {split}, {splits[split]} and {name}: expected one")
        else:
            splits[split] = name
    if splits and unused:
        note(f"{kind} of {where} that are not used: {listing(unused)}{hint}")
    return splits


def split_named(name: str) -> str | None:
    """The split of a folder or file of this name."""
    return next((split for split, aliases in SPLITS.items() if name.casefold() in aliases), None)


def split_folders(root: Path) -> dict[str, Path]:
    """The folders below `root` that are "train", "validation" and "test", by any of their `SPLITS` names.

    Folders of other names are listed in a note on stderr. Raises InputError for two folders of one split.
    """
    names = _folders(root) if root.is_dir() else []
    return {split: root / name for split, name in by_split(names, root, "folders", f" ({LAYOUT})").items()}


def split_paths(root: Path) -> dict[str, Path]:
    """The folder or list of each split, in `root` or `root` itself; "all": images that are in no split."""
    if not root.exists():
        raise InputError(f"no folder or list of images {root}; {LAYOUT}")
    if not root.is_dir():
        return {split_named(root.stem) or "all": root}
    paths = split_folders(root)
    for file in sorted(root.iterdir()):
        split = split_named(file.stem) if file.suffix.casefold() in SUFFIXES and file.is_file() else None
        if split is not None:
            paths.setdefault(split, file)
    return paths or {split_named(root.resolve().name) or "all": root}


def _folders(folder: Path) -> list[str]:
    """The names of the folders in `folder`, sorted, without hidden and system ones (.ipynb_checkpoints)."""
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and is_data_name(entry.name))


def read_photos(path: Path, labels: Labels, root: Path | None = None) -> Photos:
    """The images of the folder or list `path`, below `root`, by class where there are labels. Raises InputError where
    there are none."""
    if not path.is_dir():
        return _listed(path, labels, root or path.parent)
    by_class = {} if labels.predicted else {name: image_files(path / name) for name in class_order(_folders(path))}
    stray = [file.name for file in sorted(path.iterdir()) if is_image_name(file.name) and file.is_file()]
    if stray or labels.file is not None or not any(by_class.values()):
        photos = _flat(path, labels, root or path)
        if photos.names is not None or not any(by_class.values()):
            return photos
    if empty := [name for name, files in by_class.items() if not files]:
        note(f"class folders of {path} without images: {listing(empty)}")
    if stray:
        note(
            f"images of {path} in no class folder are not used: {listing(stray)}; --label-source predicted "
            "(in Python: a list of all files) takes all"
        )
    by_class = {name: files for name, files in by_class.items() if files}
    if inside := sorted({split for name in by_class for split in _folders(path / name) if split_named(split)}):
        note(f"folders {listing(inside)} in class folders of {path} are no splits, which hold the class folders")
    names = [utf8(name) for name, files in by_class.items() for _ in files]
    groups = {str(path / name): files for name, files in by_class.items()}
    return Photos([file for files in by_class.values() for file in files], names, groups, closed=True)


def _flat(folder: Path, labels: Labels, root: Path) -> Photos:
    """All images below a folder, with the labels in a CSV file, or in one that is beside the folder."""
    paths = image_files(folder)
    if not paths:
        tables = next((name for _, names in walk(folder) for name in names if name.endswith(TABLES)), None)
        hint = f"{tables} is read by --dataset hf" if tables else LAYOUT
        raise InputError(f"no images in {folder} (files that end with {' '.join(EXTENSIONS)}); {hint}")
    return Photos(paths, _labels_beside(folder, paths, labels, root), {str(folder): paths})


def _labels_beside(folder: Path, paths: list[str], labels: Labels, root: Path) -> list[str] | None:
    beside = folder.resolve().with_name(f"{folder.resolve().name}.csv")
    if labels.predicted or (labels.file is None and not beside.is_file()):
        if not labels.predicted and (tables := sorted(folder.glob("*.csv"))):
            note(f"{tables[0]} is not read: --labels-file {tables[0]} gives the images its labels")
        elif not labels.predicted and (tables := sorted(folder.glob("metadata.*"))):
            note(f"{tables[0]} is not read: --dataset hf gives the images its labels")
        return None
    if labels.file is not None:
        return labels_of_files(labels.table(labels.file), paths, (folder, root))
    way_out = "--label-source predicted (in Python: without that file) takes the images without labels"
    try:
        table = labels.table(beside)
        if table.labels is None:
            note(no_labels(table))
            return None
        names = labels_of_files(table, paths, (folder, root))
    except InputError as error:
        raise InputError(f"{error}; {way_out}") from None
    if names is None:
        raise InputError(f"{beside} names none of the images in {folder}; {way_out}")
    note(f"labels of {folder} are those in {beside}")
    return names


def _listed(path: Path, labels: Labels, root: Path) -> Photos:
    """The images of a list, with its labels, or those in a CSV file."""
    if path.suffix.casefold() not in SUFFIXES:
        raise InputError(f"expected a folder or a list of images ({' or '.join(SUFFIXES)}), got {path}")
    table = labels.table(path)
    paths = listed_files(table)
    names = None if labels.predicted else table.labels
    if labels.file is not None:
        names = labels_of_files(labels.table(labels.file), paths, (root,))
    elif table.labels is None and table.columns and not labels.predicted:
        note(no_labels(table))
    return Photos(paths, names, {str(path): paths})


def _classes(root: Path, photos: Mapping[str, Photos]) -> tuple[str, ...]:
    """The classes of all splits together; () without labels. Notes differences between class folders of splits."""
    by_part = {part: {*images.names} for part, images in photos.items() if images.names is not None}
    classes = tuple(class_order(sorted(set[str]().union(*by_part.values()))))
    if len(classes) == 1:
        nested = root / classes[0]
        splits = [name for name in _folders(nested) if split_named(name)] if nested.is_dir() else []
        raise InputError(
            f"at least two classes expected, {root} has only {listing(classes)}"
            f"{f' (a folder with {listing(splits)}: expected {nested})' if splits else ''}; --label-source predicted "
            f"(in Python: {nested}) takes images without labels"
        )
    for part, names in by_part.items():
        if "train" in by_part and photos[part].closed and photos["train"].closed:
            for text, differing in (
                (f"train/ that {part}/ lacks", by_part["train"] - names),
                (f"{part}/ that train/ lacks", names - by_part["train"]),
            ):
                if differing:
                    note(f"classes of {text}: {listing(class_order([*differing]))}")
    return classes


def _listing(photos: Photos, classes: Sequence[str]) -> Listing:
    if photos.names is None:
        return Listing(photos.paths, torch.zeros(len(photos.paths), dtype=torch.long), has_labels=False)
    numbers = {name: i for i, name in enumerate(classes)}
    return Listing(photos.paths, torch.tensor([numbers[name] for name in photos.names]))


def _divided(root: Path, listings: dict[str, Listing], seed: int) -> dict[str, Listing]:
    """The same with validation images from train, where there are no others; images of no split are divided."""
    parts = dict(listings)
    if "all" in parts:
        images = parts.pop("all")
        if len(images.paths) < 3:
            raise InputError(f"{root} has {len(images.paths)} images, expected three or more, or a folder called test")
        kept, held = stratified_holdout(images.labels, seed)
        parts |= {"train": images.pick(kept), "test": images.pick(held)}
        note(
            f"images of {root} are divided: {len(kept)} for training and validation, {len(held)} for test; those in a "
            "folder called train or test are for that alone"
        )
    if "train" in parts and "validation" not in parts:
        kept, held = stratified_holdout(parts["train"].labels, seed)
        parts |= {"train": parts["train"].pick(kept), "validation": parts["train"].pick(held)}
    return parts


def class_images(folder: Path) -> tuple[tuple[str, ...], Listing]:
    """The classes of a folder or list and its images, in a fair order; () where they have no labels."""
    photos = read_photos(folder, Labels())
    classes = _classes(folder, {"train": photos})
    listed = _listing(photos, classes)
    return classes, listed.pick(fair_order(listed.labels))


def _check_apart(groups: Mapping[str, list[str]]) -> None:
    """Raise InputError for a file that is in two of the folders through links."""
    owner: dict[tuple[int, int], tuple[str, str]] = {}
    shared = []
    for folder, paths in groups.items():
        for path in paths:
            other_folder, known_path = owner.setdefault(identity(path), (folder, path))
            if other_folder != folder:
                shared.append((known_path, path))
    if shared:
        first, second = shared[0]
        raise InputError(
            f"{len(shared)} files are in two splits or classes through links, expected each in one: "
            f"{first} and {second}{', ...' if len(shared) > 1 else ''} are one file"
        )
