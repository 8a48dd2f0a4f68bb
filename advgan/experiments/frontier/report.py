"""Report of the frontier: success against time, one pass and PGD-40, warm starts, class-conditional generators."""

import re
from collections.abc import Iterator, Sequence
from statistics import fmean

from advgan.core.threat_model import eps_text
from advgan.experiments.frontier.analysis import BASELINES, METHODS
from advgan.experiments.frontier.budget_report import budget_plots, budget_scalars, flat_rows
from advgan.experiments.frontier.budget_report import tables as budget_tables
from advgan.experiments.frontier.plots import gap, warm_start
from advgan.report.comparison import Plot
from advgan.report.escaping import code, in_markdown
from advgan.report.figures.plot_groups import safe
from advgan.report.page import ResultRow, Summary, Table, number, percent, with_interval
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


def report(summary: Summary) -> StudyReport:
    """frontier-eps-*.png, gap.png, warm-start/, frontier.json, .md and .csv.

    `summary` has "environment", "targets", "generators", "rows" (as in results.json), and lists: "frontiers", "table",
    "curves", "reach", "findings", "targeted" and "diversity".
    """
    target, lines = summary["targets"][0], findings(summary)
    frontiers = [{**frontier, "targets": summary["targets"]} for frontier in summary["frontiers"]]
    generators = [
        f"- {in_markdown(entry['name'])}: generator {code(entry['path'])} of {entry['parameters']} parameters, "
        f"{entry['norm']} eps {eps_text(entry['eps'])} (sha256 {entry['sha256'][:12]})" + _cost(entry)
        for entry in summary["generators"]
    ]
    choices = ["The choices that the curves show:", "", *_choices(summary["curves"]), ""]
    return StudyReport(
        name="frontier",
        title=f"Success against time on {target['label']} ({target['dataset']})",
        summary=summary,
        rows=summary["rows"],
        tables=[*budget_tables(frontiers), *tables(summary)],
        figures=budget_plots(frontiers) | draw(summary),
        folders=["warm-start"],
        columns=COLUMNS,
        csv_rows=[
            *(row | {"part": "frontier"} for row in flat_rows(frontiers)),
            *({**row, "part": part} for part in ("table", "curves", "targeted") for row in summary[part]),
        ],
        scalars=[*budget_scalars(flat_rows(frontiers)), *_scalars(summary)],
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
    headers = ["attack", "eps", "gradients", "ASR % (95 %)", "of PGD-40 % (95 %)", "n", "only here", "only PGD-40"]
    rows = [
        [
            f"one pass: {row['attack']}" if row["attack"] in names else row["attack"],
            *(f"{eps_text(row['eps'])}", str(row["gradients"])),
            *(with_interval(row, "asr", missing="–"), with_interval(row, "ratio", missing="–")),
            *(number(row[key]) for key in ("n", "only_here", "only_reference")),
        ]
        for row in summary["table"]
    ]
    result_tables = [Table(f"One pass and PGD-40 on {target}, {norm}", headers, rows, ONE_PASS)]
    if summary["curves"]:
        result_tables += [_curves(summary["curves"]), _evaluations(summary["reach"])]
    return result_tables + _targeted(summary) + _diversity(summary)


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
    headers = ["of PGD-40's success", "eps", "ASR %", *methods, *BASELINES]
    headers += [f"{method} of {name}'s" for method in methods for name in BASELINES]
    text_rows = [
        [
            *(f"{100 * row['share']:.0f} %", f"{eps_text(row['eps'])}", percent(row["level"])),
            *(number(row[key], ".1f") for key in (*methods, *BASELINES)),
            *(_of(row[f"{method} of {name}"]) for method in methods for name in BASELINES),
        ]
        for row in rows
    ]
    return Table("Gradient evaluations to a fraction of PGD-40's success", headers, text_rows, REACH)


def _of(ratio: float | None) -> str:
    return "–" if ratio is None else f"{percent(ratio)} %"


def findings(summary: Summary) -> list[str]:
    """Findings from the curves, a line for each eps."""
    return [f"eps {eps_text(entry['eps'])}: the {entry['family']} {entry['finding']}" for entry in summary["findings"]]


def _targeted(summary: Summary) -> list[Table]:
    targeted_tables = []
    for name, eps in dict.fromkeys((row["attack"], row["eps"]) for row in summary["targeted"]):
        rows = [row for row in summary["targeted"] if (row["attack"], row["eps"]) == (name, eps)]
        keys = ("asr", "few_asr", "few_pgd", "ratio")
        text_rows = [
            [
                str(row["y_target"]),
                *(str(row[key] or 0) for key in ("n", "few_n")),
                *(percent(row[key]) for key in keys),
            ]
            for row in rows
        ]
        means = [[row[key] for row in rows if row[key] is not None] for key in keys]
        text_rows.append(["mean", "", "", *(percent(fmean(values)) if values else "–" for values in means)])
        headers = ["toward", "n", "n of the first few", "ASR %", "on the first few", "PGD-40 there", "of PGD-40 %"]
        targeted_tables.append(
            Table(f"Targeted: {name}, {rows[0]['norm']} eps {eps_text(eps)}", headers, text_rows, TARGETED)
        )
    return targeted_tables


def _diversity(summary: Summary) -> list[Table]:
    rows = [row for row in summary["diversity"] if "union" in row]
    if not rows:
        return []
    draws = list(rows[0]["union"])
    headers = ["generator, eps", "n", *(f"ASR % of {k}" for k in draws), "distance", "classes"]
    text_rows = [
        [
            *(f"{row['attack']}, {eps_text(row['eps'])}", str(row["n"])),
            *(percent(row["union"][k][0]) for k in draws),
            *(f"{row['distance']:.3f}", f"{row['classes']:.2f}"),
        ]
        for row in rows
    ]
    return [Table(f"Diversity: {rows[0]['draws']} draws for each image", headers, text_rows, DIVERSITY)]


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
