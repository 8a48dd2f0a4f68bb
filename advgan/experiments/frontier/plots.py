"""Figures of the amortisation gap: one pass against eps, and success against gradient evaluations."""

from collections.abc import Sequence

from matplotlib.axes import Axes

from advgan.core.threat_model import eps_text
from advgan.report.comparison import Plot
from advgan.report.figures import style
from advgan.report.page import ResultRow, ends

GAP = (
    "One pass of each generator (vermilion), FGSM, I-FGSM and PGD-40, the union of four runs. Left the success "
    "itself, with 95 % Wilson intervals, right relative to PGD-40's, with 95 % paired bootstrap intervals: the "
    "difference to 100 % is the amortisation gap."
)
CURVES = (
    "How many gradients of the target an attack needs, for each image at most. The warm start begins with one pass of "
    "the generator (star), which takes none; the iterations of an unrolled network count as one each, a forward and a "
    "backward pass, and its own curve is one pass of so many. PGD and APGD have no start. Each curve: the best of its "
    "choices of loss, start and step at each point; small dots are the others. Bands: 95 % Wilson intervals. Black: "
    "success of PGD-40, the union of four runs, and dashed 90, 95 and 99 % of it. Where the warm start's curve reaches "
    "a line with at most half of PGD's gradients, it pays."
)
FAMILIES = {
    "unrolled": style.COLOURS[5],
    "warm start": style.BY_ACCESS["generator"][0][0],
    "PGD": style.COLOURS[0],
    "APGD": style.COLOURS[2],
}


def gap(rows: Sequence[ResultRow], generators: Sequence[str]) -> Plot:
    """ASR of each attack against eps, and its ratio to that of PGD-40."""
    figure = style.new_figure(11.5, 4.6)
    baselines = [name for name in dict.fromkeys(row["attack"] for row in rows) if name not in generators]
    looks = {name: style.Style(style.COLOURS[i], style.MARKERS[i], "-") for i, name in enumerate(baselines)}
    for i, name in enumerate(generators):
        marker, line = ("*", *style.MARKERS)[i % 11], ("-", "--", ":", "-.")[i % 4]
        looks[name] = style.Style(style.BY_ACCESS["generator"][0][0], marker, line)
    for axes, key, label in zip(figure.subplots(1, 2), ("asr", "ratio"), ("ASR", "share of PGD-40's ASR"), strict=True):
        for name, look in looks.items():
            _line(axes, [row for row in rows if row["attack"] == name and row[key] is not None], name, key, look)
        style.clean_axes(axes, label).set(ylim=(-0.02, 1.03), xlabel=f"eps ({style.AXIS[rows[0]['norm']]})")
        axes.yaxis.set_major_formatter(style.percent)
        axes.set_xlim(left=0)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", fontsize=9, frameon=False)
    return style.to_plot(figure, f"One pass and 40 steps of PGD, {rows[0]['norm']}", GAP)


def _line(axes: Axes, points: Sequence[ResultRow], name: str, key: str, look: style.Style) -> None:
    color, marker, line = look
    eps, size = [row["eps"] for row in points], 10 if marker == "*" else 6
    values = [row[key] for row in points]
    axes.plot(eps, values, color=color, marker=marker, markersize=size, linestyle=line, label=name)
    low, high = ([row[key] if row[end] is None else row[end] for row in points] for end in ends(key))
    axes.fill_between(eps, low, high, color=color, alpha=0.13, linewidth=0)


def warm_start(points: Sequence[ResultRow], reference: float) -> Plot:
    """Success against gradient evaluations at one eps; `reference` is the success of PGD-40."""
    figure = style.new_figure(8.6, 5.0)
    axes = figure.subplots()
    for fraction, dashes in ((1.0, "-"), (0.99, "--"), (0.95, "--"), (0.9, "--")):
        label = "PGD-40, union of four" if fraction == 1 else None
        width = 1.2 if fraction == 1 else 0.6
        axes.axhline(fraction * reference, color="black", linewidth=width, linestyle=dashes, label=label)
    for (family, colour), marker in zip(FAMILIES.items(), ("D", "s", "o", "^"), strict=True):
        family_points = [row for row in points if row["family"] == family and row["asr"] is not None]
        if not family_points:
            continue
        x, y = [row["evaluations"] for row in family_points], [row["asr"] for row in family_points]
        name = f"{family}: {family_points[0]['choice']}" if family == "warm start" else family
        axes.plot(x, y, color=colour, marker=marker, linewidth=1.8, label=name)
        axes.fill_between(
            *(x, [row["asr_low"] for row in family_points], [row["asr_high"] for row in family_points]),
            color=colour,
            alpha=0.12,
            linewidth=0,
        )
        choices = [
            (row["evaluations"], asr) for row in family_points for asr in row["choices"].values() if asr is not None
        ]
        axes.plot(*zip(*choices, strict=True), color=colour, marker=".", markersize=4, linestyle="none")
        if family == "warm start":
            axes.plot(x[:1], y[:1], color=colour, marker="*", markersize=15, linestyle="none", label="one pass")
    ticks = spaced_ticks(sorted({row["evaluations"] for row in points}))
    axes.set_xscale("symlog", linthresh=1, linscale=0.5)
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    style.clean_axes(axes).set(xlabel="gradient evaluations of the target, for each image", ylabel="ASR")
    highest = max(reference, 0.01, *(row["asr_high"] or 0 for row in points))
    last = max(row["evaluations"] for row in points)
    axes.set(ylim=(-0.02 * highest, min(1.1 * highest, 1.03)), xlim=(-0.15, last * 1.15))
    axes.yaxis.set_major_formatter(style.percent)
    axes.legend(loc="lower right", fontsize=9, frameon=False)
    first = points[0]
    return style.to_plot(
        figure, f"Warm start, {first['norm']} eps {eps_text(first['eps'])}, {first['n']} images", CURVES
    )


def spaced_ticks(ticks: Sequence[int]) -> list[int]:
    """Those of the rising numbers that stand far enough from the one before for labels on a logarithmic axis."""
    spaced: list[int] = []
    for tick in ticks:
        if not spaced or tick >= 1.16 * spaced[-1]:
            spaced.append(tick)
    return spaced
