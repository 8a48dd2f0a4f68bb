"""Labels of a table, of any type, as class numbers."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from advgan.core.errors import InputError, listing
from advgan.data.classes import class_order

CLASSES = "classes.txt"  # beside the shards: one name a line
MAX_CLASSES = 100_000  # for labels without names

Names = tuple[str, ...] | None  # of a ClassLabel column, in the order of its numbers; None: of another type


def plain_label(value: Any, names: Names, where: str) -> str | int | None:
    """A label as a class name or number: the name for a column with `names`; the element of a list of one.

    None and negative numbers, for a missing label, are returned unchanged. Raises InputError for other types.
    """
    label = value
    if isinstance(label, list | tuple) and len(label) == 1:
        label = label[0]
    if hasattr(label, "item") and getattr(label, "size", 0) == 1:  # numpy's
        label = label.item()
    if isinstance(label, bytes):
        label = label.decode("utf-8", "replace").strip()
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
        raise InputError(f"at least two classes expected, {name} has {', '.join(classes) or 'none'}")
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
    between others."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (byte {error.start}): expected one class name a line") from None
    names = [line.strip() for line in text.replace("\r\n", "\n").replace("\r", "\n").rstrip().split("\n")]
    for number, class_name in enumerate(names, 1):
        if not class_name and len(names) > 1:
            raise InputError(f"{path} line {number} is empty: expected one class name a line")
        if class_name in names[: number - 1]:
            first = names.index(class_name) + 1
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
