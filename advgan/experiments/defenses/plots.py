"""Figures of the matrix of defenses: success of each attack on each defense, the worst case set apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from advgan.core.threat_model import eps_text
from advgan.report.comparison import Plot
from advgan.report.figures import style
from advgan.report.page import ResultRow

WORST, CLEAN = "worst case", "clean"
NOT_RUN = "–"
GAP = 0.35  # between what is set apart and the rest, in cells
COLUMNS = (
    "Gradient attacks are adaptive: they differentiate a smooth approximation of what hides or randomises the "
    "gradients. @naive takes the defense's own gradients: where that column looks harmless and the one without @ does "
    "not, gradients were hidden, not images defended. @oblivious uses only the classifier behind the defense. "
    "transfer: MI-FGSM's images made on another classifier. advgan: one pass of a generator, trained on the base or on "
    "this very line. =: the same model as in another column, not attacked twice; –: nobody trained one."
)
ASR = (
    "Attack success rate in %, of the images that the line's classifier gets right: one line a defense, one column an "
    "attack; yellow has fallen, blue holds. Set apart at the right: an image counts if any attack of the line fools "
    "it. That is what a defender has to expect, and what the defense is worth. " + COLUMNS
)
ROBUST = (
    "Accuracy in %, over all images: without an attack (left), under each attack, and under whichever attack is worst "
    "for each image (right). Yellow is good here: a defense whose right end is as blue as that of none has bought "
    "nothing, whatever stands between. " + COLUMNS
)


def asr(summary: Mapping[str, Any]) -> Plot:
    """The heat map of success."""
    columns = [*summary["columns"], WORST]
    return _map(summary, columns, {len(columns) - 1}, "asr", "Which attack breaks which defense", ASR)


def robust(summary: Mapping[str, Any]) -> Plot:
    """The heat map of accuracy."""
    columns = [CLEAN, *summary["columns"], WORST]
    return _map(summary, columns, {1, len(columns) - 1}, "robust_accuracy", "What accuracy is left", ROBUST)


def matrix_rows(summary: Mapping[str, Any]) -> dict[tuple[str, str], ResultRow]:
    """(defense, column) -> its row, those of the worst case and of clean images among them."""
    cells = {(row["target"], row["column"]): row for row in summary["rows"]}
    for defense in summary["defenses"]:
        clean = {"asr": None, "robust_accuracy": defense["clean_accuracy"], "rejected": defense["clean_rejected"]}
        cells |= {
            (defense["label"], CLEAN): clean,
            (defense["label"], WORST): defense["worst_case"] or dict.fromkeys(clean),
        }
    return cells


def cell_text(row: ResultRow | None, key: str, rate: Callable[[ResultRow], str] | None = None) -> str:
    """A percentage (or the text of `rate`), "=" before that of another column, or why there is none."""
    if row is None:
        return NOT_RUN
    if row[key] is None:
        return "failed"
    return ("=" if row.get("same_as") else "") + (rate(row) if rate else f"{100 * row[key]:.0f}")


def _map(summary: Mapping[str, Any], columns: list[str], apart: set[int], key: str, title: str, caption: str) -> Plot:
    """One cell for each line and column; before the columns numbered in `apart` is a gap."""
    lines, cells = [defense["label"] for defense in summary["defenses"]], matrix_rows(summary)
    lefts = np.arange(len(columns)) + GAP * np.array([sum(j >= i for i in apart) for j in range(len(columns))])
    longest, widest = max(map(len, lines)), max(map(len, columns))
    figure = style.new_figure(1.6 + 0.075 * longest + 0.62 * lefts[-1], 1.3 + 0.06 * widest + 0.34 * len(lines))
    axes = figure.subplots()
    for j, column in enumerate(columns):
        rows = [cells.get((line, column)) for line in lines]
        values = np.array([[None if row is None else row[key]] for row in rows], dtype=float)
        extent = (lefts[j], lefts[j] + 1, len(lines), 0)
        image = axes.imshow(np.ma.masked_invalid(values), "cividis", vmin=0, vmax=1, aspect="auto", extent=extent)
        for i, row in enumerate(rows):
            dark = row is not None and row[key] is not None and row[key] <= 0.55
            weight = "bold" if column == WORST else "normal"
            where = (lefts[j] + 0.5, i + 0.5)
            colour = "white" if dark else "black"
            axes.text(*where, cell_text(row, key), ha="center", va="center", color=colour, fontsize=9, weight=weight)
    axes.set(xlim=(0, lefts[-1] + 1), ylim=(len(lines), 0))
    axes.set_yticks(np.arange(len(lines)) + 0.5, lines, fontsize=9)
    axes.xaxis.tick_top()
    axes.set_xticks(lefts + 0.5, columns, fontsize=9, rotation=45, ha="left", rotation_mode="anchor")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    name = {"asr": "ASR", "robust_accuracy": "accuracy"}[key]
    figure.colorbar(image, ax=axes, format=style.percent, label=name, pad=0.02)
    return style.to_plot(figure, f"{title}: {name}, {summary['norm']} eps {eps_text(summary['eps'])}", caption)
