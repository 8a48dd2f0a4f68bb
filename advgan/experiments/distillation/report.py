"""Report of defensive distillation: success, robustness and gradients against temperature, and published success."""

from collections.abc import Iterator, Sequence
from typing import Any

from matplotlib.axes import Axes

from advgan.core.fraction import eps_text
from advgan.report import cells
from advgan.report.comparison import Plot
from advgan.report.figures import style
from advgan.report.figures.plot_groups import safe
from advgan.report.page import Cell, Columns, ResultRow, Summary, Table, number
from advgan.report.study import Scalar, StudyReport

COLUMNS = (
    *("temperature", "accuracy", "change", "attack", "n", "asr", "asr_low", "asr_high"),
    *("l2_median", "changed", "robustness", "published"),
)
# Success of JSMA on MNIST in %, without distillation and at each T (Papernot et al. 2016): as quoted in secondary
# sources, not checked against the paper.
PUBLISHED = {
    **{"none": 95.89, "1": 91.0, "2": 82.23, "5": 24.67, "10": 6.78, "20": 1.34},
    **{"30": 1.44, "40": 0.45, "50": 1.45, "100": 0.45},
}
UNDISTILLED = 0.6  # where "none" stands on the axis of temperatures
FLOOR = 1e-46  # where 0 stands on the axis of gradients, below the smallest float32, 1.4e-45
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
SUCCESS_PLOT = (
    "JSMA toward every wrong class against the temperature of the distillation, none: a plain classifier. Bands: 95 % "
    "Wilson intervals. The derivative of the softmax, as in 2016, vanishes and the attack with it; derivatives of the "
    "logits, or of the softmax without underflow, find the same boundary where it was. Dashed: Papernot et al. 2016 "
    "(MNIST), as quoted in secondary sources, not checked against the paper."
)
GRADIENTS_PLOT = (
    "The largest |dp/dx| of an image, over pixels and classes, p the softmax in float32: mean, median, and from the "
    "10 % to the 90 % quantile, over test images; a few unsure ones make up the mean. What is exactly 0 stands at the "
    "bottom. Distillation masks this gradient only: the logits and their gradient grow with T."
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
    temperature = {"T": cells.field("label")}
    jsma: Columns = {
        "published %": lambda row: number(PUBLISHED.get(row["label"]), ".2f"),
        **{f"{name} %": _within(cells.interval("asr"), "jsma", name) for name in derivatives},
        "accuracy %": cells.number("accuracy", ".2f", 100),
        "change": cells.number("change", "+.2f", 100),
    }
    forms = {"rho": cells.percent("robustness", digits=2), "changed": cells.percent("changed", digits=2)}
    robustness = {
        f"{form} {name} %": _within(cell, "jsma", name) for form, cell in forms.items() for name in derivatives
    }
    sizes = {"mean": "mean", "10 %": "low", "median": "median", "90 %": "high"}
    gradient_columns = {
        **{header: _within(cells.number(key, ".2g"), "gradients") for header, key in sizes.items()},
        "below 0.001 %": _within(cells.percent("small"), "gradients"),
        "exactly 0 %": _within(cells.percent("zero"), "gradients"),
    }
    title = f"JSMA on {target}, at most {summary['gamma']:.1%} of the pixels, up to {n} attacks each"
    parts: list[tuple[str, Columns, str]] = [
        (title, jsma, JSMA),
        (f"Other attacks on {target}", _others(table[0]["attacks"]), OTHERS.format(eps=eps_text(summary["eps"]))),
        ("Robustness against JSMA: share of pixels", robustness, ROBUSTNESS),
        ("Input gradients of the softmax", gradient_columns, GRADIENTS.format(n=table[0]["gradients"]["n"])),
    ]
    return [Table.of(title, table, {**temperature, **columns}, note) for title, columns, note in parts if columns]


def _others(attacks: ResultRow) -> Columns:
    columns: dict[str, Cell] = {}
    for name, result in attacks.items():
        columns[f"{name} ASR %"] = _within(cells.interval("asr"), "attacks", name)
        if result["protocol"] == "minimal-norm":
            columns[f"{name} median l2"] = _within(cells.number("l2_median", ".2f"), "attacks", name)
    return columns


def _within(cell: Cell, *keys: str) -> Cell:
    """The cell of a row inside each row."""

    def inner(row: Any) -> str:
        for key in keys:
            row = row[key]
        return cell(row)

    return inner


def success(table: Sequence[ResultRow]) -> Plot:
    """Success of JSMA's three derivatives against temperature, and the published curve."""
    figure = style.new_figure(10.2, 5.0)
    axes = figure.subplots()
    x = _positions(table)
    for i, derivative in enumerate(table[0]["jsma"]):
        results = [(temperature, row["jsma"][derivative]) for temperature, row in zip(x, table, strict=True)]
        points = [
            (temperature, result["asr"], result["asr_low"], result["asr_high"])
            for temperature, result in results
            if result["asr"] is not None
        ]
        if points:
            temperature, rate, low, high = zip(*points, strict=True)
            look = style.Style(style.COLOURS[i], style.MARKERS[i])
            style.line_with_band(axes, temperature, rate, (low, high), look, label=f"derivative of {derivative}")
    published = [(UNDISTILLED if label == "none" else float(label), value / 100) for label, value in PUBLISHED.items()]
    axes.plot(
        *zip(*published, strict=True), color="black", marker=".", linestyle="--", linewidth=1, label="published, 2016"
    )
    style.percent_axis(axes, label="success of JSMA")
    style.legend(figure)
    _temperatures(axes, sorted({*x, *(temperature for temperature, _ in published)}))
    return style.to_plot(figure, "JSMA against the temperature of defensive distillation", SUCCESS_PLOT)


def gradients(table: Sequence[ResultRow]) -> Plot:
    """Amplitude of the softmax's input gradient against temperature."""
    figure = style.new_figure(8.6, 5.0)
    axes = figure.subplots()
    x = _positions(table)
    lines = {key: [max(row["gradients"][key], FLOOR) for row in table] for key in ("mean", "median", "low", "high")}
    axes.plot(x, lines["mean"], color=style.COLOURS[1], marker="s", label="mean")
    look = style.Style(style.COLOURS[0], "o")
    style.line_with_band(axes, x, lines["median"], (lines["low"], lines["high"]), look, label="median")
    axes.set_yscale("log")
    exponents = range(-40, 1, 10)
    axes.set_yticks(
        [FLOOR, *(10.0**exponent for exponent in exponents)], ["0", *(f"1e{exponent}" for exponent in exponents)]
    )
    axes.set(ylim=(FLOOR / 10, 100), ylabel="largest |dp/dx| of an image")
    axes.legend(loc="lower left", fontsize=9, frameon=False)
    style.clean_axes(axes)
    _temperatures(axes, x)
    return style.to_plot(figure, "Input gradients of the softmax against temperature", GRADIENTS_PLOT)


def _positions(table: Sequence[ResultRow]) -> list[float]:
    return [UNDISTILLED if row["temperature"] is None else row["temperature"] for row in table]


def _temperatures(axes: Axes, places: Sequence[float]) -> None:
    """The axis of temperatures, logarithmic, with "none" before the first."""
    axes.set_xscale("log")
    axes.set_xticks(places, ["none" if temperature == UNDISTILLED else f"{temperature:g}" for temperature in places])
    axes.minorticks_off()
    axes.set_xlabel("temperature T")


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
