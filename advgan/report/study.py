"""Reports of studies: JSON, Markdown, CSV, figures, TensorBoard, HTML and the terminal."""

import json
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from rich.console import Console
from torch.utils.tensorboard import SummaryWriter

from advgan.core.files import atomic_write, staged
from advgan.report.comparison import Plot
from advgan.report.escaping import csv_text
from advgan.report.figures import with_caption
from advgan.report.figures.plot_groups import safe
from advgan.report.page import ResultRow, Summary, Table, failures, figure, heading
from advgan.report.tensorboard import command as tensorboard_command


class Scalar(NamedTuple):
    """A point of a chart in TensorBoard: the `run` (a folder; "" for the study's own) has colour and legend there."""

    run: str
    tag: str
    value: float
    step: int = 0


@dataclass(frozen=True, kw_only=True)
class StudyReport:
    """Contents of NAME.json, NAME.md, NAME.csv, the figures, logs/NAME/ and, with `html`, NAME.html.

    summary   NAME.json; it has "environment" and "targets"
    rows      results; failed ones are listed, the others are in tables and figures
    tables    in their order on the page; the terminal shows the first `printed` of them (None: all)
    figures   by file name, with or without a folder; `folders`: those that are removed where they get no figure
    csv_rows  lines of NAME.csv, of which `columns` are written
    scalars   points in TensorBoard; points of one run follow each other
    intro     lines of Markdown below the heading; `notes` those below the tables, in TensorBoard under `notes_tag`
    """

    name: str
    title: str
    summary: Summary
    rows: Sequence[ResultRow]
    tables: Sequence[Table]
    figures: Mapping[str, Plot]
    columns: Sequence[str]
    csv_rows: Iterable[Mapping[str, Any]]
    scalars: Iterable[Scalar] = ()
    folders: Sequence[str] = ()
    intro: Sequence[str] = ()
    notes: Sequence[str] = ()
    notes_tag: str | None = None
    html: str | None = None
    printed: int | None = None
    printed_notes: Sequence[str] = ()

    def write(self, directory: Path) -> None:
        """Write all files, replacing earlier ones once all are complete. Raises ValueError, before anything is written,
        for NaN or infinity in the summary."""
        text = json.dumps(self.summary, indent=2, allow_nan=False) + "\n"
        with staged(directory) as folder:
            write_figures(self.figures, folder)
            self._log(folder / "logs" / self.name)
            if self.html is not None:
                atomic_write(folder / f"{self.name}.html", self.html)
            atomic_write(folder / f"{self.name}.md", self.markdown())
            lines = ([row.get(column) for column in self.columns] for row in self.csv_rows)
            atomic_write(folder / f"{self.name}.csv", csv_text(self.columns, lines))
            atomic_write(folder / f"{self.name}.json", text)
        for name in set(self.folders) - {file.partition("/")[0] for file in self.figures}:  # of an earlier run
            shutil.rmtree(directory / name, ignore_errors=True)

    def markdown(self) -> str:
        parts = [*heading(self.title, self.summary), *self.intro, ""]
        parts += [line for table in self.tables for line in table.markdown()]
        parts += [*self.notes, *(f"- {line}" for line in failures(self.rows)), ""]
        return "\n".join([*parts, *(line for file, plot in self.figures.items() for line in figure(plot, file))])

    def print(self, directory: Path, *, cache_hits: int, total: int | None = None) -> None:
        """Print the number of cached results (of `total`), tables, notes, failures, and the paths."""
        print_cache_hits(cache_hits, total)
        console = Console() if sys.stdout.isatty() else Console(width=120)
        for table in self.tables[: self.printed]:
            console.print(table.rich())
        for line in self.printed_notes:
            console.print(line, markup=False)
        for line in failures(self.rows):
            console.print(line, style="red", markup=False)
        forms = [".html"] * (self.html is not None) + [".md", ".csv", ".json"]
        print(f"report       {', '.join(str(directory / f'{self.name}{form}') for form in forms)}")
        paths = dict.fromkeys(file.partition("/")[0] for file in self.figures)
        print(f"images       {', '.join(str(directory / place) for place in paths)}")
        print(f"look at it   {tensorboard_command(directory / 'logs')}")

    def _log(self, folder: Path) -> None:
        with SummaryWriter(str(folder)) as log:
            for file, plot in self.figures.items():
                log.add_image(file.removesuffix(".png"), with_caption(plot), dataformats="HWC")
            log.add_text("tables", "\n".join(line for table in self.tables for line in table.markdown()))
            if self.notes_tag is not None:
                log.add_text(self.notes_tag, "\n".join(self.notes))
        for run, points in groupby(self.scalars, key=lambda scalar: scalar.run):
            with SummaryWriter(str(folder / run)) as log:
                for point in points:
                    log.add_scalar(point.tag, point.value, point.step)


def eps_scalars(rows: Iterable[ResultRow], metrics: Mapping[str, str]) -> Iterator[Scalar]:
    """Metrics (tag -> key of a row) against eps: a run for each attack; a step, a whole number, is 1000 eps."""
    for row in sorted(rows, key=lambda row: str(row["attack"])):
        for tag, key in metrics.items():
            if row[key] is not None:
                yield Scalar(safe(row["attack"]), f"{tag} (step: 1000 eps)", row[key], round(1000 * row["eps"]))


def print_cache_hits(cache_hits: int, total: int | None = None) -> None:
    """Print the number of cached results, if any."""
    if cache_hits:
        total_text = "" if total is None else f" of {total}"
        print(f"{cache_hits}{total_text} results are cached from an earlier run (--fresh computes them again)")


def write_figures(figures: Mapping[str, Plot], folder: Path) -> None:
    """A PNG for each figure, by file name, with or without a folder."""
    for file, plot in figures.items():
        (folder / file).parent.mkdir(exist_ok=True)
        Image.fromarray(plot.image).save(folder / file, optimize=True)
