"""Progress of a long evaluation: one bar for all results, one for the current result."""

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

StartResult = Callable[[str, int | None], Callable[[int], None]]


@contextmanager
def result_progress(total: int, *, silent: bool = False) -> Iterator[StartResult]:
    """On stderr: `start_result(name, images)` starts the next result (images None: unknown number), and returns a
    function to be called with the number of images of each batch. Of several processes all but one are `silent`.

    with result_progress(len(calls)) as start_result:
        for call in calls:
            cache.run(**call, progress=start_result("fgsm on mnist-c", len(x)))
    """
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=30), MofNCompleteColumn())
    time_columns = (TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, *time_columns, console=Console(stderr=True), disable=silent) as bar:
        overall_task, n_started = bar.add_task("total", total=total), 0
        task: TaskID | None = None

        def start_result(name: str, images: int | None) -> Callable[[int], None]:
            nonlocal task, n_started
            if task is not None:
                bar.remove_task(task)
            bar.update(overall_task, completed=n_started)
            task, n_started = bar.add_task(in_rich(name), total=images), n_started + 1
            return partial(bar.advance, task)

        yield start_result
        bar.update(overall_task, completed=n_started, total=n_started)
