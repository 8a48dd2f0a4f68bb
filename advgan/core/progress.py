"""Progress bars that become lines where there is no terminal: in a log file, or where the output is piped."""

import time
from datetime import timedelta
from typing import Any

from rich.progress import Progress, TaskID

LINE_SECONDS, FIRST_LINE_SECONDS = 30, 5  # between lines, and before the first one


class BarOrLines(Progress):
    """A progress bar. Without a terminal a line about its first task, now and then: how many of its `unit` are done,
    the time left, the field `details` or else `metrics`, and how far other tasks are."""

    def __init__(self, *columns: Any, unit: str, **settings: Any) -> None:
        super().__init__(*columns, **settings)
        self.unit, self.next_line = unit, time.monotonic() + FIRST_LINE_SECONDS

    def add_task(self, description: str, *arguments: Any, **settings: Any) -> TaskID:
        return super().add_task(description, *arguments, completed_before=settings.get("completed", 0), **settings)

    def update(self, task_id: TaskID, **changes: Any) -> None:
        super().update(task_id, **changes)
        self._print_line()

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        self._print_line()

    def _print_line(self) -> None:
        """A line, if it is due."""
        now, console = time.monotonic(), self.console
        if self.disable or console.is_terminal or console.is_jupyter or now < self.next_line or not self.tasks:
            return
        self.next_line = now + LINE_SECONDS
        task, *others = self.tasks
        line = f"{task.description}: {task.completed:.0f} of {task.total or 0:.0f} {self.unit}"
        done = task.completed - task.fields["completed_before"]
        if done and task.elapsed and task.remaining:
            line += f"  about {timedelta(seconds=round(task.elapsed / done * task.remaining))} left"
        details = task.fields.get("details", task.fields.get("metrics"))
        line += f"  {details}" if details else ""
        for other in others:
            line += f"  {other.description} {other.completed:.0f}" + (f"/{other.total:.0f}" if other.total else "")
        console.print(line, highlight=False, soft_wrap=True)
