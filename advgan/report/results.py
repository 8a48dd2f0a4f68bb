"""Results from Python: a table when printed, HTML in a notebook, a pandas frame, files."""

import io
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType

from advgan.core.errors import InputError
from advgan.core.files import check_places, folder_path

REPLACED = ("figures", "records", "gallery", "warm-start")


def check_report_folders(directory: Path) -> None:
    """Raise InputError where `directory` holds files in a folder that a report replaces, and no report; or as
    `check_places`."""
    check_places(directory, (*REPLACED, "logs", "cells"))
    signs = [directory / name for name in ("cells", "report.md", "frontier.md")]
    if any(map(os.path.exists, signs)) or any(directory.glob("settings-*.yaml")):
        return
    for folder in (directory / name for name in REPLACED):
        if folder.is_dir() and any(folder.iterdir()):
            raise InputError(f"a report would replace {folder}, which holds other files: choose another directory")


class Results(ABC):
    """Results with `rows`, one dict an attack."""

    @property
    @abstractmethod
    def rows(self) -> list[dict[str, Any]]: ...

    @abstractmethod
    def _tables(self) -> Sequence[RenderableType]:
        """What is printed."""

    @abstractmethod
    def _write(self, folder: Path) -> None:
        """Write the files of `save` to an existing folder."""

    def __repr__(self) -> str:
        return self._render().export_text().rstrip()

    def _repr_html_(self) -> str:
        return self._render().export_html(inline_styles=True, code_format="<pre>{code}</pre>")

    def _render(self) -> Console:
        # In a notebook rich would display what is only rendered here.
        console = Console(width=120, record=True, file=io.StringIO(), force_jupyter=False)
        for table in self._tables():
            console.print(table)
        return console

    def to_pandas(self) -> Any:
        """The rows as a `pandas.DataFrame`. Raises InputError where pandas is not installed."""
        try:
            pandas: Any = import_module("pandas")
        except ModuleNotFoundError:
            raise InputError("pandas is not installed, expected it here: pip install pandas") from None
        return pandas.DataFrame(self.rows)

    def save(self, directory: Path | str) -> None:
        """Write the reports to `directory`; earlier ones are replaced. Raises InputError for the path of a file, and
        where folders of other files have the names of a report's."""
        folder = folder_path(directory)
        if folder.exists() and not folder.is_dir():
            raise InputError(f"expected a directory for the reports, got the file {folder}")
        check_report_folders(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._write(folder)
