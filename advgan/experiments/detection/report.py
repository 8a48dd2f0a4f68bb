"""Report of detection: ROC of each detector against each attack, and success of the attacks that remain."""

import numpy as np

from advgan.core.fraction import eps_text
from advgan.report import cells
from advgan.report.comparison import Plot
from advgan.report.figures import style
from advgan.report.figures.plot_groups import safe
from advgan.report.page import Summary, Table, with_interval
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
    columns = {
        "attack": cells.field("attack"),
        "adaptive": lambda row: "yes" if row["knows"] else "no",
        "misclassified %": cells.percent("fooled", "failed"),
        "AUC [95 %]": cells.interval("auc", scale=1, digits=3),
        "TPR % [95 %]": cells.interval("tpr"),
        "ASR % [95 %]": cells.interval("asr"),
        "robust %": cells.percent("robust_accuracy", "failed"),
    }
    result_tables = []
    for detector in summary["detectors"]:
        rows = [row for row in summary["rows"] if row["target"] == detector["label"]]
        title = (
            f"{detector['label']}, {rows[0]['norm']} eps {eps_text(rows[0]['eps'])}: "
            f"{with_interval(detector, 'fpr')} % of {detector['n']} clean images rejected, "
            f"clean accuracy {rows[0]['clean_accuracy']:.2%}"
        )
        note = NOTE if detector is summary["detectors"][-1] else ""
        result_tables.append(Table.of(title, rows, columns, note))
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
            look = dict(zip(("color", "marker", "linestyle"), styles[row["attack"]], strict=True))
            axes.step(rates, row["roc"], where="post", linewidth=1.6, **(look | {"marker": ""}))
            fill = "full" if row["knows"] else "none"
            (handles[row["attack"]],) = axes.plot([detector["fpr"]], [row["tpr"]], markersize=8, fillstyle=fill, **look)
        axes.plot(np.square(np.linspace(0, 1)), np.square(np.linspace(0, 1)), color="#888888", linestyle=":")
        axes.set_xscale("function", functions=(np.sqrt, np.square))
        axes.set_xticks([0, 0.01, 0.05, 0.2, 0.5, 1])
        style.percent_axis(axes, detector["label"], "misclassified examples rejected (TPR)")
        axes.set(xlim=(0, 1), xlabel="clean images rejected (FPR)")
        axes.xaxis.set_major_formatter(style.percent)
    style.legend(sheet, list(handles.values()), list(handles))
    first = summary["rows"][0]
    return style.to_plot(sheet, f"Detectors against attacks, {first['norm']} eps {eps_text(first['eps'])}", CURVES)
