"""The matrix of defenses on disk: what each attack does to each defense, what it costs, and what is left at worst."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from advgan.core.threat_model import eps_text
from advgan.experiments.defenses.plots import CLEAN, NOT_RUN, WORST, asr, cell_text, matrix, robust
from advgan.report.comparison import Plot
from advgan.report.escaping import code, in_markdown
from advgan.report.files import file_names
from advgan.report.html import chart, template
from advgan.report.page import ResultRow, Summary, Table, failures, with_interval
from advgan.report.study import Scalar, StudyReport

Rate = Callable[[ResultRow], str]
FIGURES = ("asr", "asr_low", "asr_high", "robust_accuracy")
HEADS = (
    *("defense", "column", "attack", "access", "norm", "eps", "n", "n_attacked", "clean_accuracy"),
    *(*FIGURES, "rejected", "seconds_per_image", "same_as", "status"),
)
SUCCESS = "Of the images that the line's classifier gets right. In brackets 95 % Wilson intervals."
LEFT = "Over all images: right before the attack, and not made wrong by it."
REJECTED = "Images that the line's classifier rejects, clean and attacked: no success of the attack."
WORTH = (
    "Worst case: accuracy over all images, each under the attack that is worst for it. Strongest attack: that of most "
    "success, over the images that are right without it. Training s: of the line's classifier, if recorded in its run; "
    "defenses around it and members of an ensemble are not counted. Inference: time of a prediction over that of the "
    "base, timed in turn. Gradients: whether they are masked."
)


def report(summary: Summary) -> StudyReport:
    """asr.png, robust.png, defenses.html, .json, .md and .csv.

    `summary` has "environment", "targets" (the base), "generators", "surrogate", "norm", "eps", "columns" (in order);
    "defenses", a dict for each line: label, row (as in the settings), n, clean_accuracy, clean_rejected, random,
    relative_time, training_seconds, worst_case, masking, violated; and "rows" as in results.json with their "column",
    and "same_as", the column that they repeat.
    """
    figures = {"asr.png": asr(summary), "robust.png": robust(summary)}
    failed = [row for row in summary["rows"] if not row["same_as"]]
    verdict_lines = [f"- **{each['verdict']}**: {in_markdown(each['told'])}" for each in verdicts(summary)]
    title = f"What each defense is worth ({summary['targets'][0]['dataset']})"
    return StudyReport(
        name="defenses",
        title=title,
        summary=summary,
        rows=failed,
        tables=tables(summary),
        figures=figures,
        columns=HEADS,
        csv_rows=_csv_rows(summary),
        scalars=list(_scalars(summary)),
        intro=[f"- {in_markdown(each['label'])}: {code(each['row'])}" for each in summary["defenses"]],
        notes=["### Verdicts", "", *verdict_lines, ""],
        notes_tag="verdicts",
        html=html(title, summary, figures, failures(failed)),
        printed=1,
    )


def tables(summary: Summary) -> list[Table]:
    """Worst case and cost of each defense; success and accuracy, defense x attack; and rejections, if there are any."""
    cells, labels = matrix(summary), [each["label"] for each in summary["defenses"]]
    ball, columns = f"{summary['norm']} eps {eps_text(summary['eps'])}", [*summary["columns"], WORST]

    def grid(title: str, key: str, named: list[str], heads: list[str], note: str, rate: Rate | None = None) -> Table:
        lines = [[label, *(cell_text(cells.get((label, head)), key, rate) for head in heads)] for label in named]
        return Table(f"{title}, {ball}", ["defense", *heads], lines, note)

    found = [worth(summary), grid("ASR %", "asr", labels, columns, SUCCESS, with_interval)]
    found.append(grid("Accuracy %", "robust_accuracy", labels, [CLEAN, *columns], LEFT))
    if rejecting := [each["label"] for each in summary["defenses"] if each["clean_rejected"] is not None]:
        found.append(grid("Rejected %", "rejected", rejecting, [CLEAN, *summary["columns"]], REJECTED))
    return found


def worth(summary: Summary) -> Table:
    """Worst-case accuracy of each line, its strongest attack, and the cost of the defense."""
    heads = ["defense", "clean %", "worst case %", "strongest attack", "training s", "inference", "gradients"]
    lines = [
        [
            *(each["label"], f"{100 * each['clean_accuracy']:.1f}"),
            *(f"{100 * _left(each):.1f}" if each["worst_case"] else "failed", _strongest(summary, each["label"])),
            NOT_RUN if each["training_seconds"] is None else f"{each['training_seconds']:.0f}",
            *(f"{each['relative_time']:.2f} x", each["masking"]["verdict"] if each["masking"] else NOT_RUN),
        ]
        for each in summary["defenses"]
    ]
    return Table("What each defense is worth", heads, lines, WORTH)


def _strongest(summary: Summary, label: str) -> str:
    rows = [row for row in summary["rows"] if row["target"] == label and row["asr"] is not None]
    best = max(rows, key=lambda row: row["asr"], default=None)
    return NOT_RUN if best is None else f"{best['column']} {100 * best['asr']:.0f} %"


def verdicts(summary: Summary) -> list[dict[str, Any]]:
    """The verdict on each line's gradients, and the failed checks of the measurement: verdict, text, whether it is a
    fault."""
    found = []
    for each in summary["defenses"]:
        if masking := each["masking"]:
            words = f"{each['label']}: gradients: {masking['detail']}"
            bad = masking["verdict"] not in ("honest", "unclear", "not tested")
            found.append({"verdict": masking["verdict"], "told": words, "violated": bad})
        for rule in each["violated"]:
            words = f"{each['label']}: {rule['check']}: {rule['detail']}. It usually means: {rule['meaning']}"
            found.append({"verdict": "violated", "told": words, "violated": True})
    return found


def html(title: str, summary: Summary, figures: Mapping[str, Plot], failed: Sequence[str]) -> str:
    """The page, whole: it needs no network, and everything in it is escaped."""
    return template("defenses.html.jinja").render(
        title=title,
        headlines=headlines(summary),
        base=summary["targets"][0],
        generators=summary["generators"],
        surrogate=summary["surrogate"],
        environment=summary["environment"],
        environment_text=json.dumps(summary["environment"], indent=2, ensure_ascii=False),
        charts=[chart(plot) for plot in figures.values()],
        sections=tables(summary),
        defenses=summary["defenses"],
        verdicts=verdicts(summary),
        failures=failed,
        meaning={},
    )


def headlines(summary: Summary) -> list[str]:
    """The best and the worst line by worst-case accuracy."""
    ranked = sorted((each for each in summary["defenses"] if each["worst_case"]), key=_left)
    both = {"Most is left by": ranked[-1:], "Least by": ranked[:-1][:1]}
    return [
        f"{word} {each['label']}: {_left(each):.1%} of all images are right under every attack, "
        f"{each['clean_accuracy']:.1%} without one."
        for word, found in both.items()
        for each in found
    ]


def _left(each: ResultRow) -> float:
    return float(each["worst_case"]["robust_accuracy"])


def _csv_rows(summary: Summary) -> list[dict[str, Any]]:
    """A row for each result, and one for each worst case."""
    rows = [{**row, "defense": row["target"]} for row in summary["rows"]]
    for defense in summary["defenses"]:
        worst = defense["worst_case"]
        names = {"defense": defense["label"], "column": WORST, "status": "ok" if worst else "failed"}
        rows.append({**defense, **(worst or {}), **names})
    return rows


def _scalars(summary: Summary) -> Iterator[Scalar]:
    """A chart per column with a run for each defense."""
    cells = matrix(summary)
    labels, columns = [each["label"] for each in summary["defenses"]], [CLEAN, *summary["columns"], WORST]
    for label, run in zip(labels, file_names(labels), strict=True):
        for column, tag in zip(columns, file_names(columns), strict=True):
            row = cells.get((label, column))
            for key in ("asr", "robust_accuracy"):
                if row is not None and row[key] is not None:
                    yield Scalar(run, f"{key}/{tag}", row[key])
