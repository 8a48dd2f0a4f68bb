"""The rows of a comparison as tables: on the terminal, in Markdown, and as a picture.

Bounded and minimal-norm attacks answer different questions, so they never share a table: the one does its worst within
eps, the other looks for the smallest perturbation, and its success within eps is a by-product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich import box
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

Row = dict[str, Any]

WIDE = ("8-bit %", "SSIM", "max linf", "mean linf", "fwd+bwd")  # left out where 80 columns must do
NOTES = """\
ASR: share of the images that were classified correctly (of those whose label is not the target, where the attack aims
at one) and no longer are, with its 95 % Wilson interval; 8-bit: the same after rounding to whole grey levels. Robust:
accuracy over all images under attack. Norms are in pixel units of [0, 1], over the attacked images. fwd+bwd: images
that went forward through the target and gradients that came back, per image. x FGSM: images per second against FGSM's.
A minimal-norm attack stops at the boundary, wherever that is: its norms are over the images it fooled ("found"), its
median counts a failure as infinitely far, and its ASR is the share that it fooled within eps. Where it minimised
another norm than the threat's (attack_norm in results.json: l2 for deepfool), the perturbation that it found is
measured in the threat's norm, and counts if it happens to lie within eps there.
"""


@dataclass(frozen=True)
class Section:
    """One table. `failures`: why an attack has no figures, by the number of its line."""

    title: str
    heads: list[str]
    lines: list[list[str]]
    failures: dict[int, str]


def sections(rows: Iterable[Row], narrow: bool = False) -> list[Section]:
    """Tables of `rows` (as in results.json), one per protocol, norm, eps and target class; `narrow` for 80 columns."""
    rows = list(rows)
    speed = next((row["images_per_second"] for row in rows if row["attack"] == "fgsm"), None)

    def key(row: Row) -> tuple[str, str, float, int]:
        return row["protocol"], row["norm"], row["eps"], -1 if row["y_target"] is None else row["y_target"]

    found = []
    for _, members in groupby(sorted(rows, key=key), key):
        group = list(members)
        columns = _columns(group[0]["protocol"], speed)
        if narrow:
            columns = {head: cell for head, cell in columns.items() if head not in WIDE}
        failures = {i: f"{row['attack']} {row['status']}" for i, row in enumerate(group) if row["status"] != "ok"}
        lines = [
            [row["attack"], *("failed" if i in failures else cell(row) for cell in columns.values())]
            for i, row in enumerate(group)
        ]
        found.append(Section(_title(group[0]), ["attack", *columns], lines, failures))
    return found


def _title(row: Row) -> str:
    ball = f"{row['norm']} eps {row['eps']:.4g}"
    kind = f"Bounded attacks, {ball}" if row["protocol"] == "bounded" else f"Minimal-norm attacks, ASR within {ball}"
    aim = "" if row["y_target"] is None else f", toward class {row['y_target']}"
    return f"{kind}{aim}: {row['n_attacked']} of {row['n']} images attacked, clean accuracy {row['clean_accuracy']:.2%}"


def _columns(protocol: str, speed: float | None) -> dict[str, Callable[[Row], str]]:
    """Column head -> the cell of a row."""

    def number(form: str, name: str, scale: float = 1) -> Callable[[Row], str]:
        return lambda row: "–" if row[name] is None else format(row[name] * scale, form)

    rate = {
        "ASR % [95 %]": lambda row: f"{row['asr']:.1%} [{row['asr_low']:.1%}, {row['asr_high']:.1%}]".replace("%", ""),
        "8-bit %": number(".1f", "asr_8bit", 100),
    }
    bounded = {
        "robust %": number(".1f", "robust_accuracy", 100),
        "mean l2": number(".2f", "l2_mean"),
        "max linf": number(".4f", "linf_max"),
    }
    minimal = {
        "found %": number(".1f", "asr_any_norm", 100),
        "median l2": number(".2f", "l2_median"),
        "mean l2": number(".2f", "l2_mean"),
        "mean linf": number(".4f", "linf_mean"),
    }
    cost = {
        "SSIM": number(".3f", "ssim_mean"),
        "images/s": number(",.0f", "images_per_second"),
        "x FGSM": (lambda row: "–") if speed is None else number(",.3g", "images_per_second", 1 / speed),
        "fwd+bwd": lambda row: f"{row['forwards_per_image']:.3g}+{row['backwards_per_image']:.3g}",
    }
    return {**rate, **bounded, **cost} if protocol == "bounded" else {**minimal, **rate, **cost}


def terminal(rows: Iterable[Row], width: int = 120) -> Group:
    """The tables for rich's `Console.print`, for a terminal of `width` columns; failed attacks in red, and why."""
    parts: list[Table | Text] = []
    for section in sections(rows, narrow=width < 110):
        table = Table(title=section.title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
        table.padding = (0, 0, 0, 1)
        table.add_column(section.heads[0], no_wrap=True)
        for head in section.heads[1:]:
            table.add_column(head.replace(" ", "\n", 1), justify="right", no_wrap=True)
        for i, line in enumerate(section.lines):
            table.add_row(*map(escape, line), style="red" if i in section.failures else None)
        parts += [table, *(Text(why, style="red") for why in section.failures.values()), Text()]
    return Group(*parts)


def markdown(rows: Iterable[Row]) -> str:
    """The tables, why attacks failed, and what the columns mean, in Markdown."""
    text = []
    for section in sections(rows):
        text += [f"### {section.title}", "", "| " + " | ".join(section.heads) + " |"]
        text.append("|---" + "|---:" * (len(section.heads) - 1) + "|")
        text += ["| " + " | ".join(line) + " |" for line in section.lines]
        text += ["", *(f"- {why}" for why in section.failures.values()), ""]
    return "\n".join([*text, NOTES])


def picture(rows: Iterable[Row]) -> np.ndarray:
    """The tables as an image (height, width, 3) uint8: TensorBoard opens on images, and keeps text behind a tab."""
    tables = sections(rows)
    widths = [np.array([max(map(len, cells)) + 3 for cells in zip(t.heads, *t.lines, strict=True)]) for t in tables]
    height, width = sum(len(table.lines) + 3 for table in tables), max(each.sum() for each in widths)
    figure = Figure(figsize=(0.09 * width, 0.25 * height), dpi=110)
    canvas, axes = FigureCanvasAgg(figure), figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    y = 0.0
    for table, columns in zip(tables, widths, strict=True):
        y += 1
        axes.text(1, y, table.title, size=11, weight="bold", va="center")
        right = columns.cumsum() - 1
        for number, line in enumerate([table.heads, *table.lines]):
            y += 1
            if number % 2:
                axes.axhspan(y - 0.5, y + 0.5, color="#eef2f6", zorder=0)
            color = "#b03000" if number - 1 in table.failures else "black"
            weight = "normal" if number else "bold"
            axes.text(1, y, line[0], size=10, va="center", weight=weight, color=color)
            for x, cell in zip(right[1:], line[1:], strict=True):
                axes.text(x, y, cell, size=10, va="center", ha="right", weight=weight, color=color)
        y += 1
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
