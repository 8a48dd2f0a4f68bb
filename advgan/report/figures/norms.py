"""Distributions of the norms of perturbations over images."""

import numpy as np
from matplotlib.axes import Axes

from advgan.core.fraction import eps_text
from advgan.evaluation.evaluate import Result
from advgan.report.comparison import Comparison, Plot
from advgan.report.figures.plot_groups import PlotGroup, plot_groups, safe
from advgan.report.figures.style import AXIS, Style, clean_axes, new_figure, percent, styles, to_plot

NORMS = ("l2", "linf")
CDF = (
    "For each norm, the fraction of attacked images with a successful perturbation of a minimum-norm attack of at most "
    "that norm. Further left and higher is better; where a curve ends below 100 %, the attack failed on the rest. "
    "Compare attacks in the norm that they minimise."
)
HISTOGRAM = (
    "Norms of the perturbations over the attacked images: solid where the attack succeeded within eps, pale "
    "where it did not. A bounded attack uses all of its eps (dashed) in its norm; a minimum-norm attack stops at the "
    "first misclassification. The height of the bars is relative to each attack."
)


def cumulative(comparison: Comparison) -> dict[str, Plot]:
    """Norm-CDFs of the minimum-norm attacks, in l2 and in linf: one figure per target and aim."""
    style = styles(comparison)
    results_by_name: dict[str, tuple[PlotGroup, dict[str, Result]]] = {}
    for group in plot_groups(comparison):  # a result is the same under each norm, but not each norm has all attacks
        _, results = results_by_name.setdefault(f"norms/{group.subject} minimum-norm", (group, {}))
        last = {attack: runs[-1] for attack, runs in group.attacks.items()}  # those at its other eps are alike
        results |= {attack: result for attack, result in last.items() if result.row["protocol"] == "minimal-norm"}
    return {
        name: _cumulative(group, [*results.values()], style)
        for name, (group, results) in results_by_name.items()
        if results
    }


def histograms(comparison: Comparison) -> dict[str, Plot]:
    """Histograms of l2 and linf, a line per attack, at the largest eps: one figure per target, norm and aim."""
    style = styles(comparison)
    return {
        f"norms/{group.name} {safe(eps_text(group.eps[-1]))}": _histograms(group, style)
        for group in plot_groups(comparison)
    }


def _cumulative(group: PlotGroup, results: list[Result], style: dict[str, Style]) -> Plot:
    figure = new_figure(11.5, 4.4)
    panels = figure.subplots(1, 2)
    for axes, norm in zip(panels, NORMS, strict=True):
        largest = 0.0
        for result in results:
            records, row = result.records, result.row
            size = np.sort(records[norm][records["fooled"]].double().numpy())
            fraction = np.arange(1, len(size) + 1) / max(int(records["counts"].sum()), 1)
            label = f"{row['attack']} (minimises {row['attack_norm']})"
            largest = max(largest, *size.tolist(), 0.0)
            look = {"color": style[row["attack"]].color, "linestyle": style[row["attack"]].line}
            axes.step([0, *size], [0, *fraction], where="post", label=label, **look)
        clean_axes(axes).set(xlim=(0, 1.05 * largest or 1), ylim=(0, 1.03), xlabel=AXIS[norm])
        axes.yaxis.set_major_formatter(percent)
    panels[0].set_ylabel(f"share of {group.n_attacked} attacked images")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", fontsize=8.5, frameon=False)
    return to_plot(figure, f"{group.target}{group.toward}: norms of successful perturbations (norm-CDF)", CDF)


def _histograms(group: PlotGroup, style: dict[str, Style]) -> Plot:
    results = [results[-1] for results in group.attacks.values()]
    figure = new_figure(10, 1.3 + 0.75 * len(results))
    panels = figure.subplots(len(results), 2, squeeze=False, sharex="col")
    for column, norm in enumerate(NORMS):
        largest = max(_sizes(result, norm)[0].max(initial=0.0) for result in results)
        bins = np.linspace(0, 1.02 * max(largest, 1e-6), 61).tolist()
        for result, axes in zip(results, panels[:, column], strict=True):
            _histogram(axes, result, norm, bins, style[result.row["attack"]].color)
            if norm == group.norm:
                axes.axvline(result.row["eps"], color="black", linestyle="--", linewidth=1)
        panels[-1, column].set_xlabel(AXIS[norm])
    for result, axes in zip(results, panels[:, 0], strict=True):
        text, color = result.row["attack"], style[result.row["attack"]].color
        axes.set_ylabel(text, rotation=0, ha="right", va="center", color=color, fontsize=9)
    title = (
        f"{group.title}, eps {eps_text(group.eps[-1])}: norms of the perturbations, {group.n_attacked} attacked images"
    )
    return to_plot(figure, title, HISTOGRAM)


def _sizes(result: Result, norm: str) -> tuple[np.ndarray, np.ndarray]:
    """Norms over the eligible images, and whether each is a success; of a minimum-norm attack over its successes,
    others stay unchanged."""
    selected = result.records["counts" if result.row["protocol"] == "bounded" else "fooled"]
    return result.records[norm][selected].double().numpy(), result.records["success"][selected].numpy()


def _histogram(axes: Axes, result: Result, norm: str, bins: list[float], color: str) -> None:
    """Successes, and the rest on top of them."""
    sizes, success = _sizes(result, norm)
    hits, all_counts = (np.histogram(part, bins)[0] for part in (sizes[success], sizes))
    axes.stairs(hits, bins, fill=True, color=color)
    axes.stairs(all_counts, bins, baseline=hits, fill=True, color=color, alpha=0.3)
    axes.set_yticks([])
    axes.set_ylim(0, 1.05 * max(all_counts.max(), 1))
    axes.spines[["top", "right", "left"]].set_visible(False)
