"""The loop of a training's steps: validations, saved states, and an end by a signal."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

from advgan.training.run_directory import RunDirectory
from advgan.training.runtime.loop import GracefulShutdown, progress_bar


class StepLoop(ABC):
    """The loop of a training with `files`: steps, validations, saved states, an end by a signal.

    title, progress   of the progress bar; whether there is one, and a line per validation
    """

    title: str
    progress: bool = True
    files: RunDirectory

    @abstractmethod
    def step(self, batch: Any, log: Any, stop: GracefulShutdown) -> None:
        """One step, on one of the batches of `take_steps`."""

    @abstractmethod
    def validation_due(self, step: int) -> bool:
        """Whether a validation follows this step."""

    @abstractmethod
    def validate(self, log: Any, bar: Any) -> None:
        """Evaluate on the validation images, print, log, and save."""

    @abstractmethod
    def summary(self) -> str:
        """The text beside the progress bar."""

    def take_steps(self, batches: Iterable[Any], *folders: str, on_start: Callable[[], None] = lambda: None) -> int:
        """Take the steps that are left; the exit code of the signal that ended it, else 0.

        folders    further ones of an earlier run in the directory
        on_start   called after all checks, before the first step
        """
        files, record, accelerator = self.files, self.files.record, self.files.accelerator
        files.clear(*folders)  # all checks have passed: files of an earlier run are deleted
        on_start()
        bar = progress_bar(accelerator, disable=not self.progress)
        with GracefulShutdown() as stop, files.open_log() as log, bar:
            task = bar.add_task(self.title, total=files.total, completed=record["step"], metrics="")
            for batch in batches:
                self.step(batch, log, stop)
                step, interrupted = record["step"], stop.requested(accelerator)
                due = self.validation_due(step)
                if due:
                    self.validate(log, bar)
                bar.update(task, completed=step, metrics=self.summary())
                if due or interrupted:
                    files.save_state(step)
                if interrupted:
                    break  # safe: the loader is not a prepared one, and every process stops at this step
        accelerator.wait_for_everyone()
        return stop.code
