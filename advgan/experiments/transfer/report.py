"""Report of transferability: a matrix of sources and victims, and success of one step, many steps and noise."""

from collections.abc import Iterator

from advgan.core.threat_model import eps_text, toward_text
from advgan.experiments.transfer.plots import curve, is_white_box, matrix, matrix_cells, pairs, panels, points
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


def tables(summary: Summary) -> list[Table]:
    """The matrix over the victim's correct images, over the jointly correct ones, and the curves."""
    rows = summary["matrix"]
    victims, by_line = matrix_cells(rows)
    threat = f"{rows[0]['norm']} eps {eps_text(rows[0]['eps'])}" + toward_text(rows[0])
    subsets = (
        ("asr", "Of the images that the victim classifies correctly."),
        ("asr_both", "Of the images that source and victim both classify correctly."),
    )
    result_tables = []
    for key, note in subsets:
        lines = list(dict.fromkeys(line for line, _ in by_line))
        chosen_lines = [line for line in lines if key == "asr" or any(by_line[line, v]["source"] for v in victims)]
        text_rows = [[line, *(_rate(by_line[line, victim], key) for victim in victims)] for line in chosen_lines]
        headers, note = ["source", *victims], f"{note} * white box: made on the victim."
        for header, (form, explanation) in LINE_COLUMNS.items():
            values = {line: by_line[line, victim][header] for line in lines for victim in victims
                      if by_line[line, victim].get(header) is not None}  # fmt: skip
            if values:
                headers, note = [*headers, header], f"{note} {explanation}"
                texts = [form.format(values[line]) if line in values else "-" for line in chosen_lines]
                text_rows = [[*cells, text] for cells, text in zip(text_rows, texts, strict=True)]
        title = f"ASR % [95 % interval], source (rows) and victim (columns), {threat}"
        result_tables.append(Table(title, headers, text_rows, note))
    return [*result_tables, *(_curve_tables(summary["curve"]) if summary["curve"] else [])]


def _curve_tables(rows: list[ResultRow]) -> list[Table]:
    result_tables = []
    for title, chosen in panels(rows):
        curves, measured = points(chosen), {(row["attack"], row["eps"]) for row in chosen}
        eps_values = sorted({point.eps for curve_points in curves.values() for point in curve_points})
        text_rows = []
        for attack, curve_points in curves.items():
            at = {point.eps: point.asr for point in curve_points}
            texts = (percent(at.get(eps)) if not eps or (attack, eps) in measured else "-" for eps in eps_values)
            text_rows.append([attack, *texts])
        note = f"{chosen[0]['norm']}{toward_text(chosen[0])}, {pairs(chosen)}"
        result_tables.append(
            Table(
                f"ASR % against eps, {title}", ["attack", *(f"{eps_text(eps)}" for eps in eps_values)], text_rows, note
            )
        )
    return result_tables


def _rate(row: ResultRow, key: str) -> str:
    """A rate in % with its interval; "–" without eligible images; marked where the victim is the source."""
    if row[key] is None:
        return "–" if row["status"] == "ok" else "failed"
    return with_interval(row, key) + (" *" if is_white_box(row) else "")


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
