"""Detection on disk: how well each detector tells each attack's images from clean ones, and what still gets through."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from advgan.core.files import atomic_write, atomic_write_dir
from advgan.core.threat_model import eps_text
from advgan.report.comparison import Picture
from advgan.report.escaping import csv_text
from advgan.report.figures import style
from advgan.report.figures.cases import safe
from advgan.report.page import Grid, Row, failures, figure, heading, percent

Summary = Mapping[str, Any]  # detection.json
COLUMNS = (
    *("target", "attack", "knows", "norm", "eps", "n", "n_fooled", "fooled", "auc", "auc_low", "auc_high"),
    *("tpr", "tpr_low", "tpr_high", "n_attacked", "asr", "asr_low", "asr_high", "rejected", "robust_accuracy"),
    *("clean_accuracy", "clean_rejected", "status"),
)
NOTE = (
    "Fooled: images, classified correctly when clean, whose answer fools the classifier, rejected or not. AUC: these "
    "against all clean test images (DeLong's 95 % interval). TPR: share of these that the detector rejects, at the "
    "threshold chosen on clean validation images; its share of clean test images is in the title. ASR: fooled and not "
    "rejected, of the images that are classified correctly and not rejected when clean. Robust: accuracy over all "
    "images, where a rejected answer is a safe one, and a clean image that is rejected is lost. Knows: whether the "
    "attack heeds the detector; of a generator, whether it was trained against this one."
)
CURVES = (
    "The share of fooling images found against the share of clean images rejected; the lower axis is stretched on the "
    "left, by a square root. Marks: the threshold from validation, filled for attacks that know the detector, hollow "
    "for others. An attack that knows the threshold stops once it is below it. Dotted: guessing."
)


def write_detection(directory: Path, summary: Summary) -> None:
    """Write roc.png, logs/detection/ (for TensorBoard), detection.md, detection.csv, and detection.json last.

    `summary` has "environment", "targets", "generators", "detectors", "rates" (of false positives) and "rows": rows as
    in results.json, with "knows", "n_fooled", "fooled", and "auc", "tpr", their intervals and "roc" (at the rates),
    None where nothing is fooled.
    """
    text = json.dumps(summary, indent=2, allow_nan=False) + "\n"
    picture = draw(summary)
    Image.fromarray(picture.image).save(directory / "roc.png", optimize=True)
    atomic_write_dir(directory / "logs" / "detection", lambda folder: _events(folder, summary, picture))
    atomic_write(directory / "detection.md", _report(summary, picture))
    atomic_write(
        directory / "detection.csv", csv_text(COLUMNS, ([row[key] for key in COLUMNS] for row in summary["rows"]))
    )
    atomic_write(directory / "detection.json", text)


def grids(summary: Summary) -> list[Grid]:
    """A table for each detector, a line for each attack; how to read them stands under the last."""
    heads = ["attack", "knows", "fooled %", "AUC [95 %]", "TPR % [95 %]", "ASR % [95 %]", "robust %"]
    found = []
    for detector in summary["detectors"]:
        rows = [row for row in summary["rows"] if row["target"] == detector["label"]]
        title = (
            f"{detector['label']}, {rows[0]['norm']} eps {eps_text(rows[0]['eps'])}: "
            f"{_range(detector, 'fpr', 100)} % of {detector['n']} clean images rejected, "
            f"clean accuracy {rows[0]['clean_accuracy']:.2%}"
        )
        lines = [
            [
                *(row["attack"], "yes" if row["knows"] else "no", percent(row["fooled"]), _range(row, "auc", 1)),
                *(_range(row, "tpr", 100), _range(row, "asr", 100), percent(row["robust_accuracy"])),
            ]
            for row in rows
        ]
        found.append(Grid(title, heads, lines, NOTE if detector is summary["detectors"][-1] else ""))
    return found


def draw(summary: Summary) -> Picture:
    """The ROC curves, a panel for each detector."""
    detectors, rates = summary["detectors"], summary["rates"]
    looks = style.by_access({row["attack"]: row["access"] for row in summary["rows"]})
    sheet = style.sheet(2.6 + 4.2 * len(detectors), 4.6)
    handles = {}
    for axes, detector in zip(sheet.subplots(1, len(detectors), squeeze=False)[0], detectors, strict=True):
        for row in summary["rows"]:
            if row["target"] != detector["label"] or row["roc"] is None:
                continue
            color, marker, line = looks[row["attack"]]
            axes.step(rates, row["roc"], where="post", color=color, linestyle=line, linewidth=1.6)
            look = {
                "color": color,
                "marker": marker,
                "linestyle": line,
                "fillstyle": "full" if row["knows"] else "none",
            }
            (handles[row["attack"]],) = axes.plot([detector["fpr"]], [row["tpr"]], markersize=8, **look)
        axes.plot(np.square(np.linspace(0, 1)), np.square(np.linspace(0, 1)), color="#888888", linestyle=":")
        axes.set_xscale("function", functions=(np.sqrt, np.square))
        axes.set_xticks([0, 0.01, 0.05, 0.2, 0.5, 1])
        style.plain(axes, detector["label"]).set(xlim=(0, 1), ylim=(-0.02, 1.03))
        axes.set(xlabel="clean images rejected (FPR)", ylabel="fooling images rejected (TPR)")
        axes.xaxis.set_major_formatter(style.percent)
        axes.yaxis.set_major_formatter(style.percent)
    sheet.legend(list(handles.values()), list(handles), loc="outside right center", fontsize=9, frameon=False)
    first = summary["rows"][0]
    return style.finish(sheet, f"Detectors against attacks, {first['norm']} eps {eps_text(first['eps'])}", CURVES)


def _range(row: Row, name: str, scale: float) -> str:
    """A figure with its interval."""
    if row[name] is None:
        return "–" if row.get("status", "ok") == "ok" else "failed"
    digits = 1 if scale == 100 else 3
    value, low, high = (scale * row[key] for key in (name, f"{name}_low", f"{name}_high"))
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _report(summary: Summary, picture: Picture) -> str:
    lines = heading(f"Detection for {summary['targets'][0]['name']} ({summary['targets'][0]['dataset']})", summary)
    for grid in grids(summary):
        lines += grid.markdown()
    lines += [*(f"- {line}" for line in failures(summary["rows"])), ""]
    return "\n".join([*lines, *figure(picture, "roc.png")])


def _events(folder: Path, summary: Summary, picture: Picture) -> None:
    """The picture, the tables, and a run for each detector and attack: its step is 1000 FPR, a whole number."""
    with SummaryWriter(str(folder)) as log:
        log.add_image("roc", picture.image, dataformats="HWC")
        log.add_text("tables", "\n".join(line for grid in grids(summary) for line in grid.markdown()))
    for row in summary["rows"]:
        if row["roc"] is not None:
            with SummaryWriter(str(folder / safe(f"{row['target']} {row['attack']}"))) as log:
                for rate, height in zip(summary["rates"], row["roc"], strict=True):
                    log.add_scalar("TPR (step: 1000 FPR)", height, round(1000 * rate))
