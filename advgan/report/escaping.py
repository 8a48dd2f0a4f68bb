"""Escapes untrusted names (files, classes, attacks) for Markdown, CSV and terminals."""

import csv
import io
import re
from collections.abc import Iterable
from typing import Any

from rich.markup import escape

from advgan.core.terminal import printable

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would run what begins so (OWASP, "CSV Injection")


def csv_text(headers: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """A CSV file's text; None is an empty cell. Formulas of spreadsheets are prefixed with a quote."""
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([[_cell(value) for value in row] for row in [headers, *rows]])
    return file.getvalue()


def _cell(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) and not _is_number(value) else value


def csv_path(path: str | None) -> str | None:
    """A relative path as a cell that is a path still, and no formula: =x.png is ./=x.png."""
    return f"./{path}" if path is not None and path.startswith(FORMULA) else path


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def in_rich(text: object) -> str:
    """`text` for rich: without control characters, and without markup ("[red]") that rich would apply."""
    return escape(printable(text))


def in_markdown(text: str) -> str:
    """`text` on one line of a Markdown paragraph or list: no tag, no link, no code."""
    line = printable(" ".join(text.split())).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`]|\](?=[(\[:]))", r"\\\1", line)


def in_table(text: str) -> str:
    """`text` as a cell of a Markdown table: no further column either."""
    return in_markdown(text).replace("|", "\\|")


def code(text: str) -> str:
    """`text` as code within a line, whatever backticks it has (CommonMark, 6.1)."""
    line = printable(" ".join(text.split()))
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    return f"{fence} {line} {fence}" if "`" in line else f"`{line}`"
