"""The columns of images and labels in a table, their values, and labels of any type as class numbers."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from advgan.core.errors import InputError, did_you_mean, listing
from advgan.core.files import read_text
from advgan.core.optional import require_package
from advgan.data.classes import class_order
from advgan.data.image_file import ImageSource, InMemoryImage
from advgan.data.label_file import MISSING

CLASSES = "classes.txt"  # beside the shards: one name a line
MAX_CLASSES = 100_000  # for labels without names
MAX_BYTES = 16 << 20  # of CLASSES

Names = tuple[str, ...] | None  # of a ClassLabel column, in the order of its numbers; None: of another type


def plain_label(value: Any, names: Names, where: str) -> str | int | None:
    """A label as a class name or number: the name for a column with `names`; the element of a list of one.

    None and negative numbers, for a missing label, are returned unchanged; None for NaN and empty text; an int for a
    whole float (3.0). Raises InputError for other types.
    """
    label = value
    if isinstance(label, list | tuple) and len(label) == 1:
        label = label[0]
    if hasattr(label, "item") and getattr(label, "size", 0) == 1:  # numpy's
        label = label.item()
    if isinstance(label, bytes):
        label = label.decode("utf-8", "replace").strip()
    label = int(label) if isinstance(label, float) and label.is_integer() else label  # in a table with gaps
    if (isinstance(label, float) and label != label) or (
        isinstance(label, str) and label.strip().casefold() in MISSING
    ):
        return None
    if label is not None and not isinstance(label, str | int):
        raise InputError(
            f"{where}: a label is a whole number or a name, alone or in a list of one, got {shorten(value)}"
        )
    if isinstance(label, int) and names is not None and 0 <= label < len(names):
        return names[label]
    return int(label) if isinstance(label, int) else label


def find_classes(
    declared: Iterable[Names], folder: Path | None, labels: Iterable[str | int | None] | None, name: str
) -> tuple[str, ...]:
    """The names of the classes: those `declared` by the label columns of several files, each name once; else
    those in `classes.txt`; else the `labels` (as `plain_label`). Names that are all numbers are sorted as such.

    Args:
        labels: all of them; None: of a stream, which is not read in advance.

    Raises:
        InputError: there are none of the three, or fewer than two classes, or labels of two types.
    """
    columns = [names for names in declared if names is not None]
    if columns:
        classes = tuple(dict.fromkeys(class_name for names in columns for class_name in names))
        classes = tuple(class_order(classes)) if class_order(classes) != sorted(classes) else classes
    elif folder and (folder / CLASSES).is_file():
        classes = read_classes(folder / CLASSES)
    elif labels is None:
        raise InputError(
            f"{name} has no list of classes, and a stream is not read in advance: expected a label "
            f"column of type ClassLabel, or a file {CLASSES} beside the shards, one name a line"
        )
    else:
        classes = _classes_of({label for label in labels if label is not None}, name)
    if len(classes) < 2:
        raise InputError(f"at least two classes expected, {name} has {listing(classes) or 'none'}")
    return classes


def _classes_of(labels: set[str | int], name: str) -> tuple[str, ...]:
    """Names, sorted; or 0, 1, ... up to the largest number."""
    numbers = [label for label in labels if isinstance(label, int)]
    texts = [label for label in labels if isinstance(label, str)]
    if texts and numbers:
        raise InputError(f"{name}: labels that are whole numbers or names expected, got {listing(labels)}")
    if numbers and max(numbers) >= MAX_CLASSES:
        raise InputError(f"{name}: labels below {MAX_CLASSES} expected, got {max(numbers)}")
    return tuple(map(str, range(max(numbers) + 1))) if numbers else tuple(class_order(texts))


def read_classes(path: Path) -> tuple[str, ...]:
    """The names in a file, one a line, in UTF-8. Raises InputError for another encoding, a name twice, an empty line
    between others, and for a pipe or more than MAX_BYTES."""
    try:
        text = read_text(path, MAX_BYTES)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (byte {error.start}): expected one class name a line") from None
    names = [line.strip() for line in text.replace("\r\n", "\n").replace("\r", "\n").rstrip().split("\n")]
    lines: dict[str, int] = {}
    for number, class_name in enumerate(names, 1):
        if not class_name and len(names) > 1:
            raise InputError(f"{path} line {number} is empty: expected one class name a line")
        if (first := lines.setdefault(class_name, number)) != number:
            raise InputError(
                f"{path} has {shorten(class_name)} in lines {first} and {number}: expected each class once"
            )
    return tuple(filter(None, names))


def names_of(feature: Any) -> Names:
    """The class names of a column of type ClassLabel, or of lists of it."""
    feature = getattr(feature, "feature", feature)
    names = getattr(feature, "names", None)
    return None if names is None else tuple(map(str, names))


def shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


IMAGE = ("image", "img", "jpg", "jpeg", "png", "webp")
LABEL = ("label", "labels", "cls")


@dataclass(frozen=True)
class Columns:
    """The image and label columns of a data set, and the names of its classes.

    Args:
        name: the data set's, for messages.
        paths: whether an image may be a path: only where the library listed the files itself, since a third-party table
            must not name files to open.
    """

    name: str
    image: str
    label: str
    classes: tuple[str, ...]
    paths: bool

    def only(self, dataset: Any, labels: bool = True) -> Any:
        """`dataset` (of either kind) with these two columns, or the images only; images are not decoded."""
        datasets = require_package("datasets", "hf")
        dataset = dataset.select_columns([self.image, self.label] if labels else [self.image])
        if isinstance(dataset.features[self.image], datasets.Image):
            return dataset.cast_column(self.image, datasets.Image(decode=False))
        return dataset

    def image_source(self, value: Any, where: str) -> ImageSource:
        """An image from a table value: bytes, bytes and a path, or a path. Raises InputError for anything else."""
        if isinstance(value, bytes):
            return InMemoryImage(where, value)
        if isinstance(value, dict) and (value.get("bytes") or value.get("path")):
            if value.get("bytes"):
                path = value.get("path")
                return InMemoryImage(f"{where} {path!r}" if path else where, value["bytes"])
            if self.paths:
                return str(value["path"])
        raise InputError(f"{where}: an image's bytes expected in column {self.image}, got {shorten(value)}")

    def number(self, value: Any, where: str, names: Names = None) -> int:
        """The class number of a label: the number itself, or the index of its name; of a column with class `names`, the
        index of that name. Raises InputError for an unknown label."""
        label = plain_label(value, names, where)
        if isinstance(label, str) and label in self._numbers:
            return self._numbers[label]
        if isinstance(label, int) and names is None and 0 <= label < len(self.classes):
            return label
        classes = f"0 to {len(self.classes) - 1}, or {self.classes[0]} to {self.classes[-1]}"
        raise InputError(f"{where}: a label expected in column {self.label}, one of {classes}, got {shorten(label)}")

    @cached_property
    def _numbers(self) -> dict[str, int]:
        """The class number of a text: a name, or the number itself where no name is one."""
        names = {name: i for i, name in enumerate(self.classes)}
        return names if any(map(str.isdecimal, names)) else names | {str(i): i for i in names.values()}


def find_column(content: Literal["images", "labels"], features: Any, name: str, chosen: str | None = None) -> str:
    """The column of images or of labels: `chosen`, else by its name (in any case), else by its type, if it is unique.

    Raises InputError for none, or several without a choice, with the existing columns.
    """
    datasets = require_package("datasets", "hf")
    flag, names, feature_type, hint = {
        "images": ("--image-column", IMAGE, datasets.Image, ""),
        "labels": ("--label-column", LABEL, datasets.ClassLabel, ", or --label-source predicted"),
    }[content]
    by_name = [column for column in features if column.casefold() in names]
    by_type = [column for column, feature in features.items() if isinstance(feature, feature_type)]
    candidates = by_name or by_type
    if chosen is not None and chosen not in features:
        suggestion = did_you_mean(chosen, features)
        raise InputError(
            f"{name} has no column {chosen!r} ({flag}): expected one of {listing(features, 12)}{suggestion}"
        )
    if chosen is None and not candidates:
        raise InputError(
            f"{name} has no column of {content}: expected {', '.join(names)}, or type {feature_type.__name__}, "
            f"or {flag}{hint}, got {listing(features, 12)}"
        )
    if chosen is None and len(candidates) > 1:
        raise InputError(
            f"{name} has several columns of {content}: expected one as {flag}, got {listing(candidates, 12)}"
        )
    return chosen or candidates[0]
