"""Which columns of a table are the images and their labels, and what stands in them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from advgan.core.errors import InputError, did_you_mean, listing
from advgan.core.optional import require_package
from advgan.data.image_file import ImageSource, InMemoryImage
from advgan.data.labels import Names, cut, plain_label

IMAGE = ("image", "img", "jpg", "jpeg", "png", "webp")
LABEL = ("label", "labels", "cls")


@dataclass(frozen=True)
class Columns:
    """The two columns that are used of a set, and the names of its classes.

    Args:
        name: the data set's, for messages.
        paths: whether an image may be a path: where the library listed the files itself. A table from strangers may
            not say which files to open.
    """

    name: str
    image: str
    label: str
    classes: tuple[str, ...]
    paths: bool

    def only(self, dataset: Any, labels: bool = True) -> Any:
        """`dataset` (of either kind) with these columns alone, or the images' alone; the images not decoded."""
        datasets = require_package("datasets", "hf")
        dataset = dataset.select_columns([self.image, self.label] if labels else [self.image])
        if isinstance(dataset.features[self.image], datasets.Image):
            return dataset.cast_column(self.image, datasets.Image(decode=False))
        return dataset

    def image_source(self, value: Any, where: str) -> ImageSource:
        """An image from its cell: bytes, or bytes and a path, or a path alone. Raises InputError for anything else."""
        if isinstance(value, bytes):
            return InMemoryImage(where, value)
        if isinstance(value, dict) and (value.get("bytes") or value.get("path")):
            if value.get("bytes"):
                path = value.get("path")
                return InMemoryImage(f"{where} {path!r}" if path else where, value["bytes"])
            if self.paths:
                return str(value["path"])
        raise InputError(f"{where}: an image's bytes expected in column {self.image}, got {cut(value)}")

    def number(self, value: Any, where: str, names: Names = None) -> int:
        """The class of a label: its number, or the place of its name; of a column with class `names` of its own, the
        place of that name. Raises InputError for one that is none."""
        label = plain_label(value, names, where)
        if isinstance(label, str) and label in self._numbers:
            return self._numbers[label]
        if isinstance(label, int) and names is None and 0 <= label < len(self.classes):
            return label
        raise InputError(f"{where}: a label expected in column {self.label}, one of {self._range}, got {cut(label)}")

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.classes)}

    @property
    def _range(self) -> str:
        return f"0 to {len(self.classes) - 1}, or {self.classes[0]} to {self.classes[-1]}"


def find_columns(features: Any, name: str, image: str | None = None, label: str | None = None) -> tuple[str, str]:
    """The columns of images and of labels: `image` and `label`, else by their names (in any case), else by their
    type, if there is one of it.

    Raises InputError where there is none, or several and none is chosen, with those there are.
    """
    datasets = require_package("datasets", "hf")
    columns = []
    for what, flag, chosen, names, kind in (
        ("images", "--image-column", image, IMAGE, datasets.Image),
        ("labels", "--label-column", label, LABEL, datasets.ClassLabel),
    ):
        named = [column for column in features if column.casefold() in names]
        typed = [column for column, feature in features.items() if isinstance(feature, kind)]
        fitting = named or typed
        if chosen is not None and chosen not in features:
            near = did_you_mean(chosen, features)
            raise InputError(f"{name} has no column {chosen!r} ({flag}): expected one of {listing(features, 12)}{near}")
        if chosen is None and not fitting:
            raise InputError(
                f"{name} has no column of {what}: expected one of {', '.join(names)}, or one of type {kind.__name__}, "
                f"or {flag}, got {listing(features, 12)}"
            )
        if chosen is None and len(fitting) > 1:
            raise InputError(
                f"{name} has several columns of {what}: expected one of them as {flag}, got {listing(fitting, 12)}"
            )
        columns.append(chosen or fitting[0])
    return columns[0], columns[1]
