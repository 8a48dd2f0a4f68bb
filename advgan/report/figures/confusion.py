"""Confusion matrices under attack: true class against prediction."""

import numpy as np
import torch
from matplotlib.axes import Axes

from advgan.core.fraction import eps_text
from advgan.evaluation.evaluate import Result
from advgan.report.comparison import Comparison, Plot
from advgan.report.figures.plot_groups import PlotGroup, plot_groups, safe
from advgan.report.figures.style import new_figure, to_plot

CAPTION = (
    "Successes only. A row is a true class, a column the prediction under attack; numbers count images, the colour is "
    "their fraction of the row. A dark column over all rows means that an attack moves all images to one class, as a "
    "nearly universal perturbation does; scattered entries mean that it depends on the image. Of many classes only "
    "those that occur are shown."
)
LABELS = 20  # classes that get a name and a number in each cell


def confusion(comparison: Comparison) -> dict[str, Plot]:
    """A figure for each target, norm and aim at the largest eps: the generator, the strongest attack, FGSM."""
    return {
        f"confusion/{group.name} {safe(eps_text(group.eps[-1]))}": _plot(group, chosen, comparison.classes)
        for group in plot_groups(comparison)
        if (chosen := _chosen(group))
    }


def counts(result: Result, classes: np.ndarray) -> np.ndarray:
    """(k, k) number of successes, by true class and prediction under attack, both among the k `classes`."""
    hit = result.records["success"]
    places = [np.searchsorted(classes, result.records[name][hit].numpy()) for name in ("label", "prediction")]
    table = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(table, tuple(places), 1)
    return table


def _chosen(group: PlotGroup) -> list[Result]:
    """The generator, the strongest other bounded attack and FGSM; of these, the ones with a success."""
    bounded = [result for result in group.at(group.eps[-1]) if result.row["protocol"] == "bounded"]
    others = [result for result in bounded if result.row["access"] not in ("generator", "nothing")]
    strongest = max((r for r in others if r.row["attack"] != "fgsm"), key=lambda r: r.row["asr"], default=None)
    chosen = [result for result in bounded if result.row["access"] == "generator"][:1]
    chosen += [] if strongest is None else [strongest]
    chosen += [result for result in bounded if result.row["attack"] == "fgsm"]
    return [result for result in chosen if result.row["asr"]]


def occurring(chosen: list[Result], classes: int) -> np.ndarray:
    """(m,) ascending: the classes of the table: all if they are few, else those that occur."""
    if classes <= LABELS:
        return np.arange(classes)
    occurrences = [
        result.records[name][result.records["success"]] for result in chosen for name in ("label", "prediction")
    ]
    return torch.cat(occurrences).unique().numpy()


def _plot(group: PlotGroup, chosen: list[Result], classes: tuple[str, ...]) -> Plot:
    shown_classes = occurring(chosen, len(classes))
    k = len(shown_classes)
    width = min(max(0.36 * k, 3.0), 7.0)
    figure = new_figure(len(chosen) * (width + 0.9) + 0.6, width + 1.5)
    panels = figure.subplots(1, len(chosen), squeeze=False)[0]
    for axes, result in zip(panels, chosen, strict=True):
        _matrix(axes, counts(result, shown_classes), tuple(classes[i] for i in shown_classes))
        row = result.row
        axes.set_title(f"{row['attack']}: ASR {row['asr']:.1%}", fontsize=10, loc="left")
        axes.set_xlabel("prediction under attack")
    panels[0].set_ylabel("true class (successes)")
    title = f"{group.title}, eps {eps_text(group.eps[-1])}: predictions for {group.n_attacked} attacked images"
    return to_plot(figure, title, CAPTION)


def _matrix(axes: Axes, table: np.ndarray, classes: tuple[str, ...]) -> None:
    k, total = len(classes), table.sum(1)
    row_fraction = table / np.maximum(total, 1)[:, None]
    axes.imshow(row_fraction, cmap="Blues", vmin=0, vmax=1)
    step = -(-k // LABELS)
    names = [name if len(name) <= 12 else name[:11] + "…" for name in classes]
    rotation = 90 if max(map(len, names)) > 2 else 0
    axes.set_xticks(range(0, k, step), names[::step], fontsize=8, rotation=rotation)
    axes.set_yticks(range(0, k, step), [f"{names[i]} ({total[i]})" for i in range(0, k, step)], fontsize=8)
    axes.spines[:].set_visible(False)
    if k <= LABELS:
        axes.set_xticks(np.arange(k + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(k + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="white")
        axes.tick_params(which="minor", length=0)
        for i, j in np.argwhere(table):
            color = "white" if row_fraction[i, j] > 0.5 else "black"
            axes.text(j, i, str(table[i, j]), ha="center", va="center", fontsize=8, color=color)
