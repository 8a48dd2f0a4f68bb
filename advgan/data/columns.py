"""The columns of images and labels in a table, and their values."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from advgan.core.errors import InputError, did_you_mean, listing
from advgan.core.optional import require_package
from advgan.data.image_file import ImageSource, InMemoryImage
from advgan.data.labels import Names, plain_label, shorten

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
        return {name: i for i, name in enumerate(self.classes)}


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
