"""The plot of the frontier: success against time."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from advgan.core.threat_model import eps_text
from advgan.report.comparison import Plot
from advgan.report.figures import style

CAPTION = (
    "Attack success rate against time, in units of FGSM on the same batch (paired, median of the rounds; logarithmic). "
    "Vermilion stars: our entries; those that are the best of ours at some budget are large, numbered and joined. "
    "Curves: each family of baselines with a growing number of steps. Shaded green: budgets at which the best of our "
    "entries that fits is at or above the best baseline that fits; red: a baseline is stronger. "
    "Bars: 95 % Wilson intervals."
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
    families: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if not row["ours"]:
            families.setdefault(family(row["attack"]), []).append(row)
    for i, (name, points) in enumerate(families.items()):
        points = sorted(points, key=lambda row: row["time"])
        look = style.Style(style.COLOURS[i % len(style.COLOURS)], style.MARKERS[i % len(style.MARKERS)])
        _curve(axes, points, name, look)
    star = style.BY_ACCESS["generator"][0][0]
    entries = sorted((row for row in rows if row["ours"]), key=lambda row: row["time"])
    names = {part["ours"] for part in summary["parts"]}
    best, others = ([row for row in entries if (row["attack"] in names) == leads] for leads in (True, False))
    x, y = [row["time"] for row in others], [row["asr"] for row in others]
    axes.plot(x, y, color=star, marker="*", markersize=5, linestyle="", alpha=0.5)
    if best:
        _curve(axes, best, None, style.Style(star, "*"))
    for i, row in enumerate(best, start=1):
        place = (row["time"], row["asr"])
        axes.annotate(str(i), place, (-8, 6), textcoords="offset points", fontsize=8, color=star)
        axes.plot([], [], label=f"{i}  {row['attack']}", color=star, marker="*", markersize=10, linestyle="")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlim(min([low, *(row["time"] for row in rows)]) * 0.8, max([high, *(row["time"] for row in rows)]) * 1.25)
    highest = max([0.01, *(row["asr_high"] for row in rows)])
    style.clean_axes(axes).set(xlabel="time, in units of FGSM", ylabel="ASR", ylim=(-0.02 * highest, 1.06 * highest))
    axes.yaxis.set_major_formatter(style.percent)
    figure.legend(loc="outside right center", fontsize=9, frameon=False)
    label, eps = summary["targets"][0]["label"], eps_text(summary["eps"])
    return style.to_plot(figure, f"Success against time on {label}, {summary['norm']} eps {eps}", CAPTION)


def family(attack: str) -> str:
    """The curve of a baseline: its name without the number of steps."""
    name, *settings = attack.split(":")
    kept = [setting for setting in settings if not setting.startswith(("steps=", "queries="))]
    return ":".join([name, *kept])


def _curve(axes: Axes, points: Sequence[Mapping[str, Any]], label: str | None, look: style.Style) -> None:
    x, y = [row["time"] for row in points], [row["asr"] for row in points]
    below = [row["asr"] - row["asr_low"] for row in points]
    above = [row["asr_high"] - row["asr"] for row in points]
    size, drawn = (13, "steps-post") if look.marker == "*" else (6, "default")
    axes.errorbar(
        x,
        y,
        [below, above],
        label=label,
        color=look.color,
        marker=look.marker,
        markersize=size,
        elinewidth=0.8,
        drawstyle=drawn,
    )
