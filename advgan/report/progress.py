"""Progress of a long evaluation: one bar for all results, one for the current result."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from advgan.core.progress import BarOrLines
from advgan.core.terminal import bar_console
from advgan.report.escaping import in_rich

StartResult = Callable[[str, int | None], Callable[[int], None]]
BAR, NUMBERS = 15, 31  # columns of the bar, and of "10000/10000" and two times with the spaces between them


def _columns(width: int) -> tuple[ProgressColumn, ...]:
    """One line of `width` columns: a longer name is cut, because a second line would leave no room for the bar."""
    name = Column(no_wrap=True, overflow="ellipsis", max_width=max(10, width - BAR - NUMBERS))
    description = TextColumn("{task.description}", table_column=name)
    return description, BarColumn(BAR), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()


@contextmanager
def result_progress(total: int, *, silent: bool = False) -> Iterator[StartResult]:
    """On stderr: `start_result(name, images)` starts the next result (images None: unknown number), and returns a
    function to be called with the number of images of each batch. Of several processes all but one are `silent`.

    with result_progress(len(points)) as start_result:
        for point in points:
            cache.run(point, start_result("fgsm on mnist-c", len(x)))
    """
    console = bar_console(stderr=True)
    with BarOrLines(*_columns(console.width), unit="results", console=console, disable=silent) as bar:
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
