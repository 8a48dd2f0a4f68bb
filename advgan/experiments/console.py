"""The end of a study on the terminal: its tables, and the attacks that failed."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console

from advgan.report.page import Grid, failures


def print_results(
    grids: Iterable[Grid],
    rows: Iterable[Mapping[str, Any]],
    *,
    kept: int,
    total: int | None = None,
    notes: Iterable[str] = (),
) -> None:
    """How many results an earlier call had `kept` (of `total`), the tables `grids`, `notes` in words, and a line for
    each of the `rows` that failed."""
    if kept:
        of = "" if total is None else f" of {total}"
        print(f"{kept}{of} cells were kept from an earlier call (--fresh runs them again)")
    console = Console() if sys.stdout.isatty() else Console(width=120)
    for grid in grids:
        console.print(grid.rich())
    for line in notes:
        console.print(line, markup=False)
    for line in failures(rows):
        console.print(line, style="red", markup=False)
