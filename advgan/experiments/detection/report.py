"""Report of detection: ROC of each detector against each attack, and success of the attacks that remain."""

import numpy as np

from advgan.core.threat_model import eps_text
from advgan.report.comparison import Plot
from advgan.report.figures import style
from advgan.report.figures.plot_groups import safe
from advgan.report.page import ResultRow, Summary, Table, percent, with_interval
from advgan.report.study import Scalar, StudyReport

COLUMNS = (
    *("target", "attack", "knows", "norm", "eps", "n", "n_fooled", "fooled", "auc", "auc_low", "auc_high"),
    *("tpr", "tpr_low", "tpr_high", "n_attacked", "asr", "asr_low", "asr_high", "rejected", "robust_accuracy"),
    *("clean_accuracy", "clean_rejected", "status"),
)
NOTE = (
    "Misclassified: images, classified correctly when clean, with a misclassified adversarial example, rejected or "
    "not. AUC: these against all clean test images (DeLong's 95 % interval). TPR: fraction of these that the detector "
    "rejects, at the threshold chosen on clean validation images; its share of clean test images is in the title. "
    "ASR: misclassified and not rejected, of the images that are classified correctly and not rejected when clean. "
    "Robust: accuracy over all images; a rejected adversarial example is no error, a rejected clean image is one. "
    "Adaptive: whether the attack uses the detector; of a generator, whether it was trained against this one."
)
CURVES = (
    "True positive rate on misclassified adversarial examples against false positive rate on clean images; the lower "
    "axis has a square-root scale. Marks: the threshold from validation, filled for adaptive attacks, hollow for "
    "others. An adaptive attack stops below the threshold. Dotted: chance."
)


def report(summary: Summary) -> StudyReport:
    """roc.png, detection.json, .md and .csv.

    `summary` has "environment", "targets", "generators", "detectors", "rates" (of false positives) and "rows": rows as
    in results.json, with "knows", "n_fooled", "fooled", and "auc", "tpr", their intervals and "roc" (at the rates),
    None where nothing is fooled.
    """
    target = summary["targets"][0]
    return StudyReport(
        name="detection",
        title=f"Detection for {target['name']} ({target['dataset']})",
        summary=summary,
        rows=summary["rows"],
        tables=tables(summary),
        figures={"roc.png": draw(summary)},
        columns=COLUMNS,
        csv_rows=summary["rows"],
        scalars=[  # a run for each detector and attack: its step is 1000 FPR, a whole number
            Scalar(safe(f"{row['target']} {row['attack']}"), "TPR (step: 1000 FPR)", tpr, round(1000 * fpr))
            for row in summary["rows"]
            if row["roc"] is not None
            for fpr, tpr in zip(summary["rates"], row["roc"], strict=True)
        ],
    )


def tables(summary: Summary) -> list[Table]:
    """A table for each detector, a row for each attack; a note under the last table."""
    headers = ["attack", "adaptive", "misclassified %", "AUC [95 %]", "TPR % [95 %]", "ASR % [95 %]", "robust %"]
    result_tables = []
    for detector in summary["detectors"]:
        rows = [row for row in summary["rows"] if row["target"] == detector["label"]]
        title = (
            f"{detector['label']}, {rows[0]['norm']} eps {eps_text(rows[0]['eps'])}: "
            f"{with_interval(detector, 'fpr')} % of {detector['n']} clean images rejected, "
            f"clean accuracy {rows[0]['clean_accuracy']:.2%}"
        )
        text_rows = [
            [
                row["attack"],
                "yes" if row["knows"] else "no",
                percent(row["fooled"]),
                _interval(row, "auc", scale=1, digits=3),
                _interval(row, "tpr"),
                _interval(row, "asr"),
                percent(row["robust_accuracy"]),
            ]
            for row in rows
        ]
        result_tables.append(Table(title, headers, text_rows, NOTE if detector is summary["detectors"][-1] else ""))
    return result_tables


def draw(summary: Summary) -> Plot:
    """The ROC curves, a panel for each detector."""
    detectors, rates = summary["detectors"], summary["rates"]
    styles = style.by_access({row["attack"]: row["access"] for row in summary["rows"]})
    sheet = style.new_figure(2.6 + 4.2 * len(detectors), 4.6)
    handles = {}
    for axes, detector in zip(sheet.subplots(1, len(detectors), squeeze=False)[0], detectors, strict=True):
        for row in summary["rows"]:
            if row["target"] != detector["label"] or row["roc"] is None:
                continue
            color, marker, line = styles[row["attack"]]
            axes.step(rates, row["roc"], where="post", color=color, linestyle=line, linewidth=1.6)
            style_settings = {
                "color": color,
                "marker": marker,
                "linestyle": line,
                "fillstyle": "full" if row["knows"] else "none",
            }
            (handles[row["attack"]],) = axes.plot([detector["fpr"]], [row["tpr"]], markersize=8, **style_settings)
        axes.plot(np.square(np.linspace(0, 1)), np.square(np.linspace(0, 1)), color="#888888", linestyle=":")
        axes.set_xscale("function", functions=(np.sqrt, np.square))
        axes.set_xticks([0, 0.01, 0.05, 0.2, 0.5, 1])
        style.clean_axes(axes, detector["label"]).set(xlim=(0, 1), ylim=(-0.02, 1.03))
        axes.set(xlabel="clean images rejected (FPR)", ylabel="misclassified examples rejected (TPR)")
        axes.xaxis.set_major_formatter(style.percent)
        axes.yaxis.set_major_formatter(style.percent)
    sheet.legend(list(handles.values()), list(handles), loc="outside right center", fontsize=9, frameon=False)
    first = summary["rows"][0]
    return style.to_plot(sheet, f"Detectors against attacks, {first['norm']} eps {eps_text(first['eps'])}", CURVES)


def _interval(row: ResultRow, key: str, *, scale: float = 100, digits: int = 1) -> str:
    """A metric with its interval; "–" where it does not exist."""
    missing = "–" if row.get("status", "ok") == "ok" else "failed"
    return with_interval(row, key, scale=scale, digits=digits, missing=missing)
