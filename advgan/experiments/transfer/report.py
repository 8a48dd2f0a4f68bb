"""Report of transferability: a matrix of sources and victims, and success of one step, many steps and noise."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from matplotlib.artist import Artist
from matplotlib.patches import Rectangle

from advgan.core.fraction import eps_text
from advgan.core.threat_model import toward_text
from advgan.report.comparison import Plot
from advgan.report.figures import style
from advgan.report.figures.plot_groups import safe
from advgan.report.page import ResultRow, Summary, Table, percent, with_interval
from advgan.report.study import Scalar, StudyReport

COLUMNS = (
    *("part", "attack", "source", "victim", "norm", "eps", "n_attacked", "asr", "asr_low", "asr_high"),
    *("n_both", "asr_both", "asr_both_low", "asr_both_high", "queries", "status"),
    *("generator", "steps", "trained_on_test", "time", "time_low", "time_high"),
)
# Columns after the victims', where any of the lines has a value: form and explanation.
LINE_COLUMNS = {
    "queries": ("{:,}", "Queries of the black box by the substitute."),
    "steps": ("{:,}", "Steps of a generator's training."),
    "time": ("{:.3g}", "Time over that of FGSM on the source (of noise: on the first target), on the same images."),
}
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


def report(summary: Summary) -> StudyReport:
    """matrix.png, curve.png (if there is a curve), transfer.json, .md and .csv.

    `summary` has "environment", "targets", "generators", "matrix" and "curve": rows as in results.json, with "source"
    (None for attacks without one), "victim", the "queries" that a substitute has spent on it (None: no substitute), and
    asr_both over the n_both images that source and victim classify correctly. Rows of generators have the "steps" of
    their training and whether it was on the test images, those of the matrix "time", in units of FGSM's on the source.
    """
    curves = {"curve.png": curve(summary["curve"])} if summary["curve"] else {}
    names = ", ".join(target["label"] for target in summary["targets"])
    return StudyReport(
        name="transfer",
        title=f"Transfer between {names} ({summary['targets'][0]['dataset']})",
        summary=summary,
        rows=[*summary["matrix"], *summary["curve"]],
        tables=tables(summary),
        figures={"matrix.png": matrix(summary["matrix"]), **curves},
        columns=COLUMNS,
        csv_rows=[{**row, "part": part} for part in ("matrix", "curve") for row in summary[part]],
        scalars=list(_scalars(summary)),
    )


# The matrix


def is_white_box(row: ResultRow) -> bool:
    """Whether the images were made on the victim, or by a generator that was trained on it, perhaps among others."""
    return row["source"] is not None and row["access"] != "transfer"


def matrix_attacks(rows: list[ResultRow]) -> list[str]:
    """The attacks of a matrix that are made on its sources, without generators and noise."""
    return list(dict.fromkeys(row["attack"] for row in rows if row["source"] and row["generator"] is None))


def matrix_cells(rows: list[ResultRow]) -> tuple[list[str], list[str], dict[tuple[str, str], ResultRow]]:
    """The matrix's lines and columns, and (line, column) -> row. A line is a source (of one attack), an attack and its
    source, a generator, or the noise."""
    first, several = rows[0]["attack"], len(matrix_attacks(rows)) > 1

    def line(row: ResultRow) -> str:
        if row["attack"] == first and not several:
            return str(row["source"])
        text = f"{row['attack']} for {row['source']}" if row["source"] else str(row["attack"])
        return f"{text}, trained on the test images" if row["trained_on_test"] else text

    cells = {(line(row), row["victim"]): row for row in rows}
    return list(dict.fromkeys(line for line, _ in cells)), list(dict.fromkeys(victim for _, victim in cells)), cells


def matrix(rows: list[ResultRow]) -> Plot:
    """The annotated heat map of transfer."""
    lines, victims, cells = matrix_cells(rows)
    values = np.array([[cells[line, victim]["asr"] for victim in victims] for line in lines], dtype=float)
    longest = max(map(len, lines))
    figure = style.new_figure(2.4 + 0.075 * longest + 1.35 * len(victims), 1.9 + 0.75 * len(lines))
    axes = figure.subplots()
    image = axes.imshow(np.ma.masked_invalid(values), cmap="cividis", vmin=0, vmax=1, aspect="auto")
    for (line, victim), row in cells.items():
        i, j = lines.index(line), victims.index(victim)
        text = "failed"
        if row["asr"] is not None:
            text = f"{100 * row['asr']:.1f}\n[{100 * row['asr_low']:.0f}, {100 * row['asr_high']:.0f}]"
        style.heat_map_cell(axes, (j, i), text, row["asr"], fontsize=10)
        if is_white_box(row):
            edge = style.BY_ACCESS["generator"][0][0]  # vermilion
            axes.add_patch(Rectangle((j - 0.48, i - 0.47), 0.96, 0.94, edgecolor=edge, linewidth=3, fill=False))
    axes.set_xticks(range(len(victims)), victims)
    axes.set_yticks(range(len(lines)), lines)
    axes.set(xlabel="victim", ylabel="source")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, format=style.percent, label="ASR")
    return style.to_plot(figure, f"Transfer of {_described(rows)}", MATRIX.format(attack=_attack(rows)))


def _attack(rows: list[ResultRow]) -> str:
    """The attack of a matrix, whose lines name it where there are several."""
    return "each attack" if len(matrix_attacks(rows)) > 1 else str(rows[0]["attack"])


def _described(rows: list[ResultRow]) -> str:
    """Attack, ball and aim of a matrix, for titles."""
    return f"{_attack(rows)}, {rows[0]['norm']} eps {eps_text(rows[0]['eps'])}{toward_text(rows[0])}"


def tables(summary: Summary) -> list[Table]:
    """The matrix over the victim's correct images, over the jointly correct ones, and the curves."""
    rows = summary["matrix"]
    lines, victims, cells = matrix_cells(rows)
    subsets = {"asr": "the victim classifies", "asr_both": "source and victim both classify"}
    result_tables = []
    for key, subset in subsets.items():
        title = f"ASR % over the images that {subset} correctly, source (rows) x victim (columns), {_described(rows)}"
        chosen_lines = [line for line in lines if key == "asr" or any(cells[line, v]["source"] for v in victims)]
        text_rows = [[line, *(_rate(cells[line, victim], key) for victim in victims)] for line in chosen_lines]
        note = f"With 95 % intervals; {key} in transfer.csv. * white box: made on the victim."
        headers = ["source", *victims]
        for header, (form, explanation) in LINE_COLUMNS.items():
            values = {line: row[header] for (line, _), row in cells.items() if row.get(header) is not None}
            if values:
                headers, note = [*headers, header], f"{note} {explanation}"
                for text_row in text_rows:
                    text_row.append(form.format(values[text_row[0]]) if text_row[0] in values else "-")
        result_tables.append(Table(title, headers, text_rows, note))
    return [*result_tables, *_curve_tables(summary["curve"])]


def _rate(row: ResultRow, key: str) -> str:
    """A rate in % with its interval; "–" without eligible images; marked where the victim is the source."""
    return with_interval(row, key) + (" *" if is_white_box(row) and row[key] is not None else "")


# The curves


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
    """Source and victim, or the number of pairs in the mean, as text: a mean is over the rows that have metrics."""
    sourced = [row for row in rows if row["source"]]
    distinct_pairs = list(dict.fromkeys((row["source"], row["victim"]) for row in sourced))
    source, victim = distinct_pairs[0]
    if len(distinct_pairs) > 1:
        n, noun = len(distinct_pairs), "classifiers" if source == victim else "pairs"
        measured = Counter((row["attack"], row["eps"]) for row in sourced if row["status"] == "ok")
        fewest = min(measured.values(), default=0)
        return f"mean of {n} {noun}" if fewest == n else f"mean of {n} {noun} less failed ones, at least {fewest}"
    return source if source == victim else f"{source} → {victim}"


def curve(rows: list[ResultRow]) -> Plot:
    """ASR against eps of each attack: on other classifiers and on its own, or on one victim from each source."""
    charts = panels(rows)
    styles = style.by_access({row["attack"]: row["access"] for row in rows})
    one_victim = len({row["victim"] for row in rows if row["source"]}) == 1
    figure = style.new_figure(1.5 + 5 * len(charts), 4.6)
    handles: dict[str, Artist] = {}
    for axes, (title, chosen) in zip(figure.subplots(1, len(charts), squeeze=False)[0], charts, strict=True):
        for attack, curve_points in points(chosen).items():
            eps, asr, low, high = zip(*((p.eps, p.asr, p.low, p.high) for p in curve_points), strict=True)
            handles[attack] = style.line_with_band(axes, eps, asr, (low, high), styles[attack], linewidth=1.6)
        style.percent_axis(axes, title if one_victim else f"{title} ({pairs(chosen)})", "ASR")
        axes.set_xlabel(f"eps ({style.AXIS[rows[0]['norm']]})")
        axes.set_xlim(left=0)
    style.legend(figure, list(handles.values()), list(handles))
    are_means = any("mean" in pairs(chosen) for _, chosen in charts)
    spread = (
        "Lines are means, bands reach from the lowest to the highest." if are_means else "Bands: 95 % Wilson intervals."
    )
    caption = CURVES.format(victim=rows[0]["victim"]) if one_victim else CURVE.format(spread=spread)
    title = f"One step, many steps and noise of the same size, {rows[0]['norm']}{toward_text(rows[0])}"
    return style.to_plot(figure, title, caption)


def _curve_tables(rows: list[ResultRow]) -> list[Table]:
    result_tables = []
    for title, chosen in panels(rows) if rows else ():
        curves, measured = points(chosen), {(row["attack"], row["eps"]) for row in chosen}
        eps_values = sorted({point.eps for curve_points in curves.values() for point in curve_points})
        text_rows = []
        for attack, curve_points in curves.items():
            at = {point.eps: point.asr for point in curve_points}
            texts = (percent(at.get(eps)) if not eps or (attack, eps) in measured else "-" for eps in eps_values)
            text_rows.append([attack, *texts])
        note = f"{chosen[0]['norm']}{toward_text(chosen[0])}, {pairs(chosen)}"
        headers = ["attack", *map(eps_text, eps_values)]
        result_tables.append(Table(f"ASR % against eps, {title}", headers, text_rows, note))
    return result_tables


def _scalars(summary: Summary) -> Iterator[Scalar]:
    """The matrix, and a run per attack for the curve; a step is 1000 eps, because it is a whole number."""
    for row in summary["matrix"]:
        if row["asr"] is not None:
            name = safe(f"{row['attack']} {row['source'] or ''}")
            yield Scalar("", f"matrix, {name}/{safe(row['victim'])}", row["asr"])
    for title, rows in panels(summary["curve"]) if summary["curve"] else ():
        for attack, curve_points in points(rows).items():
            for point in curve_points:
                run, step = safe(f"{attack} {title}"), round(1000 * point.eps)
                yield Scalar(run, "asr (step: 1000 eps)", point.asr, step)
