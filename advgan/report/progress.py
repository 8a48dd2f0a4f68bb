"""Progress of a long evaluation: one bar for all cells, one for the current cell."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from advgan.report.escaping import in_rich

Begin = Callable[[str, int | None], Callable[[int], None]]


@contextmanager
def cell_progress(cells: int, *, silent: bool = False) -> Iterator[Begin]:
    """On stderr: `begin(name, images)` opens the next cell, and returns what is told of each batch of its images
    (None: nobody knows how many). Of several processes all but one are `silent`.

    with cell_progress(len(plan)) as begin:
        for cell in plan:
            cells.run(..., progress=begin("fgsm on mnist-c", len(x)))
    """
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=30), MofNCompleteColumn())
    more = (TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, *more, console=Console(stderr=True), disable=silent) as bar:
        whole, begun = bar.add_task("in all", total=cells), 0
        now: TaskID | None = None

        def begin(name: str, images: int | None) -> Callable[[int], None]:
            nonlocal now, begun
            if now is not None:
                bar.remove_task(now)
            bar.update(whole, completed=begun)
            now, begun = bar.add_task(in_rich(name), total=images), begun + 1
            return partial(bar.advance, now)

        yield begin
        bar.update(whole, completed=begun, total=begun)
