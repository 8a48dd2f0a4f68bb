"""Report of a sweep: accuracy and success against eps as tables and curves."""

from typing import Any

from advgan.core.threat_model import eps_text, toward_text
from advgan.evaluation.evaluate import ROW_KEYS
from advgan.evaluation.statistics import wilson
from advgan.report.comparison import Comparison
from advgan.report.figures.curves import curves
from advgan.report.page import Cell, ResultRow, Summary, Table, percent
from advgan.report.study import StudyReport, eps_scalars

COLUMNS = ("attack", "norm", "eps", "n", "accuracy", "low", "high", "asr", "asr_low", "asr_high")
CLEAN_COLUMNS = (  # of a row at eps 0: what no attack decides
    *("target", "attack", "access", "protocol", "attack_norm", "norm", "targeted", "y_target"),
    *("seed", "batch_size", "n", "n_correct", "n_attacked", "clean_accuracy", "clean_rejected"),
)


def unattacked(row: ResultRow) -> dict[str, Any]:
    """The row of the same attack at eps 0, where the ball holds nothing but the image itself."""
    n = row["n_attacked"]
    rate = dict(zip(("asr", "asr_low", "asr_high"), (0.0, *wilson(0, n)) if n else (None,) * 3, strict=True))
    sizes = dict.fromkeys(("l0_mean", "l2_mean", "linf_mean", "linf_max"), 0.0)
    clean_metrics = {
        "eps": 0.0,
        "robust_accuracy": row["clean_accuracy"],
        "ssim_mean": 1.0,
        "violations": [],
        "status": "ok",
    }
    clean_metrics |= {} if row["clean_rejected"] is None else {"rejected": 0.0}  # rejected images are not eligible
    return dict.fromkeys(ROW_KEYS) | {key: row[key] for key in CLEAN_COLUMNS} | clean_metrics | sizes | rate


def report(comparison: Comparison) -> StudyReport:
    """curves.png, sweep.json, .md and .csv; the summary's rows hold eps 0 too, the results all others."""
    summary = comparison.summary
    rows, target = summary["rows"], summary["target"]
    return StudyReport(
        name="sweep",
        title=f"Attacks on {target['label']} ({target['dataset']}) against eps",
        summary=summary,
        rows=rows,
        tables=tables(summary),
        # One target, norm and goal: one figure, if any attack has metrics.
        figures=dict(zip(["curves.png"], curves(comparison).values(), strict=False)),
        columns=COLUMNS,
        csv_rows=[row | _accuracy(row) for row in rows],
        scalars=list(eps_scalars(rows, {"accuracy": "robust_accuracy", "asr": "asr"})),
    )


def tables(summary: Summary) -> list[Table]:
    """Accuracy and success, a line per attack, a column per eps; "–" where an attack was not run."""
    rows = summary["rows"]
    first, eps_values = rows[0], sorted({row["eps"] for row in rows})
    by_attack_and_eps = {(row["attack"], row["eps"]): row for row in rows}
    context = f"on {first['target']}, {first['norm']}{toward_text(first)}"
    accuracy = f"Over all {first['n']} images: correct before the attack, and not misclassified after it."
    success = f"Over the {first['n_attacked']} eligible images."

    def at(eps: float, key: str) -> Cell:
        return lambda attack: (
            percent(by_attack_and_eps[attack, eps][key]) if (attack, eps) in by_attack_and_eps else "–"
        )

    return [
        Table.of(
            f"{title} {context}, against eps",
            dict.fromkeys(row["attack"] for row in rows),
            {"attack": str, **{eps_text(eps): at(eps, key) for eps in eps_values}},
            note,
        )
        for title, key, note in (("Accuracy %", "robust_accuracy", accuracy), ("ASR %", "asr", success))
    ]


def _accuracy(row: ResultRow) -> dict[str, float | None]:
    """Accuracy under the attack with its interval; None where it was not measured."""
    accuracy, n = row["robust_accuracy"], row["n"]
    values = [None] * 3 if accuracy is None else [accuracy, *wilson(round(accuracy * n), n)]
    return dict(zip(("accuracy", "low", "high"), values, strict=True))
