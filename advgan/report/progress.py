"""How far a long evaluation is: one bar per cell, with the time it has left."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


def progress_bar() -> Progress:
    """Add a task per cell, with the number of its images as the total; on stderr."""
    columns = (TextColumn("{task.description:40}"), BarColumn(bar_width=30), MofNCompleteColumn())
    return Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True))
