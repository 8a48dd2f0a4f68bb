"""The tables of a comparison, and the checks of its validity, on the terminal, in Markdown, and as a plot."""

from collections import Counter
from collections.abc import Iterable
from functools import partial

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console, Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from advgan.core.terminal import printable
from advgan.report.escaping import in_markdown
from advgan.report.gallery import pixels
from advgan.report.page import ResultRow, Summary, Table
from advgan.report.sections import (
    COLUMN_HELP,
    NOTES,
    cost,
    further_tables,
    headlines,
    mcnemar,
    optimality,
    sections,
    survival,
    unfinished_trainings,
)

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
NOTED_8BIT = 0.02  # a difference of success between the images and their 8-bit form
SIGNS = {"holds": "✓", "violated": "✗", "unclear": "?", "not tested": "○"}
CONCERNS = ("violated", "unclear")  # verdicts that a reader has to see
STYLES = {"holds": "green", "violated": "bold red", "unclear": "yellow", "not tested": "dim"}
STRIPE, FAILED = "#eef2f6", "#b03000"


def terminal(summary: Summary, width: int = 120, *, checks: bool = False) -> Group:
    """What matters, on one screen of `width` columns, for rich's `Console.print`; the rest is in the reports.

    Main results, the attacks' tables with failed attacks in red, success after transforms, and the checks that are
    violated or unclear; with `checks` those that hold and are not tested too.
    """
    order = _droppable(summary["rows"])
    versions = [sections(summary, order[:count]) for count in range(len(order) + 1)]
    tables = [
        next(filter(partial(_fits, width), versions_of_one), versions_of_one[-1])
        for versions_of_one in zip(*versions, strict=True)
    ]
    lines = [Text(printable(line), style="bold") for line in [*unfinished_trainings(summary), *headlines(summary)]]
    parts = [section.rich(compact=True) for section in (*tables, *survival(summary))]
    return Group(*lines, Text(), *parts, *_verdicts(summary, checks), *_in_the_report(summary))


def _droppable(rows: Iterable[ResultRow]) -> list[str]:
    """`DROPPABLE`, but with the success of the rounded images late where it differs: a file is what an attacker has."""
    order = list(DROPPABLE)
    bounded = (row for row in rows if row["protocol"] == "bounded" and row["status"] == "ok")
    if any(abs(row["asr"] - row["asr_8bit"]) > NOTED_8BIT for row in bounded):
        order.remove("8-bit %")
        order.insert(order.index("mean l2"), "8-bit %")
    return order


def _fits(width: int, table: Table) -> bool:
    return Console(width=999).measure(table.grid(compact=True)).maximum <= width


def _verdicts(summary: Summary, every: bool) -> list[RenderableType]:
    """One line for each violated or unclear check, or for `every` one; for a violated one also its usual meaning."""
    grid = RichTable.grid(padding=(0, 1))
    for check in summary.get("sanity", ()):
        if not every and check["verdict"] not in CONCERNS:
            continue
        text = Text(printable(describe_check(check)), style=STYLES[check["verdict"]])
        if check["verdict"] == "violated":
            text.append(f"\nIt usually means: {check['meaning']}")
        grid.add_row(Text(f"{SIGNS[check['verdict']]} {check['verdict']}", style=STYLES[check["verdict"]]), text)
    return [Text("Checks of validity", style="bold"), grid] if grid.row_count else []


def _in_the_report(summary: Summary) -> list[RenderableType]:
    """One line with what the terminal leaves out."""
    left_out = [f"checks of validity ({count_checks(summary)})"] if summary.get("sanity") else []
    left_out += ["local optimality"] if optimality(summary) else []
    left_out += ["the number of images from which on a generator is cheaper"] if cost(summary) else []
    left_out += ["pairs of attacks on the same images (McNemar's test)"] if mcnemar(summary) else []
    left_out += ["the meaning of the columns"] if summary.get("rows") else []
    return [Text(f"In the report: {', '.join(left_out)}", style="dim")] if left_out else []


def count_checks(summary: Summary) -> str:
    """How many checks have each verdict: "1 violated, 5 hold, 4 not tested"."""
    counts = Counter(check["verdict"] for check in summary.get("sanity", ()))
    hold = "holds" if counts["holds"] == 1 else "hold"
    order = (*CONCERNS, "holds", "not tested")
    return ", ".join(f"{counts[name]} {hold if name == 'holds' else name}" for name in order if counts[name])


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
    for section in (*further_tables(summary), *mcnemar(summary)):
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


def plots(rows: Iterable[ResultRow]) -> dict[str, np.ndarray]:
    """Title, like "Bounded attacks on mnist-c, linf eps 0.3", -> the main columns of that table as an image
    (height, width, 3) uint8, to be read in a small card of TensorBoard, which opens on images and not on text."""
    return {table.title.split(": ", 1)[0]: _plot(table) for table in sections({"rows": list(rows)}, DROPPABLE)}


def _plot(table: Table) -> np.ndarray:
    columns = np.array([max(map(len, texts)) + 3 for texts in zip(table.headers, *table.rows, strict=True)])
    title = table.title.split(": ", 1)
    height, width = len(table.rows) + len(title) + 1.5, max(columns.sum(), 1.25 * max(map(len, title)) + 2)
    figure = Figure(figsize=(0.09 * width, 0.25 * height), dpi=110)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    for y, (text, weight) in enumerate(zip(title, ("bold", "normal"), strict=False), 1):
        axes.text(1, y, text, size=11, weight=weight, va="center")
    right_edges = columns.cumsum() - 1
    for number, line in enumerate([table.headers, *table.rows]):
        y = len(title) + 1 + number
        if number % 2:
            axes.axhspan(y - 0.5, y + 0.5, color=STRIPE, zorder=0)
        color, weight = (FAILED if number - 1 in table.failures else "black"), ("normal" if number else "bold")
        for j, cell in enumerate(line):
            is_text = j < table.n_text_columns
            x, alignment = (right_edges[j] - columns[j] + 2, "left") if is_text else (right_edges[j], "right")
            axes.text(*(x, y, cell), size=10, va="center", ha=alignment, weight=weight, color=color)
    return pixels(figure)
