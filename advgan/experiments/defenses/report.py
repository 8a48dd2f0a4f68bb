"""Report of the matrix of defenses: success of each attack on each defense, cost, and worst-case accuracy."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from advgan.core.threat_model import eps_text
from advgan.experiments.defenses.plots import CLEAN, NOT_RUN, WORST, asr, cell_text, matrix_rows, robust
from advgan.report.comparison import Plot
from advgan.report.escaping import code, in_markdown
from advgan.report.files import file_names
from advgan.report.html import chart, template
from advgan.report.page import ResultRow, Summary, Table, failures, number, with_interval
from advgan.report.study import Scalar, StudyReport

Rate = Callable[[ResultRow], str]
RATES = ("asr", "asr_low", "asr_high", "robust_accuracy")
CSV_COLUMNS = (
    *("defense", "column", "attack", "access", "norm", "eps", "n", "n_attacked", "clean_accuracy"),
    *(*RATES, "rejected", "seconds_per_image", "same_as", "status"),
)
SUCCESS_NOTE = "Over the images that the row's classifier classifies correctly. In brackets 95 % Wilson intervals."
ACCURACY_NOTE = "Over all images: correct before the attack, and not misclassified after it."
REJECTED_NOTE = "Images that the row's classifier rejects, clean and attacked; they are no successes."
SUMMARY_NOTE = (
    "Worst case: accuracy over all images, each under the worst attack for it. Strongest attack: the one with the "
    "largest success rate over the correctly classified images. Training s: of the row's classifier, if recorded in "
    "its run; defenses around it and members of an ensemble are not counted. Inference: time of a prediction over that "
    "of the base, timed in turn. Gradients: whether they are masked."
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
    verdict_lines = [f"- **{entry['verdict']}**: {in_markdown(entry['text'])}" for entry in verdicts(summary)]
    title = f"Defenses under attack ({summary['targets'][0]['dataset']})"
    return StudyReport(
        name="defenses",
        title=title,
        summary=summary,
        rows=failed,
        tables=tables(summary),
        figures=figures,
        columns=CSV_COLUMNS,
        csv_rows=_csv_rows(summary),
        scalars=list(_scalars(summary)),
        intro=[f"- {in_markdown(entry['label'])}: {code(entry['row'])}" for entry in summary["defenses"]],
        notes=["### Verdicts", "", *verdict_lines, ""],
        notes_tag="verdicts",
        html=html(title, summary, figures, failures(failed)),
        printed=1,
    )


def tables(summary: Summary) -> list[Table]:
    """Worst case and cost of each defense; success and accuracy, defense x attack; and rejections, if there are any."""
    cell_rows, labels = matrix_rows(summary), [defense["label"] for defense in summary["defenses"]]
    threat, columns = f"{summary['norm']} eps {eps_text(summary['eps'])}", [*summary["columns"], WORST]

    def grid(title: str, key: str, names: list[str], headers: list[str], note: str, rate: Rate | None = None) -> Table:
        rows = [[label, *(cell_text(cell_rows.get((label, head)), key, rate) for head in headers)] for label in names]
        return Table(f"{title}, {threat}", ["defense", *headers], rows, note)

    result_tables = [summary_table(summary), grid("ASR %", "asr", labels, columns, SUCCESS_NOTE, with_interval)]
    result_tables.append(grid("Accuracy %", "robust_accuracy", labels, [CLEAN, *columns], ACCURACY_NOTE))
    if rejecting := [defense["label"] for defense in summary["defenses"] if defense["clean_rejected"] is not None]:
        result_tables.append(grid("Rejected %", "rejected", rejecting, [CLEAN, *summary["columns"]], REJECTED_NOTE))
    return result_tables


def summary_table(summary: Summary) -> Table:
    """Worst-case accuracy of each line, its strongest attack, and the cost of the defense."""
    headers = ["defense", "clean %", "worst case %", "strongest attack", "training s", "inference", "gradients"]
    rows = [
        [
            *(defense["label"], f"{100 * defense['clean_accuracy']:.1f}"),
            *(
                f"{100 * _worst_case_accuracy(defense):.1f}" if defense["worst_case"] else "failed",
                _strongest(summary, defense["label"]),
            ),
            number(defense["training_seconds"], ".0f", NOT_RUN),
            *(f"{defense['relative_time']:.2f} x", defense["masking"]["verdict"] if defense["masking"] else NOT_RUN),
        ]
        for defense in summary["defenses"]
    ]
    return Table("Worst case and cost of each defense", headers, rows, SUMMARY_NOTE)


def _strongest(summary: Summary, label: str) -> str:
    rows = [row for row in summary["rows"] if row["target"] == label and row["asr"] is not None]
    best = max(rows, key=lambda row: row["asr"], default=None)
    return NOT_RUN if best is None else f"{best['column']} {100 * best['asr']:.0f} %"


def verdicts(summary: Summary) -> list[dict[str, Any]]:
    """The verdict on each line's gradients, and the failed checks of the measurement: verdict, text, whether it is a
    fault."""
    entries = []
    for defense in summary["defenses"]:
        if masking := defense["masking"]:
            text = f"{defense['label']}: gradients: {masking['detail']}"
            violated = masking["verdict"] not in ("no masking found", "unclear", "not tested")
            entries.append({"verdict": masking["verdict"], "text": text, "violated": violated})
        for rule in defense["violated"]:
            text = f"{defense['label']}: {rule['check']}: {rule['detail']}. It usually means: {rule['meaning']}"
            entries.append({"verdict": "violated", "text": text, "violated": True})
    return entries


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
    ranked = sorted((defense for defense in summary["defenses"] if defense["worst_case"]), key=_worst_case_accuracy)
    extremes = {"Highest": ranked[-1:], "Lowest": ranked[:-1][:1]}
    return [
        f"{opening} worst-case accuracy: {defense['label']}, {_worst_case_accuracy(defense):.1%} over all images under "
        f"every attack; {defense['clean_accuracy']:.1%} without an attack."
        for opening, ranked_lines in extremes.items()
        for defense in ranked_lines
    ]


def _worst_case_accuracy(defense: ResultRow) -> float:
    return float(defense["worst_case"]["robust_accuracy"])


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
    cell_rows = matrix_rows(summary)
    labels, columns = [defense["label"] for defense in summary["defenses"]], [CLEAN, *summary["columns"], WORST]
    for label, run in zip(labels, file_names(labels), strict=True):
        for column, tag in zip(columns, file_names(columns), strict=True):
            row = cell_rows.get((label, column))
            for key in ("asr", "robust_accuracy"):
                if row is not None and row[key] is not None:
                    yield Scalar(run, f"{key}/{tag}", row[key])
