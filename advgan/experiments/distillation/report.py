"""Defensive distillation on disk: success, robustness and gradients against temperature, and the published success."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from advgan.core.files import atomic_write, atomic_write_dir
from advgan.core.threat_model import eps_text
from advgan.experiments.distillation.plots import PUBLISHED, gradients, success
from advgan.report.comparison import Picture
from advgan.report.escaping import csv_text
from advgan.report.figures.cases import safe
from advgan.report.page import Grid, Row, body, heading, log_body, percent

Summary = Mapping[str, Any]  # distillation.json
COLUMNS = (
    *("temperature", "accuracy", "change", "attack", "n", "asr", "asr_low", "asr_high"),
    *("l2_median", "changed", "robustness", "published"),
)
JSMA = (
    "Success of JSMA toward every wrong class, of pairs of a correctly classified image and a class, and its 95 % "
    "Wilson interval. softmax: with the derivative of the softmax in float32, as in 2016; logits: of the logits; "
    "probabilities: of the softmax, in a form that cannot underflow. Published: Papernot et al. 2016, MNIST, on a net "
    "of their own, as quoted in secondary sources, not checked against the paper (CIFAR-10: 87.89 % without "
    "distillation, 5.11 % with it). Change: of the accuracy on all test images, in points, against none, which is the "
    "teacher of T = 1."
)
OTHERS = (
    "Bounded attacks at linf eps {eps}, minimal-norm ones at any distance; median l2 of the latter, a failure "
    "counted as infinitely far. advgan: one pass of a generator that was trained on this very classifier."
)
ROBUSTNESS = (
    "rho_adv: the share of pixels that JSMA changes to reach the nearest wrong class, mean over images, in %; an image "
    "that it never fools counts with the most that it may change. Changed: the mean of all successes."
)
GRADIENTS = (
    "The largest |dp/dx| of an image over pixels and classes, p the softmax at T = 1 in float32: mean and quantiles "
    "over {n} test images, and the share of images where it is below 0.001, and exactly 0."
)


def write_distillation(directory: Path, summary: Summary) -> None:
    """Write success.png, gradients.png, logs/distillation/ (for TensorBoard), distillation.md and .csv, .json last.

    `summary` has "environment", "targets", "generators", "rows" (as in results.json), "eps", "gamma", and "table", the
    lines that eval/distillation.py makes.
    """
    text = json.dumps(summary, indent=2, allow_nan=False) + "\n"
    pictures = {"success.png": success(summary["table"]), "gradients.png": gradients(summary["table"])}
    for file, picture in pictures.items():
        Image.fromarray(picture.image).save(directory / file, optimize=True)
    atomic_write_dir(directory / "logs" / "distillation", lambda folder: _events(folder, summary, pictures))
    atomic_write(directory / "distillation.md", _report(summary, pictures))
    atomic_write(directory / "distillation.csv", csv_text(COLUMNS, _lines(summary["table"])))
    atomic_write(directory / "distillation.json", text)


def grids(summary: Summary) -> list[Grid]:
    """JSMA beside the published figures, the other attacks, robustness, and gradients: a line for each temperature."""
    table: Sequence[Row] = summary["table"]
    derivatives, target = list(table[0]["jsma"]), summary["targets"][0]["name"]
    n = max(each["n"] or 0 for row in table for each in row["jsma"].values())
    found = [
        Grid(
            f"JSMA on {target}, at most {100 * summary['gamma']:.1f} % of the pixels, up to {n} attacks each",
            ["T", "published %", *(f"{each} %" for each in derivatives), "accuracy %", "change"],
            [
                [
                    *(row["label"], "–" if (said := PUBLISHED.get(row["label"])) is None else f"{said:.2f}"),
                    *(_interval(row["jsma"][each]) for each in derivatives),
                    *(f"{100 * row['accuracy']:.2f}", f"{100 * row['change']:+.2f}"),
                ]
                for row in table
            ],
            JSMA,
        )
    ]
    if table[0]["attacks"]:
        found.append(_others(table, target, summary["eps"]))
    heads = [f"{form} {each} %" for form in ("rho", "changed") for each in derivatives]
    lines = [
        [row["label"], *(_percent(row["jsma"][each][key]) for key in ("robustness", "changed") for each in derivatives)]
        for row in table
    ]
    found.append(Grid("Robustness against JSMA: share of pixels", ["T", *heads], lines, ROBUSTNESS))
    keys, shares = ("mean", "low", "median", "high"), ("small", "zero")
    lines = [
        [
            row["label"],
            *(f"{row['gradients'][key]:.2g}" for key in keys),
            *(percent(row["gradients"][key]) for key in shares),
        ]
        for row in table
    ]
    heads = ["T", "mean", "10 %", "median", "90 %", "below 0.001 %", "exactly 0 %"]
    note = GRADIENTS.format(n=table[0]["gradients"]["n"])
    return [*found, Grid("Input gradients of the softmax", heads, lines, note)]


def _others(table: Sequence[Row], target: str, eps: float) -> Grid:
    heads, keys = ["T"], list[tuple[str, str]]()
    for name, each in table[0]["attacks"].items():
        heads.append(f"{name} ASR %")
        keys.append((name, "asr"))
        if each["protocol"] == "minimal-norm":
            heads.append("median l2")
            keys.append((name, "l2_median"))
    lines = []
    for row in table:
        cells = [(key, row["attacks"][name]) for name, key in keys]
        lines.append([row["label"], *(_interval(each) if key == "asr" else _length(each[key]) for key, each in cells)])
    return Grid(f"Other attacks on {target}", heads, lines, OTHERS.format(eps=eps_text(eps)))


def _interval(row: Row) -> str:
    """A rate and its 95 % interval, as far as there is one."""
    if row["asr"] is None:
        return "failed"
    return f"{100 * row['asr']:.1f} ({100 * row['asr_low']:.1f}–{100 * row['asr_high']:.1f})"


def _length(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f}"


def _lines(table: Sequence[Row]) -> list[list[Any]]:
    """A line of the CSV file for each temperature and attack."""
    found = []
    for row in table:
        attacks = {f"jsma {each}": figures for each, figures in row["jsma"].items()} | row["attacks"]
        for attack, figures in attacks.items():
            said = PUBLISHED.get(row["label"]) if attack == "jsma softmax" else None
            line = row | figures | {"attack": attack, "published": None if said is None else round(said / 100, 4)}
            line["temperature"] = row["label"]
            found.append([line.get(column) for column in COLUMNS])
    return found


def _report(summary: Summary, pictures: Mapping[str, Picture]) -> str:
    target = summary["targets"][0]
    lines = heading(f"Defensive distillation of {target['name']} ({target['dataset']}) against temperature", summary)
    return "\n".join([*lines, *body(grids(summary), summary["rows"], pictures)])


def _events(folder: Path, summary: Summary, pictures: Mapping[str, Picture]) -> None:
    """Pictures, tables, and a run per attack; a step is the temperature, 0 where there is no distillation."""
    table = summary["table"]
    with SummaryWriter(str(folder)) as log:
        log_body(log, grids(summary), pictures)
        for row in table:
            step = round(row["temperature"] or 0)
            log.add_scalar("accuracy (step: temperature)", row["accuracy"], step)
            log.add_scalar("largest input gradient, mean (step: temperature)", row["gradients"]["mean"], step)
    for name in [f"jsma {each}" for each in table[0]["jsma"]] + list(table[0]["attacks"]):
        with SummaryWriter(str(folder / safe(name))) as log:
            for row in table:
                figures = row["attacks"].get(name) or row["jsma"][name.removeprefix("jsma ")]
                for key in ("asr", "robustness"):
                    if figures.get(key) is not None:
                        log.add_scalar(f"{key} (step: temperature)", figures[key], round(row["temperature"] or 0))
