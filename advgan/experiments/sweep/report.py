"""A sweep on disk: accuracy and success against eps as tables, curves and images."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from advgan.core.files import atomic_write, atomic_write_dir
from advgan.core.threat_model import eps_text
from advgan.evaluation.evaluate import ROW_KEYS, Result
from advgan.evaluation.statistics import wilson
from advgan.experiments.sweep.examples import examples
from advgan.report.comparison import Comparison, Picture
from advgan.report.escaping import csv_text
from advgan.report.figures.cases import safe
from advgan.report.figures.curves import curves
from advgan.report.page import Grid, Row, body, heading, log_body, percent, share

COLUMNS = ("attack", "norm", "eps", "n", "accuracy", "low", "high", "asr", "asr_low", "asr_high")
KNOWN = (  # of a row at eps 0: what no attack decides
    *("target", "attack", "access", "protocol", "attack_norm", "norm", "targeted", "y_target"),
    *("seed", "batch_size", "n", "n_correct", "n_attacked", "clean_accuracy", "clean_rejected"),
)


def unattacked(row: Row) -> dict[str, Any]:
    """The row of the same attack at eps 0, where the ball holds nothing but the image itself."""
    n = row["n_attacked"]
    rate = dict(zip(("asr", "asr_low", "asr_high"), (0.0, *wilson(0, n)) if n else (None,) * 3, strict=True))
    sizes = dict.fromkeys(("l0_mean", "l2_mean", "linf_mean", "linf_max"), 0.0)
    known = {"eps": 0.0, "robust_accuracy": row["clean_accuracy"], "ssim_mean": 1.0, "violations": [], "status": "ok"}
    known |= {} if row["clean_rejected"] is None else {"rejected": 0.0}  # those that are rejected do not count
    return dict.fromkeys(ROW_KEYS) | {key: row[key] for key in KNOWN} | known | sizes | rate


def write_sweep(directory: Path, comparison: Comparison) -> None:
    """Write a sweep to `directory`, in place of what stood there.

    gallery/<attack>.png, curves.png, logs/sweep/ (for TensorBoard), sweep.md, sweep.csv, and sweep.json last.
    `comparison.summary["rows"]` holds eps 0 too, `comparison.results` all others; x and y are the images that the
    results' x_adv are the answers to.
    """
    summary = comparison.summary
    text = json.dumps(summary, indent=2, allow_nan=False) + "\n"
    pictures = draw(comparison)

    def write_galleries(folder: Path) -> None:
        for file, picture in pictures.items():
            if file.startswith("gallery/"):
                Image.fromarray(picture.image).save(folder / file.removeprefix("gallery/"), optimize=True)

    atomic_write_dir(directory / "gallery", write_galleries)
    if "curves.png" in pictures:
        Image.fromarray(pictures["curves.png"].image).save(directory / "curves.png", optimize=True)
    atomic_write_dir(directory / "logs" / "sweep", lambda folder: _events(folder, summary, pictures))
    atomic_write(directory / "sweep.md", _report(summary, pictures))
    atomic_write(directory / "sweep.csv", csv_text(COLUMNS, map(_line, summary["rows"])))
    atomic_write(directory / "sweep.json", text)


def draw(comparison: Comparison) -> dict[str, Picture]:
    """File name -> picture: the curves, and a gallery for each attack that has figures."""
    attacks: dict[str, list[Result]] = {}
    for result in sorted(comparison.results, key=lambda result: float(result.row["eps"])):
        if result.row["status"] == "ok":
            attacks.setdefault(result.row["attack"], []).append(result)
    drawn = list(curves(comparison).values())  # one target, one norm, one aim: one picture, if anything has figures
    found = dict(zip(["curves.png"], drawn, strict=False))
    for label, results in attacks.items():
        if picture := examples(label, results, comparison):
            found[f"gallery/{safe(label)}.png"] = picture
    return found


def grids(summary: Mapping[str, Any]) -> list[Grid]:
    """Accuracy and success, a line per attack, a column per eps; "–" where an attack was not run."""
    rows = summary["rows"]
    first, radii = rows[0], sorted({row["eps"] for row in rows})
    cells = {(row["attack"], row["eps"]): row for row in rows}
    aim = "" if first["y_target"] is None else f", toward class {first['y_target']}"
    where = f"on {first['target']}, {first['norm']}{aim}"
    accuracy = f"Of all {first['n']} images: right before the attack, and not made wrong by it."
    success = f"Of the {first['n_attacked']} attacked images, which are right before it."
    heads = ["attack", *map(eps_text, radii)]
    return [
        Grid(
            f"{title} {where}, against eps",
            heads,
            [
                [attack, *(percent(cells[attack, eps][key]) if (attack, eps) in cells else "–" for eps in radii)]
                for attack in dict.fromkeys(row["attack"] for row in rows)
            ],
            note,
        )
        for title, key, note in (("Accuracy %", "robust_accuracy", accuracy), ("ASR %", "asr", success))
    ]


def _line(row: Row) -> list[Any]:
    accuracy = share(row["robust_accuracy"], row["n"])
    return [row["attack"], row["norm"], row["eps"], row["n"], *accuracy, row["asr"], row["asr_low"], row["asr_high"]]


def _report(summary: Mapping[str, Any], pictures: Mapping[str, Picture]) -> str:
    target = summary["target"]
    lines = heading(f"Attacks on {target['label']} ({target['dataset']}) against eps", summary)
    return "\n".join([*lines, *body(grids(summary), summary["rows"], pictures)])


def _events(folder: Path, summary: Mapping[str, Any], pictures: Mapping[str, Picture]) -> None:
    """A run per attack, so that a chart shows all of them; its step is 1000 eps, because a step is a whole number."""
    with SummaryWriter(str(folder)) as log:
        log_body(log, grids(summary), pictures)
    for attack in dict.fromkeys(row["attack"] for row in summary["rows"]):
        with SummaryWriter(str(folder / safe(attack))) as log:
            for row in summary["rows"]:
                if row["attack"] == attack and row["status"] == "ok":
                    step = round(1000 * row["eps"])
                    log.add_scalar("accuracy (step: 1000 eps)", row["robust_accuracy"], step)
                    if row["asr"] is not None:
                        log.add_scalar("asr (step: 1000 eps)", row["asr"], step)
