"""Figures of the matrix of defenses: success of each attack on each defense, and the worst case."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from advgan.core.threat_model import eps_text
from advgan.report.comparison import Plot
from advgan.report.figures import style
from advgan.report.page import ResultRow

WORST, CLEAN = "worst case", "clean"
NOT_RUN = "–"
GAP = 0.35  # before separated columns, in column widths
COLUMNS = (
    "Gradient attacks are adaptive (BPDA, EOT). @naive uses the defense's own gradients: where it fails and the "
    "adaptive attack succeeds, the defense masks its gradients. @oblivious uses the undefended classifier. transfer: "
    "MI-FGSM on another classifier. advgan: one pass of a generator, trained on the base or on this row. =: the same "
    "model as in another column, not attacked twice; –: no such generator."
)
ASR = (
    "Attack success rate in %, over the images that the row's classifier classifies correctly: a row per defense, a "
    "column per attack; yellow: high, blue: low. At the right the worst case: success of any attack of the row. "
    + COLUMNS
)
ROBUST = (
    "Accuracy in %, over all images: without an attack (left), under each attack, and under the worst attack for each "
    "image (right). Yellow: high, blue: low. " + COLUMNS
)


def asr(summary: Mapping[str, Any]) -> Plot:
    """The heat map of success."""
    columns = [*summary["columns"], WORST]
    return _map(summary, columns, {len(columns) - 1}, "asr", "Attack success by defense", ASR)


def robust(summary: Mapping[str, Any]) -> Plot:
    """The heat map of accuracy."""
    columns = [CLEAN, *summary["columns"], WORST]
    return _map(summary, columns, {1, len(columns) - 1}, "robust_accuracy", "Accuracy by defense", ROBUST)


def matrix_rows(summary: Mapping[str, Any]) -> dict[tuple[str, str], ResultRow]:
    """(defense, column) -> its row, those of the worst case and of clean images among them."""
    by_defense_and_column = {(row["target"], row["column"]): row for row in summary["rows"]}
    for defense in summary["defenses"]:
        clean = {"asr": None, "robust_accuracy": defense["clean_accuracy"], "rejected": defense["clean_rejected"]}
        by_defense_and_column |= {
            (defense["label"], CLEAN): clean,
            (defense["label"], WORST): defense["worst_case"] or dict.fromkeys(clean),
        }
    return by_defense_and_column


def cell_text(row: ResultRow | None, key: str, rate: Callable[[ResultRow], str] | None = None) -> str:
    """A percentage (or the text of `rate`), "=" before that of another column, or why there is none."""
    if row is None:
        return NOT_RUN
    if row[key] is None:
        return "failed"
    return ("=" if row.get("same_as") else "") + (rate(row) if rate else f"{100 * row[key]:.0f}")


def _map(summary: Mapping[str, Any], columns: list[str], apart: set[int], key: str, title: str, caption: str) -> Plot:
    """One field per row and column; a gap before the columns numbered in `apart`."""
    lines, matrix = [defense["label"] for defense in summary["defenses"]], matrix_rows(summary)
    lefts = np.arange(len(columns)) + GAP * np.array([sum(j >= i for i in apart) for j in range(len(columns))])
    longest, widest = max(map(len, lines)), max(map(len, columns))
    figure = style.new_figure(1.6 + 0.075 * longest + 0.62 * lefts[-1], 1.3 + 0.06 * widest + 0.34 * len(lines))
    axes = figure.subplots()
    for j, column in enumerate(columns):
        rows = [matrix.get((line, column)) for line in lines]
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
