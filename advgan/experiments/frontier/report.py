"""Report of the frontier: success against time, one pass and PGD-40, warm starts, class-conditional generators."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from statistics import fmean

from matplotlib.axes import Axes

from advgan.core.fraction import eps_text
from advgan.experiments.frontier import budget_report
from advgan.experiments.frontier.analysis import BASELINES, METHODS
from advgan.report import cells
from advgan.report.comparison import Plot
from advgan.report.escaping import code, in_markdown
from advgan.report.figures import style
from advgan.report.figures.plot_groups import safe
from advgan.report.page import Cell, ResultRow, Summary, Table, ends, percent
from advgan.report.study import Scalar, StudyReport, eps_scalars

COLUMNS = (
    *("part", "eps", "norm", "attack", "family", "choice", "evaluations", "gradients", "y_target", "n"),
    *("asr", "asr_low", "asr_high", "ratio", "ratio_low", "ratio_high", "only_here", "only_reference"),
    *("ours", "time", "time_low", "time_high"),
)
ONE_PASS = (
    "Of the images that the target classifies correctly. PGD-40: the union of four runs (both losses, from the image "
    "and from random in the ball, steps of eps / 10), each stopping at its first success. Gradients: of the target for "
    "each image, at most; of an unrolled network its iterations, each a forward and a backward pass. Of PGD-40: the "
    "rate over PGD-40's, with its 95 % paired bootstrap interval. Only here: successes of this attack and not of "
    "PGD-40."
)
CURVES = (
    "Each line the best of its choices at each point, on these images: of the warm start loss and step, of PGD loss, "
    "start and step, of APGD the loss; the warm start is that of the generator with the most successes in one pass. "
    "All keep the first success: the logits come with each gradient. One pass counts as 0: it takes no gradient of the "
    "target, though a guided generator takes a forward of its own copy; that of an unrolled network counts as its "
    "iterations, each a forward and a backward pass, and its own curve is one pass of so many iterations. APGD's last "
    "gradient, which moves nothing, is not counted."
)
REACH = (
    "Largest number of gradient evaluations for an image, interpolated between the measured points. –: not reached. Of "
    "PGD's: relative to PGD's; at most 50 % pays."
)
TARGETED = (
    "Targeted attacks on each correctly classified image of another class by one pass of the conditional generator. On "
    "the first few: the same, the union of four targeted PGD-40, and the ratio."
)
DIVERSITY = (
    "Draws: different z for one image, in one batch; a success is one of any draw. Distance: mean l2 "
    "distance of two draws, over that of two independent sign noises of this eps on the same images: 0 is one attack "
    "many times. Classes: number of different predictions for the draws of an image."
)
GAP = (
    "One pass of each generator (vermilion), FGSM, I-FGSM and PGD-40, the union of four runs. Left the success "
    "itself, with 95 % Wilson intervals, right relative to PGD-40's, with 95 % paired bootstrap intervals: the "
    "difference to 100 % is the amortisation gap."
)
WARM_START = (
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


def report(summary: Summary) -> StudyReport:
    """frontier-eps-*.png, gap.png, warm-start/, frontier.json, .md and .csv.

    `summary` has "environment", "targets", "generators", "rows" (as in results.json), and lists: "frontiers", "table",
    "curves", "reach", "findings", "targeted" and "diversity".
    """
    budgets, lines = budget_report.report(summary), findings(summary)
    generators = [
        f"- {in_markdown(entry['name'])}: generator {code(entry['path'])} of {entry['parameters']} parameters, "
        f"{entry['norm']} eps {eps_text(entry['eps'])} (sha256 {entry['sha256'][:12]})" + _cost(entry)
        for entry in summary["generators"]
    ]
    choices = ["The choices that the curves show:", "", *_choices(summary["curves"]), ""]
    return replace(
        budgets,
        title=f"{budgets.title} ({summary['targets'][0]['dataset']})",
        rows=summary["rows"],
        tables=[*budgets.tables, *tables(summary)],
        figures={**budgets.figures, **draw(summary)},
        folders=["warm-start"],
        columns=COLUMNS,
        csv_rows=[
            *({**row, "part": "frontier"} for row in budgets.csv_rows),
            *({**row, "part": part} for part in ("table", "curves", "targeted") for row in summary[part]),
        ],
        scalars=[*budgets.scalars, *_scalars(summary)],
        intro=[*generators, "", *(f"- {line}" for line in lines)],
        notes=choices if summary["curves"] else [],
        printed_notes=lines,
    )


def draw(summary: Summary) -> dict[str, Plot]:
    """File name -> figure: the gap against eps, and the curves at each eps."""
    plots = {"gap.png": gap(summary["table"], [entry["name"] for entry in summary["generators"]])}
    for eps in dict.fromkeys(row["eps"] for row in summary["curves"]):
        points = [row for row in summary["curves"] if row["eps"] == eps]
        level = next(row["level"] / row["share"] for row in summary["reach"] if row["eps"] == eps)
        plots[f"warm-start/eps-{safe(eps_text(eps))}.png"] = warm_start(points, level)
    return plots


def tables(summary: Summary) -> list[Table]:
    """One pass at each eps; curves; evaluations to reach; and, where there are any, targeted attacks and draws."""
    norm, target = summary["table"][0]["norm"], summary["targets"][0]["label"]
    names = {entry["name"] for entry in summary["generators"]}
    columns = {
        "attack": lambda row: f"one pass: {row['attack']}" if row["attack"] in names else row["attack"],
        "eps": _eps,
        "gradients": cells.field("gradients"),
        "ASR % (95 %)": cells.interval("asr", missing="–"),
        "of PGD-40 % (95 %)": cells.interval("ratio", missing="–"),
        "n": cells.number("n"),
        "only here": cells.number("only_here"),
        "only PGD-40": cells.number("only_reference"),
    }
    result_tables = [Table.of(f"One pass and PGD-40 on {target}, {norm}", summary["table"], columns, ONE_PASS)]
    if summary["curves"]:
        result_tables += [_curves(summary["curves"]), _evaluations(summary["reach"])]
    return result_tables + _targeted(summary) + _diversity(summary)


def _eps(row: ResultRow) -> str:
    return eps_text(row["eps"])


def _curves(points: Sequence[ResultRow]) -> Table:
    asr_at = {(row["family"], row["eps"], row["evaluations"]): row["asr"] for row in points}
    families = [name for name in METHODS + BASELINES if any(family == name for family, _, _ in asr_at)]
    rows = [
        [
            *(f"{eps_text(eps)}", str(k)),
            *(percent(asr_at[family, eps, k]) if (family, eps, k) in asr_at else "–" for family in families),
        ]
        for eps in dict.fromkeys(eps for _, eps, _ in asr_at)
        for k in sorted({k for _, row_eps, k in asr_at if row_eps == eps})
    ]
    headers = ["eps", "gradients", *families]
    return Table(
        f"ASR % against gradient evaluations, {points[0]['norm']}, {points[0]['n']} images", headers, rows, CURVES
    )


def _evaluations(rows: Sequence[ResultRow]) -> Table:
    methods = [name for name in METHODS if any(row[name] is not None for row in rows)] or ["warm start"]
    ratios = {f"{method} of {name}'s": f"{method} of {name}" for method in methods for name in BASELINES}
    columns = {
        "of PGD-40's success": lambda row: f"{row['share']:.0%}",
        "eps": _eps,
        "ASR %": cells.percent("level"),
        **{name: cells.number(name, ".1f") for name in (*methods, *BASELINES)},
        **{header: cells.number(key, ".1%") for header, key in ratios.items()},
    }
    return Table.of("Gradient evaluations to a fraction of PGD-40's success", rows, columns, REACH)


def findings(summary: Summary) -> list[str]:
    """Findings from the curves, a line for each eps."""
    return [f"eps {eps_text(entry['eps'])}: the {entry['family']} {entry['finding']}" for entry in summary["findings"]]


def _targeted(summary: Summary) -> list[Table]:
    rates = {"ASR %": "asr", "on the first few": "few_asr", "PGD-40 there": "few_pgd", "of PGD-40 %": "ratio"}
    columns = {
        "toward": cells.field("y_target"),
        "n": lambda row: str(row["n"] or 0),
        "n of the first few": lambda row: str(row["few_n"] or 0),
        **{header: cells.percent(key, "failed") for header, key in rates.items()},
    }
    targeted_tables = []
    for name, eps in dict.fromkeys((row["attack"], row["eps"]) for row in summary["targeted"]):
        rows = [row for row in summary["targeted"] if (row["attack"], row["eps"]) == (name, eps)]
        table = Table.of(f"Targeted: {name}, {rows[0]['norm']} eps {eps_text(eps)}", rows, columns, TARGETED)
        means = [[row[key] for row in rows if row[key] is not None] for key in rates.values()]
        table.rows.append(["mean", "", "", *(percent(fmean(values)) if values else "–" for values in means)])
        targeted_tables.append(table)
    return targeted_tables


def _diversity(summary: Summary) -> list[Table]:
    rows = [row for row in summary["diversity"] if "union" in row]
    if not rows:
        return []
    columns = {
        "generator, eps": lambda row: f"{row['attack']}, {_eps(row)}",
        "n": cells.field("n"),
        **{f"ASR % of {k}": _union_of(k) for k in rows[0]["union"]},
        "distance": cells.number("distance", ".3f"),
        "classes": cells.number("classes", ".2f"),
    }
    return [Table.of(f"Diversity: {rows[0]['draws']} draws for each image", rows, columns, DIVERSITY)]


def _union_of(draws: str) -> Cell:
    return lambda row: percent(row["union"][draws][0])


def _cost(generator: ResultRow) -> str:
    """Cost of a pass in evaluations of the classifier inside a generator, as text."""
    if iterations := generator.get("iterations"):
        return f", unrolled, {iterations} iterations: each is a forward and a backward pass of the classifier inside it"
    return ", guided: a pass takes one forward of the classifier inside it" if generator["guided"] else ""


def _choices(points: Sequence[ResultRow]) -> list[str]:
    """Choices of each curve by number of evaluations, a line of Markdown for each curve."""
    by_curve: dict[tuple[float, str], dict[str, list[str]]] = {}
    for row in points:
        if row["evaluations"] or row["family"] == "warm start":
            choice = re.sub(r":(steps=\d+|stop_on_success=true)(?=:|$)", "", row["choice"])
            by_curve.setdefault((row["eps"], row["family"]), {}).setdefault(choice, []).append(str(row["evaluations"]))
    return [
        f"- eps {eps_text(eps)}, {family}: "
        + "; ".join(f"`{choice}` at {', '.join(evaluations)}" for choice, evaluations in choices.items())
        for (eps, family), choices in by_curve.items()
    ]


def _scalars(summary: Summary) -> Iterator[Scalar]:
    """A run per attack and curve; a step is 1000 eps, or a gradient evaluation."""
    yield from eps_scalars(summary["table"], {"asr": "asr", "of PGD-40": "ratio"})
    for row in sorted(summary["curves"], key=lambda row: str(row["family"])):
        if row["asr"] is not None:
            tag = f"asr at eps {eps_text(row['eps'])} (step: gradient evaluations)"
            yield Scalar(safe(row["family"]), tag, row["asr"], row["evaluations"])


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
        style.percent_axis(axes, label).set(xlabel=f"eps ({style.AXIS[rows[0]['norm']]})")
        axes.set_xlim(left=0)
    style.legend(figure, *axes.get_legend_handles_labels())
    return style.to_plot(figure, f"One pass and 40 steps of PGD, {rows[0]['norm']}", GAP)


def _line(axes: Axes, points: Sequence[ResultRow], name: str, key: str, look: style.Style) -> None:
    eps, values = [row["eps"] for row in points], [row[key] for row in points]
    intervals = [[row[key] if row[end] is None else row[end] for row in points] for end in ends(key)]
    size = 10 if look.marker == "*" else 6
    style.line_with_band(axes, eps, values, (intervals[0], intervals[1]), look, markersize=size, label=name)


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
        interval = [row["asr_low"] for row in family_points], [row["asr_high"] for row in family_points]
        style.line_with_band(axes, x, y, interval, style.Style(colour, marker), linewidth=1.8, label=name)
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
    style.percent_axis(axes, label="ASR").set_xlabel("gradient evaluations of the target, for each image")
    highest = max(reference, 0.01, *(row["asr_high"] or 0 for row in points))
    last = max(row["evaluations"] for row in points)
    axes.set(ylim=(-0.02 * highest, min(1.1 * highest, 1.03)), xlim=(-0.15, last * 1.15))
    axes.legend(loc="lower right", fontsize=9, frameon=False)
    first = points[0]
    title = f"Warm start, {first['norm']} eps {eps_text(first['eps'])}, {first['n']} images"
    return style.to_plot(figure, title, WARM_START)


def spaced_ticks(ticks: Sequence[int]) -> list[int]:
    """Those of the rising numbers that stand far enough from the one before for labels on a logarithmic axis."""
    spaced: list[int] = []
    for tick in ticks:
        if not spaced or tick >= 1.16 * spaced[-1]:
            spaced.append(tick)
    return spaced
