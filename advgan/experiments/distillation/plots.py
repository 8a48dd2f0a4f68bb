"""Figures of defensive distillation: JSMA's success and the softmax's gradients against temperature."""

from collections.abc import Sequence

from matplotlib.axes import Axes

from advgan.report.comparison import Plot
from advgan.report.figures import style
from advgan.report.page import ResultRow

# Success of JSMA on MNIST in %, without distillation and at each T (Papernot et al. 2016): as quoted in secondary
# sources, not checked against the paper.
PUBLISHED = {
    **{"none": 95.89, "1": 91.0, "2": 82.23, "5": 24.67, "10": 6.78, "20": 1.34},
    **{"30": 1.44, "40": 0.45, "50": 1.45, "100": 0.45},
}
UNDISTILLED = 0.6  # where "none" stands on the axis of temperatures
FLOOR = 1e-46  # where 0 stands on the axis of gradients, below the smallest float32, 1.4e-45
SUCCESS = (
    "JSMA toward every wrong class against the temperature of the distillation, none: a plain classifier. Bands: 95 % "
    "Wilson intervals. The derivative of the softmax, as in 2016, vanishes and the attack with it; derivatives of the "
    "logits, or of the softmax without underflow, find the same boundary where it was. Dashed: Papernot et al. 2016 "
    "(MNIST), as quoted in secondary sources, not checked against the paper."
)
GRADIENTS = (
    "The largest |dp/dx| of an image, over pixels and classes, p the softmax in float32: mean, median, and from the "
    "10 % to the 90 % quantile, over test images; a few unsure ones make up the mean. What is exactly 0 stands at the "
    "bottom. Distillation masks this gradient only: the logits and their gradient grow with T."
)


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
            axes.plot(
                temperature, rate, color=style.COLOURS[i], marker=style.MARKERS[i], label=f"derivative of {derivative}"
            )
            axes.fill_between(temperature, low, high, color=style.COLOURS[i], alpha=0.13, linewidth=0)
    published = [(UNDISTILLED if label == "none" else float(label), value / 100) for label, value in PUBLISHED.items()]
    axes.plot(
        *zip(*published, strict=True), color="black", marker=".", linestyle="--", linewidth=1, label="published, 2016"
    )
    axes.set(ylim=(-0.02, 1.03), ylabel="success of JSMA")
    axes.yaxis.set_major_formatter(style.percent)
    figure.legend(loc="outside right center", fontsize=9, frameon=False)
    _temperatures(axes, sorted({*x, *(temperature for temperature, _ in published)}))
    return style.to_plot(figure, "JSMA against the temperature of defensive distillation", SUCCESS)


def gradients(table: Sequence[ResultRow]) -> Plot:
    """Amplitude of the softmax's input gradient against temperature."""
    figure = style.new_figure(8.6, 5.0)
    axes = figure.subplots()
    x = _positions(table)
    lines = {key: [max(row["gradients"][key], FLOOR) for row in table] for key in ("mean", "median", "low", "high")}
    axes.plot(x, lines["mean"], color=style.COLOURS[1], marker="s", label="mean")
    axes.plot(x, lines["median"], color=style.COLOURS[0], marker="o", label="median")
    axes.fill_between(x, lines["low"], lines["high"], color=style.COLOURS[0], alpha=0.13, linewidth=0)
    axes.set_yscale("log")
    exponents = range(-40, 1, 10)
    axes.set_yticks(
        [FLOOR, *(10.0**exponent for exponent in exponents)], ["0", *(f"1e{exponent}" for exponent in exponents)]
    )
    axes.minorticks_off()
    axes.set(ylim=(FLOOR / 10, 100), ylabel="largest |dp/dx| of an image")
    axes.legend(loc="lower left", fontsize=9, frameon=False)
    _temperatures(axes, x)
    return style.to_plot(figure, "Input gradients of the softmax against temperature", GRADIENTS)


def _positions(table: Sequence[ResultRow]) -> list[float]:
    return [UNDISTILLED if row["temperature"] is None else row["temperature"] for row in table]


def _temperatures(axes: Axes, places: Sequence[float]) -> None:
    """The axis of temperatures, logarithmic, with "none" before the first."""
    style.clean_axes(axes)
    axes.set_xscale("log")
    axes.set_xticks(places, ["none" if temperature == UNDISTILLED else f"{temperature:g}" for temperature in places])
    axes.minorticks_off()
    axes.set_xlabel("temperature T")
