"""Lists of images: a CSV file of names and labels, a text file of names."""

import csv
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from advgan.core.errors import InputError, did_you_mean, listing, note
from advgan.core.files import read_text
from advgan.data.image_file import EXTENSIONS
from advgan.data.walk import identity

FILE = (
    *("file", "filename", "file_name", "image", "img", "path", "filepath", "file_path", "image_path", "image_name"),
    *("image_id", "img_id", "id"),
)
LABEL = ("label", "labels", "cls", "class", "class_name", "class_id", "target", "category", "breed", "species")
MAX_BYTES = 1 << 30  # of a list
SPLIT = ("split", "subset", "partition")
SUFFIXES = (".csv", ".txt")
LINE = re.compile(rf"(.+?({'|'.join(map(re.escape, EXTENSIONS))}))[\s,;]+(\S.*)", re.IGNORECASE)  # a path and a label
SEPARATORS = ",;\t"  # the commonest of the header's; of equals the first
NUMBER = re.compile(r"(-?\d+)(\.0*)?")
GAPS = ("nan", "none", "null", "na", "n/a")
MISSING = ("", "nan", "<na>")  # among names, where None and NA may be classes


class ImageTable(NamedTuple):
    """The rows of a list: names of image files, and their labels as text (None: it has no column of labels)."""

    path: Path
    files: list[str]
    labels: list[str] | None
    columns: Sequence[str] = ()  # but that of the files


def read_table(path: Path, image_column: str | None = None, label_column: str | None = None) -> ImageTable:
    """A list of images: of a .txt file each line, a path or a path and a label, of a .csv file the columns
    `image_column` and `label_column` (None: by their names, `FILE` and `LABEL`), between commas, semicolons or tabs.
    Without a column of labels, columns of zeros and a single one in each row are those of the classes, with a note on
    stderr; so is a column of splits, which is not read.

    Raises InputError for a file that is not UTF-8, has no such columns or no rows, a name twice, a row without label or
    with more values than columns.
    """
    try:
        text = read_text(path, MAX_BYTES)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (byte {error.start})") from None
    lines = text.splitlines()
    if path.suffix.casefold() == ".txt":
        table = _read_lines(path, [line.strip() for line in lines if line.strip()])
    else:
        table = _read_csv(path, lines, image_column, label_column)
    windows = not any("/" in name for name in table.files)  # its names have backslashes alone
    names = [name.replace("\\", "/") if windows else name for name in table.files]
    table = table._replace(files=[name.removeprefix("./") for name in names])
    if not table.files:
        raise InputError(f"{path} has no rows, expected one for each image")
    if repeated := _repeated(table.files):
        raise InputError(f"{path} has {listing(repeated)} more than once, expected each file once")
    return table


def _read_lines(path: Path, lines: list[str]) -> ImageTable:
    """The paths of a .txt file, and their labels where each line has one after its path ("val/1.jpg 65")."""
    rows = [row for row in map(LINE.fullmatch, lines) if row and not row[3].casefold().endswith(EXTENSIONS)]
    if len(rows) < len(lines):
        return ImageTable(path, lines, None)
    return ImageTable(path, [row[1] for row in rows], _whole_numbers(path, [row[3] for row in rows]))


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
        first = any(name.casefold().endswith(EXTENSIONS) for name in header)
        hint = " (its first line must name the columns)" if first else ""
        expected = f"expected {FILE[0]} or --image-column, got {listing(header)}"
        raise InputError(f"{path} has no column of files{hint}: {expected}")
    _check_lengths(path, rows, len(header))
    files = [(row[file] or "").strip() for row in rows]
    if not all(files):
        raise InputError(f"{path} row {files.index('') + 1} has no file")
    for column in header:
        if column.casefold() in SPLIT and column != label and len({row[column] for row in rows}) > 1:
            note(f"the column {column} of {path} is not read: expected a list for each split, like train.csv, test.csv")
    if label is None:
        columns = [column for column in header if column and column != file]
        return ImageTable(path, files, _one_hot(path, rows, columns), columns)
    if others := [name for name in header if name.casefold() in LABEL and name != label and label_column is None]:
        note(f"labels of {path} are those in the column {label}, not {listing(others)}: --label-column chooses")
    labels = [(row[label] or "").strip() for row in rows]
    return ImageTable(path, files, _whole_numbers(path, labels))


def _check_lengths(path: Path, rows: Sequence[Mapping[Any, Any]], n: int) -> None:
    """Raise InputError for a row with more values than there are columns, `n`, as of a name with a comma."""
    for number, row in enumerate(rows, 1):
        if any(value.strip() for value in row.get(None, ())):
            raise InputError(
                f"{path} row {number} has {n + len(row[None])} values, expected {n}, one for each column: a value with "
                "a separator in it belongs in quotes"
            )


def _one_hot(path: Path, rows: Sequence[dict[str, str]], columns: Sequence[str]) -> list[str] | None:
    """The name of the column that is 1 in each row, where all `columns` are zeros and ones, or True and False; None
    where they are not.

    Raises InputError for a row without a one, or with several.
    """
    values = [[(row[column] or "").strip() for column in columns] for row in rows]
    if len(columns) < 2 or not all(re.fullmatch(r"[01](\.0*)?|(?i:true|false)", v) for row in values for v in row):
        return None
    ones = [[name for name, value in zip(columns, row, strict=True) if value[0] in "1tT"] for row in values]
    for number, names in enumerate(ones, 1):
        if len(names) != 1:
            raise InputError(
                f"{path} row {number} is 1 in {len(names)} of the columns {listing(columns)}, expected one"
            )
    note(f"labels of {path} are the columns {listing(columns)}, of which one is 1 in each row")
    return [name for (name,) in ones]


def _whole_numbers(path: Path, labels: list[str]) -> list[str]:
    """Labels that are all numbers without their decimals (3.0), which tables with gaps have; others as they are.

    Raises InputError for no label, a gap (NaN) or a negative number among numbers, NaN among names.
    """
    numbers = [NUMBER.fullmatch(label) for label in labels]
    for row, label in enumerate(labels, 1):
        if label.casefold() in MISSING and (not label or not any(numbers)):
            raise InputError(
                f"{path} row {row} has no label{label and f' ({label})'}, expected one for each file or for none"
            )
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
    """The paths of the files of a list: beside it, or in the folder of its name (test.csv: test/), with or without
    their suffix.

    Raises InputError for those that are missing, and for two names of one file.
    """
    bases = [table.path.parent, table.path.with_suffix("")]
    found = [[_with_suffix(os.path.join(base, name)) for name in table.files] for base in bases]
    paths = max(found, key=lambda paths: sum(map(os.path.isfile, paths)))
    if missing := [name for name, path in zip(table.files, paths, strict=True) if not os.path.isfile(path)]:
        raise InputError(
            f"{len(missing)} of {len(paths)} files of {table.path} are missing: {listing(missing)}; expected them in "
            f"{bases[0]} or {bases[1]}"
        )
    first: dict[tuple[int, int], str] = {}
    for name, path in zip(table.files, paths, strict=True):
        if (other := first.setdefault(identity(path), name)) != name:
            raise InputError(f"{listing([other, name])} of {table.path} are one file, expected each file once")
    return paths


def _with_suffix(path: str) -> str:
    """`path`, or the only image that it is without its suffix."""
    if os.path.isfile(path):
        return path
    named = [path + suffix for case in (str.lower, str.upper) for suffix in map(case, EXTENSIONS)]
    images = [name for name in named if os.path.isfile(name)]
    return images[0] if len(images) == 1 else path


def no_labels(table: ImageTable) -> str:
    """What a table without labels has instead."""
    got = f", got {listing(table.columns)}" if table.columns else ""
    return f"{table.path} has no column of labels: expected {LABEL[0]}, or --label-column{got}"


def labels_of_files(table: ImageTable, paths: Sequence[str], folders: Sequence[Path]) -> list[str] | None:
    """The label of each of the images at `paths`, by its name below one of the `folders`, or its file name alone, each
    with or without its suffix; None where the table has none of them.

    Raises InputError for a table without labels, for a row that several images fit, and for images without a row.
    """
    if table.labels is None:
        raise InputError(no_labels(table))
    labels = dict(zip(table.files, table.labels, strict=True))
    names: list[str | None] = []
    for path in paths:
        below = [os.path.relpath(path, folder).replace(os.sep, "/") for folder in folders]
        known = [*below, os.path.basename(path)]
        known += [os.path.splitext(name)[0] for name in known]
        names.append(next((name for name in known if name in labels), None))
    rows = [name for name in names if name is not None]
    if not rows:
        return None
    if repeated := _repeated(rows):
        raise InputError(f"several images are {listing(repeated)} of {table.path}, expected one for each row")
    if len(rows) < len(paths):
        missing = [os.path.basename(path) for path, name in zip(paths, names, strict=True) if name is None]
        raise InputError(f"{len(missing)} of {len(paths)} images have no row in {table.path}: {listing(missing)}")
    return [labels[name] for name in rows]
