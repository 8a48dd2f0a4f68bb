"""Report of transferability: a matrix of sources and victims, and success of one step, many steps and noise."""

from __future__ import annotations

from collections.abc import Iterator

from advgan.core.threat_model import eps_text
from advgan.experiments.transfer.plots import aim, curve, matrix, pairs, panels, points, square
from advgan.report.figures.cases import safe
from advgan.report.page import ResultRow, Summary, Table, percent
from advgan.report.study import Scalar, StudyReport

COLUMNS = (
    *("part", "attack", "source", "victim", "norm", "eps", "n_attacked", "asr", "asr_low", "asr_high"),
    *("n_both", "asr_both", "asr_both_low", "asr_both_high", "queries", "status"),
)


def report(summary: Summary) -> StudyReport:
    """matrix.png, curve.png, transfer.json, .md and .csv.

    `summary` has "environment", "targets", "generators", "matrix" and "curve": rows as in results.json, with "source"
    (None for attacks without one), "victim", the "queries" that a substitute has spent on it (None: no substitute), and
    asr_both over the n_both images that source and victim classify correctly.
    """
    names = ", ".join(target["label"] for target in summary["targets"])
    return StudyReport(
        name="transfer",
        title=f"Transfer between {names} ({summary['targets'][0]['dataset']})",
        summary=summary,
        rows=[*summary["matrix"], *summary["curve"]],
        tables=tables(summary),
        figures={"matrix.png": matrix(summary["matrix"]), "curve.png": curve(summary["curve"])},
        columns=COLUMNS,
        csv_rows=[{**row, "part": part} for part in ("matrix", "curve") for row in summary[part]],
        scalars=list(_scalars(summary)),
    )


def tables(summary: Summary) -> list[Table]:
    """The matrix over the victim's correct images, over those that both have right, and the curves."""
    rows = summary["matrix"]
    victims, cells = square(rows)
    threat = f"{rows[0]['norm']} eps {eps_text(rows[0]['eps'])}" + aim(rows[0])
    right = (
        ("asr", "Of the images that the victim classifies correctly."),
        ("asr_both", "Of the images that source and victim both classify correctly."),
    )
    found = []
    for key, note in right:
        lines = [
            [line, *(_rate(cells[line, victim], key) for victim in victims)]
            for line in dict.fromkeys(line for line, _ in cells)
            if key == "asr" or any(cells[line, victim]["source"] for victim in victims)
        ]
        heads = ["made on", *victims]
        spent = {line: row["queries"] for (line, _), row in cells.items() if row["queries"] is not None}
        if spent:
            heads, note = [*heads, "queries"], f"{note} Queries of the black box by the substitute."
            lines = [[*line, f"{spent[line[0]]:,}" if line[0] in spent else "-"] for line in lines]
        title = f"ASR %, made on (down) and tried on (across), {threat}"
        found.append(Table(title, heads, lines, note))
    for title, chosen in panels(summary["curve"]):
        curves, ran = points(chosen), {(row["attack"], row["eps"]) for row in chosen}
        radii = sorted({point.eps for each in curves.values() for point in each})
        lines = []
        for attack, each in curves.items():
            at = {point.eps: point.asr for point in each}
            texts = (percent(at.get(eps)) if not eps or (attack, eps) in ran else "-" for eps in radii)
            lines.append([attack, *texts])
        note = f"{chosen[0]['norm']}{aim(chosen[0])}, {pairs(chosen)}"
        found.append(
            Table(f"ASR % against eps, {title}", ["attack", *(f"{eps_text(eps)}" for eps in radii)], lines, note)
        )
    return found


def _rate(row: ResultRow, key: str) -> str:
    """A rate in %; "–" where no image counts for it."""
    return "–" if row[key] is None and row["status"] == "ok" else percent(row[key])


def _scalars(summary: Summary) -> Iterator[Scalar]:
    """The matrix, and a run per attack for the curve; a step is 1000 eps, because it is a whole number."""
    for row in summary["matrix"]:
        if row["asr"] is not None:
            name = safe(f"{row['attack']} {row['source'] or ''}")
            yield Scalar("", f"matrix, {name}/{safe(row['victim'])}", row["asr"])
    for title, rows in panels(summary["curve"]):
        for attack, curve_points in points(rows).items():
            for point in curve_points:
                run, step = safe(f"{attack} {title}"), round(1000 * point.eps)
                yield Scalar(run, "asr (step: 1000 eps)", point.asr, step)
