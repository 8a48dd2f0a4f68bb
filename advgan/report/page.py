"""Parts that all reports share: tables and their numbers as text, heading, failed attacks, figures in Markdown."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from advgan.core.fraction import eps_text
from advgan.core.terminal import printable
from advgan.report.comparison import Plot
from advgan.report.escaping import code, in_markdown, in_rich, in_table

ResultRow = Mapping[str, Any]  # one result, with the keys of results.json
Summary = Mapping[str, Any]  # results.json, or the JSON file of a study
Cell = Callable[[Any], str]  # a row -> its text in a column
Columns = dict[str, Cell]  # by the column's header


@dataclass(frozen=True)
class Table:
    """A table of text: `rows`, `summary_rows` below a rule, and a `note` under it.

    failures         reasons why an attack has no metrics, by the index of its row
    n_text_columns   number of columns from the left that hold text: the others hold numbers
    """

    title: str
    headers: list[str]
    rows: list[list[str]]
    note: str = ""
    summary_rows: list[list[str]] = field(default_factory=list)
    failures: dict[int, str] = field(default_factory=dict)
    n_text_columns: int = 1

    @classmethod
    def of(cls, title: str, rows: Iterable[Any], columns: Columns, note: str = "", **others: Any) -> Self:
        """The table that has a cell of each of the `rows` in each of the `columns`."""
        return cls(title, list(columns), [[cell(row) for cell in columns.values()] for row in rows], note, **others)

    def grid(self, *, compact: bool = False) -> RichTable:
        """The cells for rich; `compact`: heads on two lines, numbers never wrapped."""
        table = RichTable(box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1) if compact else (0, 1))
        for j, head in enumerate(self.headers):
            text = in_rich(head).replace(" ", "\n", 1) if compact else in_rich(head)
            number = j >= self.n_text_columns
            table.add_column(text, justify="right" if number else "left", overflow="fold", no_wrap=compact and number)
        for i, line in enumerate(self.rows):
            last = i == len(self.rows) - 1 and bool(self.summary_rows)
            table.add_row(*map(in_rich, line), style="red" if i in self.failures else None, end_section=last)
        for line in self.summary_rows:
            table.add_row(*map(in_rich, line), style="italic")
        return table

    def rich(self, *, compact: bool = False) -> Group:
        """Title, cells, failures and, unless `compact`, the note, for rich."""
        parts: list[RenderableType] = [Text(printable(self.title), style="bold"), self.grid(compact=compact)]
        parts += [Text(printable(reason), style="red") for reason in self.failures.values()]
        return Group(*parts, *([] if compact else [Text(printable(self.note), style="dim")]), Text())

    def markdown(self) -> list[str]:
        """Title, cells, failures and note as lines of Markdown."""

        def line(texts: Iterable[str], form: str = "{}") -> str:
            return "| " + " | ".join(form.format(in_table(cell)) if cell else "" for cell in texts) + " |"

        rule = "|" + "---|" * self.n_text_columns + "---:|" * (len(self.headers) - self.n_text_columns)
        body = [*map(line, self.rows), *(line(texts, "*{}*") for texts in self.summary_rows)]
        failed = [f"- {in_markdown(reason)}" for reason in self.failures.values()]
        under = [*failed, *([""] if failed else []), *([in_markdown(self.note), ""] if self.note else [])]
        return [f"### {in_markdown(self.title)}", "", line(self.headers), rule, *body, "", *under]


def heading(title: str, summary: Summary) -> list[str]:
    """Title, date, versions, machine, command and classifiers, in Markdown."""
    env = summary["environment"]
    machine = f"{env['cpu']}, {env['gpu']}" if env["gpu"] else env["cpu"]
    facts = (env["date"], f"torch {env['packages']['torch']}", machine, f"{env['threads']} threads")
    command = printable(" ".join(" ".join(env["command"]).split()))
    classifiers = [
        f"- {in_markdown(t['label'])}: {in_markdown(t['name'])} on {t['dataset']}, "
        f"weights {code(t['weights'])} (sha256 {t['sha256'][:12]})"
        for t in summary["targets"]
    ]
    facts_line = ", ".join([*facts, f"commit {env['commit'] or 'unknown'}"])
    return [f"# {title}", "", facts_line, "", f"    {command}", "", *classifiers]


def figure(plot: Plot, file: str) -> list[str]:
    """A figure and its caption, in Markdown."""
    title = in_markdown(plot.title)
    return [f"### {title}", "", f"![{title}](<{file}>)", "", in_markdown(plot.caption), ""]


def failures(rows: Iterable[ResultRow]) -> list[str]:
    """Why attacks have no metrics, a line for each."""
    return [
        in_markdown(f"{row['attack']} on {row['target']}, {row['norm']} eps {eps_text(row['eps'])} {row['status']}")
        for row in rows
        if row["status"] != "ok"
    ]


def percent(value: float | None, missing: str = "failed", digits: int = 1) -> str:
    """A rate in percent; `missing` where it was not measured."""
    return missing if value is None else f"{100 * value:.{digits}f}"


def number(value: float | None, form: str = "", missing: str = "–") -> str:
    """A number in a format, like ".2f"; `missing` where it was not measured."""
    return missing if value is None else format(value, form)


def with_interval(
    row: ResultRow, key: str = "asr", *, scale: float = 100, digits: int = 1, missing: str | None = None
) -> str:
    """A number of a row and its interval, `KEY_low` and `KEY_high`: "97.7 [97.3, 98.0]"; without one `missing`, by
    default "–" of a row whose attack ran, else "failed"."""
    if row[key] is None:
        return missing or ("–" if row.get("status") == "ok" else "failed")
    value, low, high = (None if row[k] is None else f"{scale * row[k]:.{digits}f}" for k in (key, *ends(key)))
    return str(value) if low is None or high is None else f"{value} [{low}, {high}]"


def ends(key: str) -> tuple[str, str]:
    """The keys of the ends of an interval."""
    return f"{key}_low", f"{key}_high"
