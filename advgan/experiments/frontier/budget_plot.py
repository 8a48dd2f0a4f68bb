"""The plot of the frontier: success against time."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from advgan.core.threat_model import eps_text
from advgan.report.comparison import Plot
from advgan.report.figures import style

CAPTION = (
    "Attack success rate against time, in units of FGSM on the same batch (paired, median of the rounds; logarithmic). "
    "Vermilion stars: our entries, joined where only their number of steps or iterations differs. Curves: each family "
    "of baselines with a growing number of steps. Shaded green: budgets at which the best of our entries that fits is "
    "at or above the best baseline that fits; red: a baseline is stronger. Bars: 95 % Wilson intervals."
)
LEAD, BEHIND = "#009E73", "#D55E00"


def frontier_plot(summary: Mapping[str, Any]) -> Plot:
    """One classifier at one eps; `summary` as in frontier.json."""
    figure = style.new_figure(9.4, 5.4)
    axes = figure.subplots()
    rows = [row for row in summary["rows"] if row["time"] is not None and row["asr"] is not None]
    low, high = summary["budgets"]
    for part in summary["parts"]:
        axes.axvspan(part["low"], part["high"], color=LEAD if part["leads"] else BEHIND, alpha=0.08, linewidth=0)
    families = grouped([row for row in rows if not row["ours"]], family)
    for i, (name, points) in enumerate(families.items()):
        points = sorted(points, key=lambda row: row["time"])
        look = style.Style(style.COLOURS[i % len(style.COLOURS)], style.MARKERS[i % len(style.MARKERS)])
        _curve(axes, points, name, look)
    star = style.BY_ACCESS["generator"][0][0]
    entries = grouped(sorted((row for row in rows if row["ours"]), key=lambda row: row["time"]), entry)
    for i, (name, points) in enumerate(entries.items()):
        _curve(axes, points, None, style.Style(star, "*"))
        axes.annotate(
            name,
            (points[0]["time"], points[0]["asr"]),
            (6, -13 if i % 2 else 5),
            textcoords="offset points",
            fontsize=8,
            color=star,
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlim(min([low, *(row["time"] for row in rows)]) * 0.8, max([high, *(row["time"] for row in rows)]) * 1.25)
    highest = max([0.01, *(row["asr_high"] for row in rows)])
    style.clean_axes(axes).set(xlabel="time, in units of FGSM", ylabel="ASR", ylim=(-0.02 * highest, 1.06 * highest))
    axes.yaxis.set_major_formatter(style.percent)
    figure.legend(loc="outside right center", fontsize=9, frameon=False)
    label, eps = summary["targets"][0]["label"], eps_text(summary["eps"])
    return style.to_plot(figure, f"Success against time on {label}, {summary['norm']} eps {eps}", CAPTION)


def grouped(rows: Sequence[Mapping[str, Any]], curve_of: Callable[[str], str]) -> dict[str, list[Mapping[str, Any]]]:
    """The rows of each curve by its name, in their order."""
    curves: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        curves.setdefault(curve_of(row["attack"]), []).append(row)
    return curves


def family(attack: str) -> str:
    """The curve of a baseline: its name without the number of steps."""
    name, *settings = attack.split(":")
    kept = [setting for setting in settings if not setting.startswith(("steps=", "queries="))]
    return ":".join([name, *kept])


def entry(attack: str) -> str:
    """The curve of an entry of ours: its name without the number of steps or iterations."""
    return re.sub(r", (then )?\d+ (step|iteration)s?$", lambda match: ", then steps" if match[1] else "", attack)


def _curve(axes: Axes, points: Sequence[Mapping[str, Any]], label: str | None, look: style.Style) -> None:
    x, y = [row["time"] for row in points], [row["asr"] for row in points]
    below = [row["asr"] - row["asr_low"] for row in points]
    above = [row["asr_high"] - row["asr"] for row in points]
    size = 15 if look.marker == "*" else 6
    axes.errorbar(
        x, y, [below, above], label=label, color=look.color, marker=look.marker, markersize=size, elinewidth=0.8
    )
