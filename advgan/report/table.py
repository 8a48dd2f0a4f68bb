"""The tables of a comparison, and the checks of its validity, on the terminal, in Markdown, and as a plot."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console, Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from advgan.core.terminal import printable
from advgan.report.analysis_tables import cost, mcnemar, optimality, survival
from advgan.report.escaping import in_markdown
from advgan.report.page import ResultRow, Summary, Table
from advgan.report.sections import COLUMN_HELP, NOTES, sections

# Columns dropped one after the other until a table fits its terminal.
DROPPABLE = (
    "mean l0",
    "8-bit %",
    "SSIM",
    "max linf",
    "mean linf",
    "forwards + backwards",
    "unique",
    "access",
    "mean l2",
    "speed vs FGSM",
)
MAX_PAIRS = 12  # more pairs of attacks are only in the reports
SIGNS = {"holds": "✓", "violated": "✗", "unclear": "?", "not tested": "○"}
STYLES = {"holds": "green", "violated": "bold red", "unclear": "yellow", "not tested": "dim"}
STRIPE, FAILED = "#eef2f6", "#b03000"


def terminal(summary: Summary, width: int = 120) -> Group:
    """Tables and verdicts for rich's `Console.print`, `width` columns wide; failed attacks in red, and why."""
    tables: list[Table] = []
    for count in range(len(DROPPABLE) + 1):
        tables = sections(summary, DROPPABLE[:count])
        widths = [Console(width=999).measure(section.grid(compact=True)).maximum for section in tables]
        if max(widths, default=0) <= width:
            break
    tables += [*survival(summary), *optimality(summary), *cost(summary)]
    pairs = mcnemar(summary)
    tables += [section for section in pairs if len(section.rows) <= MAX_PAIRS]
    parts: list[RenderableType] = [section.rich(compact=True) for section in tables]
    if any(len(section.rows) > MAX_PAIRS for section in pairs):
        parts += [Text("Pairs of attacks on the same images (McNemar's test): see the report.", style="dim"), Text()]
    return Group(*parts, *_verdicts(summary))


def _verdicts(summary: Summary) -> list[RenderableType]:
    """One line per check; for a violated one also its usual meaning."""
    grid = RichTable.grid(padding=(0, 1))
    for check in summary.get("sanity", ()):
        text = Text(printable(describe_check(check)), style=STYLES[check["verdict"]])
        if check["verdict"] == "violated":
            text.append(f"\nIt usually means: {check['meaning']}")
        grid.add_row(Text(f"{SIGNS[check['verdict']]} {check['verdict']}", style=STYLES[check["verdict"]]), text)
    return [Text("Checks of validity", style="bold"), grid] if grid.row_count else []


def describe_check(check: ResultRow) -> str:
    """A check of results.json and its finding, in a line."""
    return f"{check['target']}: {check['check']}: {check['detail']}"


def markdown(summary: Summary) -> str:
    """Tables and verdicts, reasons of failed attacks, and help for the columns, in Markdown."""
    text = []
    if summary.get("sanity"):
        text += ["## Checks of validity", "", *map(_verdict, summary["sanity"]), ""]
    attacks = sections(summary)
    text += ["## Attacks", "", *(line for section in attacks for line in section.markdown())]
    for section in (*survival(summary), *optimality(summary), *cost(summary), *mcnemar(summary)):
        text += section.markdown()
    used = [head for head in COLUMN_HELP if any(head in section.headers for section in attacks)]
    text += ["## Columns", "", *(f"- **{head}**: {COLUMN_HELP[head]}" for head in used), "", NOTES, ""]
    return "\n".join(text)


def _verdict(check: ResultRow) -> str:
    text = in_markdown(describe_check(check))
    line = f"- {SIGNS[check['verdict']]} {check['verdict']}: {text}"
    if check["verdict"] == "violated":
        line = f"- {SIGNS['violated']} **violated: {text}** It usually means: {check['meaning']}"
    if check["verdict"] == "unclear":
        return f"{line}. {check['meaning']}"
    return line if check["verdict"] != "not tested" else f"{line}. To test it: {check['meaning']}"


def plot(rows: Iterable[ResultRow]) -> np.ndarray:
    """The attacks' tables as an image (height, width, 3) uint8: TensorBoard opens on images, not on text."""
    tables = sections({"rows": list(rows)})
    widths = [np.array([max(map(len, texts)) + 3 for texts in zip(t.headers, *t.rows, strict=True)]) for t in tables]
    height, width = (
        sum(len(table.rows) + 3 for table in tables),
        max(*(table_widths.sum() for table_widths in widths), *(1.25 * len(table.title) + 2 for table in tables)),
    )
    figure = Figure(figsize=(0.09 * width, 0.25 * height), dpi=110)
    canvas, axes = FigureCanvasAgg(figure), figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    y = 0.0
    for table, columns in zip(tables, widths, strict=True):
        y += 1
        axes.text(1, y, table.title, size=11, weight="bold", va="center", parse_math=False)
        right_edges = columns.cumsum() - 1
        for number, line in enumerate([table.headers, *table.rows]):
            y += 1
            if number % 2:
                axes.axhspan(y - 0.5, y + 0.5, color=STRIPE, zorder=0)
            color, weight = (FAILED if number - 1 in table.failures else "black"), ("normal" if number else "bold")
            for j, cell in enumerate(line):
                is_text = j < table.n_text_columns
                x, alignment = (right_edges[j] - columns[j] + 2, "left") if is_text else (right_edges[j], "right")
                axes.text(
                    *(x, y, cell), size=10, va="center", ha=alignment, weight=weight, color=color, parse_math=False
                )
        y += 1
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
