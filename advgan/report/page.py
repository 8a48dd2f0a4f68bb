"""What the pages of studies share: heading, tables, failed attacks, pictures; for terminal, Markdown, TensorBoard."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text
from torch.utils.tensorboard import SummaryWriter

from advgan.core.terminal import printable
from advgan.core.threat_model import eps_text
from advgan.evaluation.statistics import wilson
from advgan.report.comparison import Picture
from advgan.report.escaping import code, in_markdown, in_rich, in_table

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Grid:
    """One table of text: the first column names its line, the others are numbers; `note` says how to read it."""

    title: str
    heads: list[str]
    lines: list[list[str]]
    note: str = ""

    def rich(self) -> Group:
        table = Table(box=box.SIMPLE_HEAD)
        for i, head in enumerate(self.heads):
            table.add_column(in_rich(head), justify="right" if i else "left", overflow="fold")
        for line in self.lines:
            table.add_row(*map(in_rich, line))
        return Group(Text(printable(self.title), style="bold"), table, Text(printable(self.note), style="dim"), Text())

    def markdown(self) -> list[str]:
        rows = [self.heads, ["---", *["---:"] * (len(self.heads) - 1)], *self.lines]
        lines = (" | ".join(map(in_table, row)) for row in rows)
        title, note = in_markdown(self.title), in_markdown(self.note)
        return [f"### {title}", "", *(f"| {line} |" for line in lines), "", note, ""]


def heading(title: str, summary: Mapping[str, Any]) -> list[str]:
    """Title, date, versions, machine, command and classifiers, in Markdown."""
    env = summary["environment"]
    machine = f"{env['cpu']}, {env['gpu']}" if env["gpu"] else env["cpu"]
    facts = (env["date"], f"torch {env['packages']['torch']}", machine, f"{env['threads']} threads")
    classifiers = [
        f"- {in_markdown(t['label'])}: {in_markdown(t['name'])} on {t['dataset']}, "
        f"weights {code(t['weights'])} (sha256 {t['sha256'][:12]})"
        for t in summary["targets"]
    ]
    commit = f"commit {env['commit'] or 'unknown'}"
    return [
        f"# {title}",
        "",
        ", ".join([*facts, commit]),
        "",
        f"    {' '.join(' '.join(env['command']).split())}",
        "",
        *classifiers,
        "",
    ]


def figure(picture: Picture, file: str) -> list[str]:
    """A picture and how to read it, in Markdown."""
    title = in_markdown(picture.title)
    return [f"### {title}", "", f"![{title}](<{file}>)", "", in_markdown(picture.caption), ""]


def failures(rows: Iterable[Row]) -> list[str]:
    """Why attacks have no figures, a line for each."""
    failed = [row for row in rows if row["status"] != "ok"]
    return [
        in_markdown(f"{row['attack']} on {row['target']}, {row['norm']} eps {eps_text(row['eps'])} {row['status']}")
        for row in failed
    ]


def body(grids: Iterable[Grid], rows: Iterable[Row], pictures: Mapping[str, Picture]) -> list[str]:
    """The tables, the `rows` that failed, and the pictures by file name, in Markdown."""
    tables = [line for grid in grids for line in grid.markdown()]
    failed = [*(f"- {line}" for line in failures(rows)), ""]
    return [*tables, *failed, *(line for file, picture in pictures.items() for line in figure(picture, file))]


def log_body(log: SummaryWriter, grids: Iterable[Grid], pictures: Mapping[str, Picture]) -> None:
    """The pictures by file name, and the tables as text, in TensorBoard."""
    for file, picture in pictures.items():
        log.add_image(file.removesuffix(".png"), picture.image, dataformats="HWC")
    log.add_text("tables", "\n".join(line for grid in grids for line in grid.markdown()))


def share(part: float | None, n: int) -> list[float | None]:
    """A share of `n` with the ends of its 95 % Wilson interval; three times None where it was not measured."""
    return [None] * 3 if part is None else [part, *wilson(round(part * n), n)]


def percent(value: float | None) -> str:
    return "failed" if value is None else f"{100 * value:.1f}"
