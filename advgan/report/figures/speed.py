"""Speed against success."""

from itertools import product

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.transforms import Bbox

from advgan.core.fraction import eps_text
from advgan.report.comparison import Comparison, Plot
from advgan.report.figures.plot_groups import PlotGroup, plot_groups, safe
from advgan.report.figures.style import Style, clean_axes, new_figure, percent, styles, to_plot

CAPTION = (
    "Right is faster, up is stronger, at one radius eps. The shaded steps are the Pareto front: no other bounded "
    "attack is both faster and stronger than one on it. Filled: bounded attacks, with 95 % Wilson intervals. Hollow: "
    "minimum-norm attacks, without eps; their successes count where the norm is at most eps, and they are "
    "not part of the front; nor is noise (grey), a baseline. Dotted: the speed of FGSM, one forward and "
    "one backward pass. Speeds are those of this report's machine and batch size, without the training of "
    "a generator."
)
# Of a label from its point.
LABEL_DIRECTIONS = ((1, 0), (-1, 0), (0.7, 1), (0.7, -1), (-0.7, 1), (-0.7, -1), (0, 1), (0, -1))


def speed(comparison: Comparison) -> dict[str, Plot]:
    """A scatter for each target, norm and aim at three radii at most: the smallest, the middle and the largest."""
    style, plots = styles(comparison), {}
    for group in plot_groups(comparison):
        eps = group.eps
        for eps_value in sorted({eps[0], eps[len(eps) // 2], eps[-1]}):
            plots[f"speed/{group.name} {safe(eps_text(eps_value))}"] = _plot(group, eps_value, style)
    return plots


def pareto(points: list[tuple[float, float]]) -> list[int]:
    """Indices of the points (speed, success) on the Pareto front, by growing speed, without success 0."""
    best, front = 0.0, []
    for i in sorted(range(len(points)), key=lambda i: points[i], reverse=True):
        if points[i][1] > best:
            best = points[i][1]
            front.append(i)
    return front[::-1]


def _plot(group: PlotGroup, eps: float, style: dict[str, Style]) -> Plot:
    rows = [result.row for result in group.at(eps)]
    points = [(row["images_per_second"], row["asr"]) for row in rows]
    figure = new_figure(9, 5.4)
    axes = clean_axes(figure.subplots())
    axes.set(xscale="log", ylim=(-0.06, 1.09), xlabel="images per second (logarithmic)")
    axes.set_ylabel(f"ASR, of {group.n_attacked} attacked images")
    axes.yaxis.set_major_formatter(percent)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    axes.xaxis.set_minor_formatter("")
    for row, (x, y) in zip(rows, points, strict=True):
        color, marker, _ = style[row["attack"]]
        error = [[max(y - row["asr_low"], 0)], [max(row["asr_high"] - y, 0)]]
        inside = "white" if row["protocol"] == "minimal-norm" else color
        size = 13 if marker == "*" else 8
        axes.errorbar(x, y, error, color=color, capsize=2, elinewidth=1)
        axes.plot(x, y, marker=marker, markersize=size, color=color, markerfacecolor=inside)
    low, high = np.log10([min(points)[0], max(points)[0]])
    margin = max(0.12 * (high - low), (1.2 - high + low) / 2)  # more than a power of ten, for one has a number
    axes.set_xlim(10 ** (low - margin), 10 ** (high + margin))
    bounded = [row for row in rows if row["protocol"] == "bounded" and row["access"] != "nothing"]
    bounded_points = [(row["images_per_second"], row["asr"]) for row in bounded]
    if front := [bounded_points[i] for i in pareto(bounded_points)]:
        x, y = np.array([(axes.get_xlim()[0], front[0][1]), *front]).T
        axes.step(x, y, where="pre", color="#555555", linewidth=1, zorder=1)
        axes.fill_between(x, y, -0.06, step="pre", color="#555555", alpha=0.07, linewidth=0)
    if "fgsm" in style:
        for x in [row["images_per_second"] for row in rows if row["attack"] == "fgsm"]:
            axes.axvline(x, color=style["fgsm"].color, linestyle=":", linewidth=1.2, zorder=1)
    _label(axes, points, [row["attack"] for row in rows], [style[row["attack"]].color for row in rows])
    return to_plot(figure, f"{group.title}, eps {eps_text(eps)}: speed against success", CAPTION)


def _label(axes: Axes, points: list[tuple[float, float]], texts: list[str], colours: list[str]) -> None:
    """Write a text next to each point without overlap; a line connects distant ones.

    Greedy: from the top down, each label gets the first free place around its point, near ones first.
    """
    FigureCanvasAgg(axes.get_figure(root=True)).draw()  # sets the positions of the points
    frame = axes.get_window_extent()
    centres = axes.transData.transform(points)
    boxes = [Bbox.from_extents(*(centre - 7), *(centre + 7)) for centre in centres]  # of points, then of texts too
    for i in sorted(range(len(texts)), key=lambda i: (-centres[i][1], -centres[i][0])):
        others = boxes[:i] + boxes[i + 1 :]
        width = 6.6 * len(texts[i])
        places = [(dx * far, dy * far) for far, (dx, dy) in product((11, 20, 34, 50, 70, 95, 125), LABEL_DIRECTIONS)]
        spots = [_spot(centres[i] + place, place, width, 13) for place in places]
        best = min(range(len(spots)), key=lambda j: _crowding(spots[j], others, frame))
        boxes.append(spots[best])
        dx, dy = places[best]
        axes.annotate(
            texts[i],
            points[i],
            (dx, dy),
            textcoords="offset pixels",
            ha="left" if dx > 0 else "right" if dx < 0 else "center",
            va="bottom" if dy > 0 else "top" if dy < 0 else "center",
            fontsize=8.5,
            color=colours[i],
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.5},
            arrowprops={"arrowstyle": "-", "color": "#999999", "linewidth": 0.7} if abs(dx) + abs(dy) > 30 else None,
        )


def _spot(corner: np.ndarray, towards: tuple[float, float], width: float, height: float) -> Bbox:
    """The box of a text that extends away from its point: right and up for positive directions, both ways for 0."""
    x, y = (
        position - size * (0 if direction > 0 else 1 if direction < 0 else 0.5)
        for position, size, direction in zip(corner, (width, height), towards, strict=True)
    )
    return Bbox.from_bounds(x, y, width, height)


def _crowding(box: Bbox, others: list[Bbox], frame: Bbox) -> int:
    """Number of other boxes that a box covers; leaving the frame is worse than any."""
    inside = frame.x0 < box.x0 and box.x1 < frame.x1 and frame.y0 < box.y0 and box.y1 < frame.y1
    return box.count_overlaps(others) + (0 if inside else 1000)
