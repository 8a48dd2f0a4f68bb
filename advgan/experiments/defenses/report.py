"""Report of the matrix of defenses: success of each attack on each defense, cost, and worst-case accuracy."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from advgan.core.fraction import eps_text
from advgan.report import cells
from advgan.report.comparison import Plot
from advgan.report.escaping import code, in_markdown
from advgan.report.figures import style
from advgan.report.files import file_names
from advgan.report.html import chart, template
from advgan.report.page import Cell, ResultRow, Summary, Table, failures, percent, with_interval
from advgan.report.study import Scalar, StudyReport

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


WORST, CLEAN = "worst case", "clean"
NOT_RUN = "–"
GAP = 0.35  # before separated columns, in column widths
ATTACK_COLUMNS = (
    "Gradient attacks are adaptive (BPDA, EOT). @naive uses the defense's own gradients: where it fails and the "
    "adaptive attack succeeds, the defense masks its gradients. @oblivious uses the undefended classifier. transfer: "
    "MI-FGSM on another classifier. advgan: one pass of a generator, trained on the base or on this row. =: the same "
    "model as in another column, not attacked twice; –: no such generator."
)
ASR = (
    "Attack success rate in %, over the images that the row's classifier classifies correctly: a row per defense, a "
    "column per attack; yellow: high, blue: low. At the right the worst case: success of any attack of the row. "
    + ATTACK_COLUMNS
)
ROBUST = (
    "Accuracy in %, over all images: without an attack (left), under each attack, and under the worst attack for each "
    "image (right). Yellow: high, blue: low. " + ATTACK_COLUMNS
)


def report(summary: Summary) -> StudyReport:
    """asr.png, robust.png, defenses.html, .json, .md and .csv.

    `summary` has "environment", "targets" (the base), "generators", "surrogate", "norm", "eps", "columns" (in order);
    "defenses", a dict for each line: label, row (as in the settings), n, clean_accuracy, clean_rejected, random,
    relative_time, training_seconds, worst_case, masking, violated; and "rows" as in results.json with their "column",
    and "same_as", the column that they repeat.
    """
    columns = [*summary["columns"], WORST]
    n = len(columns)
    figures = {
        "asr.png": _map(summary, columns, {n - 1}, "asr", "Attack success by defense", ASR),
        "robust.png": _map(summary, [CLEAN, *columns], {1, n}, "robust_accuracy", "Accuracy by defense", ROBUST),
    }
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

    def grid(title: str, key: str, names: list[str], headers: list[str], note: str, rate: Cell | None = None) -> Table:
        rows = [[label, *(cell_text(cell_rows.get((label, head)), key, rate) for head in headers)] for label in names]
        return Table(f"{title}, {threat}", ["defense", *headers], rows, note)

    result_tables = [summary_table(summary), grid("ASR %", "asr", labels, columns, SUCCESS_NOTE, with_interval)]
    result_tables.append(grid("Accuracy %", "robust_accuracy", labels, [CLEAN, *columns], ACCURACY_NOTE))
    if rejecting := [defense["label"] for defense in summary["defenses"] if defense["clean_rejected"] is not None]:
        result_tables.append(grid("Rejected %", "rejected", rejecting, [CLEAN, *summary["columns"]], REJECTED_NOTE))
    return result_tables


def summary_table(summary: Summary) -> Table:
    """Worst-case accuracy of each line, its strongest attack, and the cost of the defense."""
    columns = {
        "defense": cells.field("label"),
        "clean %": cells.number("clean_accuracy", ".1f", 100),
        "worst case %": lambda defense: percent(_worst_case_accuracy(defense)) if defense["worst_case"] else "failed",
        "strongest attack": lambda defense: _strongest(summary, defense["label"]),
        "training s": cells.number("training_seconds", ".0f"),
        "inference": lambda defense: f"{defense['relative_time']:.2f} x",
        "gradients": lambda defense: defense["masking"]["verdict"] if defense["masking"] else NOT_RUN,
    }
    return Table.of("Worst case and cost of each defense", summary["defenses"], columns, SUMMARY_NOTE)


def _strongest(summary: Summary, label: str) -> str:
    rows = [row for row in summary["rows"] if row["target"] == label and row["asr"] is not None]
    best = max(rows, key=lambda row: row["asr"], default=None)
    return NOT_RUN if best is None else f"{best['column']} {best['asr']:.0%}"


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


def matrix_rows(summary: Summary) -> dict[tuple[str, str], ResultRow]:
    """(defense, column) -> its row, those of the worst case and of clean images among them."""
    by_defense_and_column = {(row["target"], row["column"]): row for row in summary["rows"]}
    for defense in summary["defenses"]:
        clean = {"asr": None, "robust_accuracy": defense["clean_accuracy"], "rejected": defense["clean_rejected"]}
        by_defense_and_column |= {
            (defense["label"], CLEAN): clean,
            (defense["label"], WORST): defense["worst_case"] or dict.fromkeys(clean),
        }
    return by_defense_and_column


def cell_text(row: ResultRow | None, key: str, rate: Cell | None = None) -> str:
    """A percentage (or the text of `rate`), "=" before that of another column, or why there is none."""
    if row is None:
        return NOT_RUN
    if row[key] is None:
        return "failed"
    return ("=" if row.get("same_as") else "") + (rate(row) if rate else f"{100 * row[key]:.0f}")


def _map(summary: Summary, columns: list[str], apart: set[int], key: str, title: str, caption: str) -> Plot:
    """One field per row and column; a gap before the columns numbered in `apart`."""
    lines, cells = [defense["label"] for defense in summary["defenses"]], matrix_rows(summary)
    lefts = np.arange(len(columns)) + GAP * np.array([sum(j >= i for i in apart) for j in range(len(columns))])
    longest, widest = max(map(len, lines)), max(map(len, columns))
    figure = style.new_figure(1.6 + 0.075 * longest + 0.62 * lefts[-1], 1.3 + 0.06 * widest + 0.34 * len(lines))
    axes = figure.subplots()
    for j, column in enumerate(columns):
        rows = [cells.get((line, column)) for line in lines]
        values = [None if row is None else row[key] for row in rows]
        extent, shown = (lefts[j], lefts[j] + 1, len(lines), 0), np.ma.masked_invalid(np.array([values], dtype=float).T)
        image = axes.imshow(shown, "cividis", vmin=0, vmax=1, aspect="auto", extent=extent)
        for i, (row, value) in enumerate(zip(rows, values, strict=True)):
            weight = "bold" if column == WORST else "normal"
            place = (lefts[j] + 0.5, i + 0.5)
            style.heat_map_cell(axes, place, cell_text(row, key), value, fontsize=9, weight=weight)
    axes.set(xlim=(0, lefts[-1] + 1), ylim=(len(lines), 0))
    axes.set_yticks(np.arange(len(lines)) + 0.5, lines, fontsize=9)
    axes.xaxis.tick_top()
    axes.set_xticks(lefts + 0.5, columns, fontsize=9, rotation=45, ha="left", rotation_mode="anchor")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    name = {"asr": "ASR", "robust_accuracy": "accuracy"}[key]
    figure.colorbar(image, ax=axes, format=style.percent, label=name, pad=0.02)
    return style.to_plot(figure, f"{title}: {name}, {summary['norm']} eps {eps_text(summary['eps'])}", caption)
