"""Lists of images: a CSV file of names and labels, a text file of names."""

import csv
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from advgan.core.errors import InputError, did_you_mean, listing

FILE = ("file", "filename", "file_name", "image", "img", "path")
LABEL = ("label", "labels", "cls", "class")
SUFFIXES = (".csv", ".txt")
SEPARATORS = ",;\t"  # the commonest of the header's; of equals the first
NUMBER = re.compile(r"(-?\d+)(\.0*)?")
GAPS = ("nan", "none", "null", "na", "n/a")


class ImageTable(NamedTuple):
    """The rows of a list: names of image files, and their labels as text (None: it has no column of labels)."""

    path: Path
    files: list[str]
    labels: list[str] | None


def read_table(path: Path, image_column: str | None = None, label_column: str | None = None) -> ImageTable:
    """A list of images: of a .txt file each line, of a .csv file the columns `image_column` and `label_column` (None:
    by their names, `FILE` and `LABEL`), between commas, semicolons or tabs.

    Raises InputError for a file that is not UTF-8, has no such columns or no rows, a name twice, a row without label.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (byte {error.start})") from None
    lines = text.splitlines()
    if path.suffix.casefold() == ".txt":
        table = ImageTable(path, [line.strip() for line in lines if line.strip()], None)
    else:
        table = _read_csv(path, lines, image_column, label_column)
    if not table.files:
        raise InputError(f"{path} has no rows, expected one for each image")
    if repeated := _repeated(table.files):
        raise InputError(f"{path} has {listing(repeated)} more than once, expected each file once")
    return table


def _read_csv(path: Path, lines: list[str], image_column: str | None, label_column: str | None) -> ImageTable:
    try:
        separator = max(SEPARATORS, key=lines[0].count) if lines else ","
        reader = csv.DictReader(lines, skipinitialspace=True, delimiter=separator)
        reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
        rows, header = list(reader), reader.fieldnames
    except csv.Error as error:
        raise InputError(f"{path} is no CSV file: {error}") from None
    file = _column(path, header, image_column, FILE, "--image-column")
    label = _column(path, header, label_column, LABEL, "--label-column")
    if file is None:
        raise InputError(f"{path} has no column of files: expected {FILE[0]} or --image-column, got {listing(header)}")
    files = [(row[file] or "").strip().removeprefix("./") for row in rows]
    if not all(files):
        raise InputError(f"{path} row {files.index('') + 1} has no file")
    if label is None:
        return ImageTable(path, files, None)
    labels = [(row[label] or "").strip() for row in rows]
    if not all(labels):
        raise InputError(f"{path} row {labels.index('') + 1} has no label, expected one for each file or for none")
    return ImageTable(path, files, _whole_numbers(path, labels))


def _whole_numbers(path: Path, labels: list[str]) -> list[str]:
    """Labels that are all numbers without their decimals (3.0), which tables with gaps have; others as they are.

    Raises InputError for a gap (NaN) or a negative number among numbers.
    """
    numbers = [NUMBER.fullmatch(label) for label in labels]
    if not any(numbers) or not all(m or label.casefold() in GAPS for m, label in zip(numbers, labels, strict=True)):
        return labels
    for row, number in enumerate(numbers, 1):
        if number is None or number[0].startswith("-"):
            raise InputError(f"{path} row {row} has the label {labels[row - 1]}, expected whole numbers from 0 on")
    return [number[1] for number in numbers if number]


def _column(path: Path, header: Sequence[str], chosen: str | None, names: Sequence[str], flag: str) -> str | None:
    """The column `chosen`, else the first of `names`, in any case; None without."""
    if chosen is not None and chosen not in header:
        near = did_you_mean(chosen, header)
        raise InputError(f"{path} has no column {chosen!r} ({flag}): expected one of {listing(header, 12)}{near}")
    if repeated := _repeated([column for column in header if column.casefold() in {(chosen or "").casefold(), *names}]):
        raise InputError(f"{path} has the column {repeated[0]} more than once")
    by_name = {column.casefold(): column for column in reversed(header)}
    return chosen or next((by_name[name] for name in names if name in by_name), None)


def _repeated(names: Sequence[str]) -> list[str]:
    seen: set[str] = set()
    return [name for name in names if name in seen or seen.add(name)]  # type: ignore[func-returns-value]


def listed_files(table: ImageTable) -> list[str]:
    """The paths of the files of a list: beside it, or in the folder of its name (test.csv: test/).

    Raises InputError for those that are missing.
    """
    bases = [table.path.parent, table.path.with_suffix("")]
    found = [[os.path.join(base, name) for name in table.files] for base in bases]
    paths = max(found, key=lambda paths: sum(map(os.path.isfile, paths[:100])))
    if missing := [name for name, path in zip(table.files, paths, strict=True) if not os.path.isfile(path)]:
        raise InputError(
            f"{len(missing)} of {len(paths)} files of {table.path} are missing: {listing(missing)}; expected them in "
            f"{bases[0]} or {bases[1]}"
        )
    return paths


def labels_of_files(table: ImageTable, paths: Sequence[str], folders: Sequence[Path]) -> list[str] | None:
    """The label of each of the images at `paths`, by its name below one of the `folders`, or its file name alone; None
    where the table has none of them.

    Raises InputError for a table without labels, for a row that several images fit, and for images without a row.
    """
    if table.labels is None:
        raise InputError(f"{table.path} has no column of labels: expected {LABEL[0]}, or --label-column")
    labels = dict(zip(table.files, table.labels, strict=True))
    names: list[str | None] = []
    for path in paths:
        below = [os.path.relpath(path, folder).replace(os.sep, "/") for folder in folders]
        names.append(next((name for name in (*below, os.path.basename(path)) if name in labels), None))
    rows = [name for name in names if name is not None]
    if not rows:
        return None
    if repeated := _repeated(rows):
        raise InputError(f"several images are {listing(repeated)} of {table.path}, expected one for each row")
    if len(rows) < len(paths):
        missing = [os.path.basename(path) for path, name in zip(paths, names, strict=True) if name is None]
        raise InputError(f"{len(missing)} of {len(paths)} images have no row in {table.path}: {listing(missing)}")
    return [labels[name] for name in rows]
