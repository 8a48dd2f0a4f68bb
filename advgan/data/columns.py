"""Which columns of a table are the pictures and their labels, and what stands in them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from advgan.data.picture import Named, Picture
from advgan.errors import InputError
from advgan.extras import extra

IMAGE = ("image", "img", "jpg", "jpeg", "png", "webp")
LABEL = ("label", "labels", "cls")
CLASSES = "classes.txt"  # beside the shards: one name a line


@dataclass(frozen=True)
class Columns:
    """The two columns that are used of a set, and the names of its classes.

    Args:
        name: the data set's, for messages.
        paths: whether a picture may be a path: where the library listed the files itself. A table from strangers may
            not say which files to open.
    """

    name: str
    image: str
    label: str
    classes: tuple[str, ...]
    paths: bool

    def only(self, dataset: Any) -> Any:
        """`dataset` (of either kind) with these columns alone, the pictures not decoded."""
        datasets = extra("datasets", "hf")
        dataset = dataset.select_columns([self.image, self.label])
        if isinstance(dataset.features[self.image], datasets.Image):
            return dataset.cast_column(self.image, datasets.Image(decode=False))
        return dataset

    def picture(self, value: Any, where: str) -> Picture:
        """A picture from its cell: bytes, or bytes and a path, or a path alone. Raises InputError for anything else."""
        if isinstance(value, bytes):
            return Named(where, value)
        if isinstance(value, dict) and (value.get("bytes") or value.get("path")):
            if value.get("bytes"):
                path = value.get("path")
                return Named(f"{where} {path!r}" if path else where, value["bytes"])
            if self.paths:
                return str(value["path"])
        raise InputError(f"{where}: a picture's bytes expected in column {self.image}, got {_short(value)}")

    def number(self, value: Any, where: str) -> int:
        """The class of a label: its number, or the place of its name. Raises InputError for one that is none."""
        if isinstance(value, str) and value in self._numbers:
            return self._numbers[value]
        if isinstance(value, int) and 0 <= value < len(self.classes):
            return value
        raise InputError(f"{where}: a label expected in column {self.label}, one of {self._range}, got {_short(value)}")

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.classes)}

    @property
    def _range(self) -> str:
        return f"0 to {len(self.classes) - 1}, or {self.classes[0]} to {self.classes[-1]}"


def find_columns(features: Any, name: str) -> tuple[str, str]:
    """The columns of pictures and of labels: by their names, else by their type, if there is one of it.

    Raises InputError where there is none, with the columns there are.
    """
    datasets = extra("datasets", "hf")
    found = []
    for what, names, kind in (("images", IMAGE, datasets.Image), ("labels", LABEL, datasets.ClassLabel)):
        named = [column for column in names if column in features]
        typed = [column for column, feature in features.items() if isinstance(feature, kind)]
        if not named and len(typed) != 1:
            raise InputError(
                f"{name} has no column of {what}: expected one of {', '.join(names)}, or one of type {kind.__name__}, "
                f"got {', '.join(features)}"
            )
        found.append((named or typed)[0])
    return found[0], found[1]


def find_classes(feature: Any, folder: Path | None, labels: Iterable[Any] | None, name: str) -> tuple[str, ...]:
    """The names of the classes: the label column's own, those in `classes.txt`, or what the `labels` themselves say.

    Args:
        labels: all of them; None: of a stream, where nobody has seen them all.

    Raises:
        InputError: nothing says them, or there are fewer than two.
    """
    if hasattr(feature, "names"):
        classes = tuple(feature.names)
    elif folder and (folder / CLASSES).is_file():
        lines = (folder / CLASSES).read_text(encoding="utf-8").splitlines()
        classes = tuple(line.strip() for line in lines if line.strip())
    elif labels is None:
        raise InputError(
            f"{name} does not say which classes there are, and a stream is not read in advance: expected a label "
            f"column of type ClassLabel, or a file {CLASSES} beside the shards, one name a line"
        )
    else:
        known = {label for label in labels if label is not None}
        if not all(isinstance(label, str) for label in known) and not all(isinstance(label, int) for label in known):
            raise InputError(
                f"{name}: labels that are whole numbers or names expected, got {_short(sorted(map(str, known)))}"
            )
        numbers = [label for label in known if isinstance(label, int)]
        classes = tuple(map(str, range(max(numbers) + 1))) if numbers else tuple(sorted(known))
    if len(classes) < 2:
        raise InputError(f"at least two classes expected, {name} has {', '.join(classes) or 'none'}")
    return classes


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
