"""Styles of the figures: colours for the colour-blind (Okabe and Ito 2008), one for each attack."""

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from advgan.report.comparison import Comparison, Plot
from advgan.report.gallery import pixels

COLOURS = (
    *("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#7A4A00"),
    *("#332288", "#882255", "#999933", "#117733", "#AA4499", "#222222"),
)
LINES: tuple[Any, ...] = ("-", "--", "-.", (0, (1, 1.2)))  # each for as many attacks as there are colours
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h")
# By access: a generator is a vermilion star, in every report; noise, the baseline, is grey.
BY_ACCESS = {
    "generator": (("#D55E00", "#8A3200", "#FF9466"), ("*", "p", "8", "H")),
    "nothing": (("#777777", "#AAAAAA", "#444444"), MARKERS),
}
DPI = 100
AXIS = {
    "l2": "l2 norm of the perturbation, pixels in [0, 1]",
    "linf": "linf norm: largest change of a pixel, pixels in [0, 1]",
    "l0": "l0: number of pixels changed",
}


class Style(NamedTuple):
    """How an attack is drawn, in all figures of a report."""

    color: str
    marker: str
    line: Any = "-"  # a line style of matplotlib


def styles(comparison: Comparison) -> dict[str, Style]:
    """Attack label -> its style, by the order of the report."""
    return by_access({result.row["attack"]: result.row["access"] for result in comparison.results})


def by_access(access: Mapping[str, str]) -> dict[str, Style]:
    """Attack label -> its style, from label -> access: 48 pairs of colour and line before one returns."""
    used, styles_by_label = Counter[int](), {}
    for label, kind in access.items():
        colours, markers = palette = BY_ACCESS.get(kind, (COLOURS, MARKERS))
        i = used[id(palette[0])]
        used[id(palette[0])] += 1
        line = LINES[i // len(colours) % len(LINES)]
        styles_by_label[label] = Style(colours[i % len(colours)], markers[i % len(markers)], line)
    return styles_by_label


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, with a constrained layout."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def clean_axes(axes: Axes, title: str = "") -> Axes:
    """Axes without a box, with a light grid."""
    axes.set_title(title, fontsize=10, loc="left")
    axes.grid(color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def percent_axis(axes: Axes, title: str = "", label: str = "") -> Axes:
    """Clean axes of rates from 0 to 1, in percent."""
    axes.yaxis.set_major_formatter(percent)
    clean_axes(axes, title).set(ylim=(-0.02, 1.03), ylabel=label)
    return axes


def legend(figure: Figure, *handles_and_labels: Any, size: float = 9) -> None:
    """A legend right of the axes: of handles and their labels, by default of all in the figure."""
    figure.legend(*handles_and_labels, loc="outside right center", fontsize=size, frameon=False)


def line_with_band(
    axes: Axes, x: Sequence[float], y: Sequence[float], ends: tuple[Any, Any], style: Style, **settings: Any
) -> Artist:
    """A line in a style, and around it a band between the `ends`."""
    (line,) = axes.plot(x, y, color=style.color, marker=style.marker, linestyle=style.line, **settings)
    axes.fill_between(x, *ends, color=style.color, alpha=0.13, linewidth=0)
    return line


def heat_map_cell(axes: Axes, place: tuple[float, float], text: str, value: float | None, **settings: Any) -> None:
    """A text on a field of the colour map cividis, white on dark."""
    color = "white" if value is not None and value <= 0.55 else "black"
    axes.text(*place, text, ha="center", va="center", color=color, **settings)


def percent(value: float, _: object = None) -> str:
    """A tick's label."""
    return f"{value:.0%}"


def to_plot(figure: Figure, title: str, caption: str) -> Plot:
    """Put the title on the figure, and draw it."""
    characters = int(figure.get_figwidth() * 10)  # of 12 points, bold
    figure.suptitle("\n".join(textwrap.wrap(title, characters)), fontsize=12, weight="bold")
    return Plot(title, caption, pixels(figure))


def with_caption(plot: Plot) -> np.ndarray:
    """The figure with its caption below it, for viewers of images alone: (height, width, 3) uint8."""
    height, width, _ = plot.image.shape
    width = max(width, 600)
    lines = textwrap.wrap(plot.caption, width // 7)
    strip_height = 18 * len(lines) + 16
    figure = Figure(figsize=(width / DPI, strip_height / DPI), dpi=DPI)
    figure.text(12 / width, 1 - 8 / strip_height, "\n".join(lines), va="top", fontsize=9.5, linespacing=1.25)
    strip = pixels(figure)
    image = np.full((height + len(strip), max(width, strip.shape[1]), 3), 255, np.uint8)
    image[:height, : plot.image.shape[1]], image[height:, : strip.shape[1]] = plot.image, strip
    return image
