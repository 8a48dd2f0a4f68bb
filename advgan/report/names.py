"""Names are somebody else's: files, classes, attacks. What they may not do in a Markdown page or in a spreadsheet."""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Iterable
from typing import Any

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would run what begins so (OWASP, "CSV Injection")


def csv_text(lines: Iterable[Iterable[Any]]) -> str:
    """A CSV file's text; None is an empty cell. Text that a spreadsheet takes for a formula begins with a quote."""
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([[_cell(value) for value in line] for line in lines])
    return file.getvalue()


def _cell(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) and not _is_number(value) else value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def in_markdown(text: str) -> str:
    """`text` as letters on one line, in a paragraph, a list or a table: no tag, no link, no emphasis, no new column."""
    safe = html.escape(" ".join(text.split()), quote=False)
    return re.sub(r"([\\`*_\[\]|#])", r"\\\1", safe)
