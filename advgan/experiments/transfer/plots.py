"""Figures of transferability: a matrix of sources and victims, and success of one step, many steps and noise."""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from advgan.core.threat_model import eps_text, toward_text
from advgan.report.comparison import Plot
from advgan.report.figures import style
from advgan.report.page import ResultRow

MATRIX = (
    "ASR % of {attack}, with 95 % Wilson intervals: source in the row, victim in the column, over the images that the "
    "victim classifies correctly. Framed: made on the victim (white box). The last row is noise of the "
    "same size, the baseline."
)
CURVE = (
    "Left: source and victim differ; right: source and victim are the same. Grey: noise of the same size. {spread} "
    "Kurakin et al. (2017) found on ImageNet that one step (FGSM) transfers better than many (I-FGSM), which overfit "
    "to the source. The gap between the panels is the loss by transfer."
)
CURVES = (
    "Victim: {victim}; a panel for each source, the victim itself first (white box). Grey: noise of the same size. "
    "Bands: 95 % Wilson intervals. Where one step loses less by transfer from a substitute than many steps, the many "
    "steps overfit to the substitute (Kurakin et al. 2017); where many steps remain better, the substitute "
    "approximates the victim well."
)


@dataclass(frozen=True)
class Point:
    """ASR at one eps: the mean over pairs, and the lowest and highest of them; of a single pair its Wilson interval."""

    eps: float
    asr: float
    low: float
    high: float


def points(rows: Iterable[ResultRow]) -> dict[str, list[Point]]:
    """Attack -> its curve from eps 0 on, over all of the `rows` that have metrics."""
    by_attack: dict[str, dict[float, list[ResultRow]]] = {}
    for row in rows:
        if row["status"] == "ok":
            by_attack.setdefault(row["attack"], {}).setdefault(row["eps"], []).append(row)
    return {
        attack: [Point(0.0, 0.0, 0.0, 0.0), *(_point(eps, by_eps[eps]) for eps in sorted(by_eps))]
        for attack, by_eps in by_attack.items()
    }


def _point(eps: float, rows: list[ResultRow]) -> Point:
    rates = [row["asr"] for row in rows]
    low, high = (rows[0]["asr_low"], rows[0]["asr_high"]) if len(rows) == 1 else (min(rates), max(rates))
    return Point(eps, fmean(rates), low, high)


def panels(rows: list[ResultRow]) -> list[tuple[str, list[ResultRow]]]:
    """The curves' rows, panel by panel, each with its noise.

    Attacks on another classifier, and on their own source; of a single victim: from each source.
    """
    sourced = [row for row in rows if row["source"]]
    if len({row["victim"] for row in sourced}) == 1:
        noise = [row for row in rows if not row["source"]]
        by_source = {
            _source_text(row): [*noise, *(other for other in sourced if other["source"] == row["source"])]
            for row in sourced
        }
        return list(by_source.items())
    charts = []
    for title, white_box in (("on another classifier", False), ("on its own source", True)):
        attacked = [row for row in sourced if (row["source"] == row["victim"]) == white_box]
        victims = {row["victim"] for row in attacked}
        noise = [row for row in rows if not row["source"] and row["victim"] in victims]
        charts.append((title, [*noise, *attacked]))
    return charts


def _source_text(row: ResultRow) -> str:
    """The source of a row, and its number of queries."""
    if row["source"] == row["victim"]:
        return f"source {row['source']}, white box"
    return f"source {row['source']}" + ("" if row["queries"] is None else f", {row['queries']:,} queries")


def pairs(rows: list[ResultRow]) -> str:
    """Source and victim, or the number of pairs in the mean, as text."""
    distinct_pairs = list(dict.fromkeys((row["source"], row["victim"]) for row in rows if row["source"]))
    source, victim = distinct_pairs[0]
    if len(distinct_pairs) > 1:
        return f"mean of {len(distinct_pairs)} {'classifiers' if source == victim else 'pairs'}"
    return source if source == victim else f"{source} → {victim}"


def is_white_box(row: ResultRow) -> bool:
    """Whether the images were made on the victim, or by a generator that was trained on it, perhaps among others."""
    return row["source"] is not None and row["access"] != "transfer"


def matrix_attacks(rows: list[ResultRow]) -> list[str]:
    """The attacks of a matrix that are made on its sources, without generators and noise."""
    return list(dict.fromkeys(row["attack"] for row in rows if row["source"] and row["generator"] is None))


def matrix_cells(rows: list[ResultRow]) -> tuple[list[str], dict[tuple[str, str], ResultRow]]:
    """The matrix's columns, and (line, column) -> row. A line is a source (of one attack), an attack and its source, a
    generator, or the noise."""
    first, several = rows[0]["attack"], len(matrix_attacks(rows)) > 1

    def line(row: ResultRow) -> str:
        if row["attack"] == first and not several:
            return str(row["source"])
        text = f"{row['attack']} for {row['source']}" if row["source"] else str(row["attack"])
        return f"{text}, trained on the test images" if row["trained_on_test"] else text

    return list(dict.fromkeys(row["victim"] for row in rows)), {(line(row), row["victim"]): row for row in rows}


def matrix(rows: list[ResultRow]) -> Plot:
    """The annotated heat map of transfer."""
    victims, by_line = matrix_cells(rows)
    lines = list(dict.fromkeys(line for line, _ in by_line))
    values = np.array([[by_line[line, victim]["asr"] for victim in victims] for line in lines], dtype=float)
    longest = max(map(len, lines))
    figure = style.new_figure(2.4 + 0.075 * longest + 1.35 * len(victims), 1.9 + 0.75 * len(lines))
    axes = figure.subplots()
    image = axes.imshow(np.ma.masked_invalid(values), cmap="cividis", vmin=0, vmax=1, aspect="auto")
    for i, line in enumerate(lines):
        for j, victim in enumerate(victims):
            row = by_line[line, victim]
            text = "failed"
            if row["asr"] is not None:
                text = f"{100 * row['asr']:.1f}\n[{100 * row['asr_low']:.0f}, {100 * row['asr_high']:.0f}]"
            color = "black" if row["asr"] is None or row["asr"] > 0.55 else "white"
            axes.text(j, i, text, ha="center", va="center", color=color, fontsize=10)
            if is_white_box(row):
                edge = style.BY_ACCESS["generator"][0][0]  # vermilion
                axes.add_patch(Rectangle((j - 0.48, i - 0.47), 0.96, 0.94, edgecolor=edge, linewidth=3, fill=False))
    axes.set_xticks(range(len(victims)), victims)
    axes.set_yticks(range(len(lines)), lines)
    axes.set(xlabel="victim", ylabel="source")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, format=style.percent, label="ASR")
    several, first = len(matrix_attacks(rows)) > 1, rows[0]
    attack = "each attack" if several else first["attack"]
    title = f"Transfer of {attack}, {first['norm']} eps {eps_text(first['eps'])}{toward_text(first)}"
    return style.to_plot(figure, title, MATRIX.format(attack=attack))


def curve(rows: list[ResultRow]) -> Plot:
    """ASR against eps of each attack: on other classifiers and on its own, or on one victim from each source."""
    charts = panels(rows)
    styles = style.by_access({row["attack"]: row["access"] for row in rows})
    one_victim = len({row["victim"] for row in rows if row["source"]}) == 1
    figure = style.new_figure(1.5 + 5 * len(charts), 4.6)
    handles: dict[str, Artist] = {}
    for axes, (title, chosen) in zip(figure.subplots(1, len(charts), squeeze=False)[0], charts, strict=True):
        for attack, curve_points in points(chosen).items():
            handles[attack] = _draw(axes, attack, curve_points, styles[attack])
        style.clean_axes(axes, title if one_victim else f"{title} ({pairs(chosen)})").set(
            ylim=(-0.02, 1.03), ylabel="ASR"
        )
        axes.set_xlabel(f"eps ({style.AXIS[rows[0]['norm']]})")
        axes.set_xlim(left=0)
        axes.yaxis.set_major_formatter(style.percent)
    figure.legend(list(handles.values()), list(handles), loc="outside right center", fontsize=9, frameon=False)
    are_means = any("mean" in pairs(chosen) for _, chosen in charts)
    spread = (
        "Lines are means, bands reach from the lowest to the highest." if are_means else "Bands: 95 % Wilson intervals."
    )
    caption = CURVES.format(victim=rows[0]["victim"]) if one_victim else CURVE.format(spread=spread)
    title = f"One step, many steps and noise of the same size, {rows[0]['norm']}{toward_text(rows[0])}"
    return style.to_plot(figure, title, caption)


def _draw(axes: Axes, label: str, curve_points: list[Point], line_style_of: style.Style) -> Artist:
    eps, (color, marker, line_style) = [point.eps for point in curve_points], line_style_of
    asr, style_settings = (
        [point.asr for point in curve_points],
        {"color": color, "marker": marker, "linestyle": line_style},
    )
    (line,) = axes.plot(eps, asr, linewidth=1.6, label=label, **style_settings)
    low, high = [point.low for point in curve_points], [point.high for point in curve_points]
    axes.fill_between(eps, low, high, color=color, alpha=0.13, linewidth=0)
    return line
