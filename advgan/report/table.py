"""The tables of a comparison, and whether to trust them, on the terminal, in Markdown, and as a plot."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console, Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from advgan.core.terminal import printable
from advgan.report.beside import cost, mcnemar, optimality
from advgan.report.escaping import in_markdown
from advgan.report.page import ResultRow, Summary, Table
from advgan.report.sections import MEANING, NOTES, sections

# Left out one after the other until a table fits its terminal.
SPARE = ("mean l0", "8-bit %", "SSIM", "max linf", "mean linf", "fwd+bwd", "alone", "access", "mean l2", "x FGSM")
PAIRS = 12  # more pairs of attacks than these are left to the reports
SIGNS = {"holds": "✓", "violated": "✗", "unclear": "?", "not tested": "○"}
STYLES = {"holds": "green", "violated": "bold red", "unclear": "yellow", "not tested": "dim"}
STRIPE, FAILED = "#eef2f6", "#b03000"


def terminal(summary: Summary, width: int = 120) -> Group:
    """Tables and verdicts for rich's `Console.print`, `width` columns wide; failed attacks in red, and why."""
    found: list[Table] = []
    for count in range(len(SPARE) + 1):
        found = sections(summary, SPARE[:count])
        widths = [Console(width=999).measure(section.grid(compact=True)).maximum for section in found]
        if max(widths, default=0) <= width:
            break
    found += [*optimality(summary), *cost(summary)]
    pairs = mcnemar(summary)
    found += [section for section in pairs if len(section.lines) <= PAIRS]
    parts: list[RenderableType] = [section.rich(compact=True) for section in found]
    if any(len(section.lines) > PAIRS for section in pairs):
        parts += [Text("Pairs of attacks on the same images (McNemar's test): see the report.", style="dim"), Text()]
    return Group(*parts, *_verdicts(summary))


def _verdicts(summary: Summary) -> list[RenderableType]:
    """One line per check; of a violated one what it usually means, too."""
    grid = RichTable.grid(padding=(0, 1))
    for each in summary.get("sanity", ()):
        text = Text(printable(told(each)), style=STYLES[each["verdict"]])
        if each["verdict"] == "violated":
            text.append(f"\nIt usually means: {each['meaning']}")
        grid.add_row(Text(f"{SIGNS[each['verdict']]} {each['verdict']}", style=STYLES[each["verdict"]]), text)
    return [Text("Can these figures be trusted?", style="bold"), grid] if grid.row_count else []


def told(each: ResultRow) -> str:
    """A check of results.json and what it found, in a line."""
    return f"{each['target']}: {each['check']}: {each['detail']}"


def markdown(summary: Summary) -> str:
    """Tables and verdicts, why attacks failed, and what the columns mean, in Markdown."""
    text = []
    if summary.get("sanity"):
        text += ["## Can these figures be trusted?", "", *map(_verdict, summary["sanity"]), ""]
    attacks = sections(summary)
    text += ["## Attacks", "", *(line for section in attacks for line in section.markdown())]
    for section in (*optimality(summary), *cost(summary), *mcnemar(summary)):
        text += section.markdown()
    used = [head for head in MEANING if any(head in section.heads for section in attacks)]
    text += ["## What the columns mean", "", *(f"- **{head}**: {MEANING[head]}" for head in used), "", NOTES, ""]
    return "\n".join(text)


def _verdict(each: ResultRow) -> str:
    text = in_markdown(told(each))
    line = f"- {SIGNS[each['verdict']]} {each['verdict']}: {text}"
    if each["verdict"] == "violated":
        line = f"- {SIGNS['violated']} **violated: {text}** It usually means: {each['meaning']}"
    if each["verdict"] == "unclear":
        return f"{line}. {each['meaning']}"
    return line if each["verdict"] != "not tested" else f"{line}. To test it: {each['meaning']}"


def plot(rows: Iterable[ResultRow]) -> np.ndarray:
    """The attacks' tables as an image (height, width, 3) uint8: TensorBoard opens on images, not on text."""
    tables = sections({"rows": list(rows)})
    widths = [np.array([max(map(len, cells)) + 3 for cells in zip(t.heads, *t.lines, strict=True)]) for t in tables]
    height, width = (
        sum(len(table.lines) + 3 for table in tables),
        max(*(each.sum() for each in widths), *(1.25 * len(table.title) + 2 for table in tables)),
    )
    figure = Figure(figsize=(0.09 * width, 0.25 * height), dpi=110)
    canvas, axes = FigureCanvasAgg(figure), figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    y = 0.0
    for table, columns in zip(tables, widths, strict=True):
        y += 1
        axes.text(1, y, table.title, size=11, weight="bold", va="center", parse_math=False)
        right = columns.cumsum() - 1
        for number, line in enumerate([table.heads, *table.lines]):
            y += 1
            if number % 2:
                axes.axhspan(y - 0.5, y + 0.5, color=STRIPE, zorder=0)
            color, weight = (FAILED if number - 1 in table.failures else "black"), ("normal" if number else "bold")
            for j, cell in enumerate(line):
                left = j < table.words
                x, side = (right[j] - columns[j] + 2, "left") if left else (right[j], "right")
                axes.text(*(x, y, cell), size=10, va="center", ha=side, weight=weight, color=color, parse_math=False)
        y += 1
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
