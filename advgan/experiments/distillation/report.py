"""Report of defensive distillation: success, robustness and gradients against temperature, and published success."""

from collections.abc import Iterator, Sequence
from typing import Any

from advgan.core.threat_model import eps_text
from advgan.experiments.distillation.plots import PUBLISHED, gradients, success
from advgan.report.figures.plot_groups import safe
from advgan.report.page import ResultRow, Summary, Table, number, percent, with_interval
from advgan.report.study import Scalar, StudyReport

COLUMNS = (
    *("temperature", "accuracy", "change", "attack", "n", "asr", "asr_low", "asr_high"),
    *("l2_median", "changed", "robustness", "published"),
)
JSMA = (
    "Success of JSMA toward every wrong class, of pairs of a correctly classified image and a class, and its 95 % "
    "Wilson interval. softmax: with the derivative of the softmax in float32, as in 2016; logits: of the logits; "
    "probabilities: of the softmax, in a form that cannot underflow. Published: Papernot et al. 2016, MNIST, another "
    "network, as quoted in secondary sources, not checked against the paper (CIFAR-10: 87.89 % without "
    "distillation, 5.11 % with it). Change: of the accuracy on all test images, in points, against none, which is the "
    "teacher of T = 1."
)
OTHERS = (
    "Bounded attacks at linf eps {eps}, minimum-norm ones at any distance; median l2 of the latter, a failure "
    "counted as infinitely far. advgan: one pass of a generator that was trained on this classifier."
)
ROBUSTNESS = (
    "rho_adv: the fraction of pixels that JSMA changes to reach the nearest wrong class, mean over images, in %; "
    "without success the largest allowed fraction. Changed: the mean of all successes."
)
GRADIENTS = (
    "The largest |dp/dx| of an image over pixels and classes, p the softmax at T = 1 in float32: mean and quantiles "
    "over {n} test images, and the share of images where it is below 0.001, and exactly 0."
)


def report(summary: Summary) -> StudyReport:
    """success.png, gradients.png, distillation.json, .md and .csv.

    `summary` has "environment", "targets", "generators", "rows" (as in results.json), "eps", "gamma", and "table", a
    row for each temperature.
    """
    target, table = summary["targets"][0], summary["table"]
    return StudyReport(
        name="distillation",
        title=f"Defensive distillation of {target['name']} ({target['dataset']}) against temperature",
        summary=summary,
        rows=summary["rows"],
        tables=tables(summary),
        figures={"success.png": success(table), "gradients.png": gradients(table)},
        columns=COLUMNS,
        csv_rows=list(_csv_rows(table)),
        scalars=list(_scalars(table)),
    )


def tables(summary: Summary) -> list[Table]:
    """JSMA and its published success, the other attacks, robustness, and gradients: a line for each temperature."""
    table: Sequence[ResultRow] = summary["table"]
    derivatives, target = list(table[0]["jsma"]), summary["targets"][0]["name"]
    n = max(result["n"] or 0 for row in table for result in row["jsma"].values())
    result_tables = [
        Table(
            f"JSMA on {target}, at most {100 * summary['gamma']:.1f} % of the pixels, up to {n} attacks each",
            ["T", "published %", *(f"{result} %" for result in derivatives), "accuracy %", "change"],
            [
                [
                    *(row["label"], number(PUBLISHED.get(row["label"]), ".2f")),
                    *(with_interval(row["jsma"][result]) for result in derivatives),
                    *(f"{100 * row['accuracy']:.2f}", f"{100 * row['change']:+.2f}"),
                ]
                for row in table
            ],
            JSMA,
        )
    ]
    if table[0]["attacks"]:
        result_tables.append(_others(table, target, summary["eps"]))
    headers = [f"{form} {result} %" for form in ("rho", "changed") for result in derivatives]
    text_rows = [
        [
            row["label"],
            *(percent(row["jsma"][result][key], "–", 2) for key in ("robustness", "changed") for result in derivatives),
        ]
        for row in table
    ]
    result_tables.append(Table("Robustness against JSMA: share of pixels", ["T", *headers], text_rows, ROBUSTNESS))
    keys, shares = ("mean", "low", "median", "high"), ("small", "zero")
    text_rows = [
        [
            row["label"],
            *(f"{row['gradients'][key]:.2g}" for key in keys),
            *(percent(row["gradients"][key]) for key in shares),
        ]
        for row in table
    ]
    headers = ["T", "mean", "10 %", "median", "90 %", "below 0.001 %", "exactly 0 %"]
    note = GRADIENTS.format(n=table[0]["gradients"]["n"])
    return [*result_tables, Table("Input gradients of the softmax", headers, text_rows, note)]


def _others(table: Sequence[ResultRow], target: str, eps: float) -> Table:
    headers, keys = ["T"], list[tuple[str, str]]()
    for name, result in table[0]["attacks"].items():
        headers.append(f"{name} ASR %")
        keys.append((name, "asr"))
        if result["protocol"] == "minimal-norm":
            headers.append("median l2")
            keys.append((name, "l2_median"))
    text_rows = []
    for row in table:
        results = [(key, row["attacks"][name]) for name, key in keys]
        text_rows.append(
            [
                row["label"],
                *(with_interval(result) if key == "asr" else number(result[key], ".2f") for key, result in results),
            ]
        )
    return Table(f"Other attacks on {target}", headers, text_rows, OTHERS.format(eps=eps_text(eps)))


def _csv_rows(table: Sequence[ResultRow]) -> Iterator[dict[str, Any]]:
    """A line of the CSV file for each temperature and attack."""
    for row in table:
        attacks = {f"jsma {derivative}": rates for derivative, rates in row["jsma"].items()} | row["attacks"]
        for attack, rates in attacks.items():
            published = PUBLISHED.get(row["label"]) if attack == "jsma softmax" else None
            names = {"temperature": row["label"], "attack": attack}
            yield row | rates | names | {"published": None if published is None else round(published / 100, 4)}


def _scalars(table: Sequence[ResultRow]) -> Iterator[Scalar]:
    """A run per attack; a step is the temperature, 0 where there is no distillation."""
    steps = [round(row["temperature"] or 0) for row in table]
    for step, row in zip(steps, table, strict=True):
        yield Scalar("", "accuracy (step: temperature)", row["accuracy"], step)
        yield Scalar("", "largest input gradient, mean (step: temperature)", row["gradients"]["mean"], step)
    for name in [f"jsma {derivative}" for derivative in table[0]["jsma"]] + list(table[0]["attacks"]):
        for step, row in zip(steps, table, strict=True):
            rates = row["attacks"].get(name) or row["jsma"][name.removeprefix("jsma ")]
            for key in ("asr", "robustness"):
                if rates.get(key) is not None:
                    yield Scalar(safe(name), f"{key} (step: temperature)", rates[key], step)
