"""Success and robust accuracy against eps."""

from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from advgan.evaluation.evaluate import Result
from advgan.evaluation.metrics import correct
from advgan.evaluation.statistics import wilson
from advgan.report.comparison import Comparison, Plot
from advgan.report.figures.plot_groups import PlotGroup, adversarial_distance, error_distance, plot_groups
from advgan.report.figures.style import AXIS, Style, clean_axes, new_figure, percent, styles, to_plot

CAPTION = (
    "Left: the share of attacked images on which the attack succeeded (ASR; higher is a stronger attack). "
    "Right: the target's accuracy over all images under attack (lower is a stronger attack); dotted: guessing. "
    "Markers: bounded attacks, run at each eps, with 95 % Wilson intervals; the lines are guides to the eye. "
    "Steps: minimum-norm attacks, run once, a step for each image at the norm of its perturbation. Dashed: best of all "
    "attacks, each image at its smallest successful perturbation; it jumps at the eps of bounded attacks."
)


def curves(comparison: Comparison) -> dict[str, Plot]:
    """One figure per target, norm and aim: ASR(eps) on the left, accuracy under attack on the right."""
    style = styles(comparison)
    return {f"curves/{group.name}": _plot(group, style, len(comparison.classes)) for group in plot_groups(comparison)}


def _plot(group: PlotGroup, style: dict[str, Style], classes: int) -> Plot:
    figure = new_figure(11.5, max(4.6, 1 + 0.19 * len(group.attacks)))  # room for the legend
    asr, accuracy = figure.subplots(1, 2)
    largest = group.eps[-1] * (1.08 if len(group.eps) > 1 else 1.5)
    for results in group.attacks.values():
        for axes, quantity in ((asr, "asr"), (accuracy, "robust_accuracy")):
            if results[0].row["protocol"] == "bounded":
                _bounded(axes, results, quantity, style)
            else:
                _stairs(axes, results[-1], quantity, style, largest)
    if len(group.attacks) > 1:
        _best(asr, accuracy, group, largest)
    accuracy.axhline(1 / classes, color="#888888", linestyle=":", linewidth=1)
    for axes, text in (
        (asr, f"ASR, of {group.n_attacked} attacked images"),
        (accuracy, f"accuracy, of {group.n} images"),
    ):
        clean_axes(axes, text).set(xlim=(0, largest), ylim=(-0.02, 1.03), xlabel=f"eps ({AXIS[group.norm]})")
        axes.yaxis.set_major_formatter(percent)
    figure.legend(*asr.get_legend_handles_labels(), loc="outside right center", fontsize=8.5, frameon=False)
    return to_plot(figure, f"{group.title}: attack success and robust accuracy against eps", CAPTION)


def _best(asr: Axes, accuracy: Axes, group: PlotGroup, largest: float) -> None:
    """The best of all attacks, image by image, in both panels."""
    records = next(iter(group.attacks.values()))[0].records
    was_correct, smallest = correct(records), group.smallest(adversarial_distance)
    look: dict[str, Any] = {"where": "post", "color": "black", "linestyle": "--", "linewidth": 1.2}
    asr.step(*_cumulative_rate(smallest[records["counts"]], largest), label="best of all, per image", **look)
    x, y = _cumulative_rate(group.smallest(error_distance).masked_fill(~was_correct, torch.inf), largest)
    accuracy.step(x, was_correct.double().mean().item() - y, **look)


def _bounded(axes: Axes, results: list[Result], quantity: str, style: dict[str, Style]) -> None:
    """Points at the eps that were run, with intervals; a line where there are several, from the value at eps 0."""
    rows = [result.row for result in results]
    eps, (color, marker, line) = [row["eps"] for row in rows], style[rows[0]["attack"]]
    y = [row[quantity] for row in rows]
    start, intervals = 0.0, [(row["asr_low"], row["asr_high"]) for row in rows]
    if quantity == "robust_accuracy":
        start, intervals = rows[0]["clean_accuracy"], [wilson(round(r[quantity] * r["n"]), r["n"]) for r in rows]
    low, high = zip(*intervals, strict=True)
    look: dict[str, Any] = {"marker": marker, "markersize": 6, "label": rows[0]["attack"]}
    if len(rows) > 1:
        axes.plot([0, eps[0]], [start, y[0]], color=color, linewidth=1.4, linestyle=line)
        axes.plot(eps, y, color=color, linewidth=1.4, linestyle=line, **look)
        faint = 0.8 / max(7, len(style))  # many bands lie on top of each other
        axes.fill_between([0, *eps], [start, *low], [start, *high], color=color, alpha=faint, linewidth=0)
    else:
        error = [np.subtract(y, low).clip(0), np.subtract(high, y).clip(0)]
        axes.errorbar(eps, y, error, color=color, linestyle="none", capsize=3, **look)


def _stairs(axes: Axes, result: Result, quantity: str, style: dict[str, Style], largest: float) -> None:
    """A minimum-norm attack: one step per image, at the norm of its perturbation."""
    row, records = result.row, result.records
    other = "" if row["attack_norm"] == row["norm"] else f" (minimises {row['attack_norm']})"
    size, turn = adversarial_distance(result), 1.0
    start = 0.0
    if quantity == "asr":
        size = size[records["counts"]]
    else:
        was_correct = correct(records)
        start, turn = was_correct.double().mean().item(), -1.0
        size = error_distance(result).masked_fill(~was_correct, torch.inf)
    x, y = _cumulative_rate(size, largest)
    look = {"color": style[row["attack"]].color, "linestyle": style[row["attack"]].line}
    axes.step(x, start + turn * y, where="post", linewidth=1.8, label=f"{row['attack']}{other}", **look)


def _cumulative_rate(sizes: Tensor, largest: float) -> tuple[np.ndarray, np.ndarray]:
    """The share of `sizes` (n,) that are at most x, as steps over 0 to `largest`; inf never counts."""
    x = np.sort(sizes[sizes <= largest].double().numpy())
    y = np.arange(1, len(x) + 1) / max(len(sizes), 1)
    return np.concatenate([[0], x, [largest]]), np.concatenate([[0], y, y[-1:] if len(y) else [0]])
