"""Two perturbations of equal l2 norm and different linf norm: an eps has no meaning without its norm."""

import math
from collections.abc import Iterator
from itertools import permutations
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from advgan.core.fraction import eps_text
from advgan.core.threat_model import delta_norms
from advgan.report.comparison import Comparison, Plot
from advgan.report.figures.plot_groups import PlotGroup, plot_groups
from advgan.report.figures.style import new_figure, to_plot
from advgan.report.gallery import difference, magnifications, prediction_text, rgb, tile

CAPTION = (
    "Two perturbations of one image with the same l2 norm: one is spread over many pixels, the other is "
    "concentrated in a few. Their linf norms, the largest change of a pixel, are far apart."
)
SQUARE = (
    " No two attacks of this comparison have such a pair, so the second perturbation is a plain square for comparison, "
    "which was not classified."
)


class Perturbation(NamedTuple):
    """A perturbed image number `image`: x_adv (c, h, w), the attack (`maker`), and the prediction, if there is one."""

    image: int
    attack_text: str
    x_adv: Tensor
    l2: float
    linf: float
    prediction: str = "not classified"
    misclassified: bool = False


def same_l2_different_linf(comparison: Comparison) -> dict[str, Plot]:
    """For each target and aim, two successful perturbations of one image with equal l2, and linf at least twice apart.

    Where no two attacks have such a pair, the second is a square of that norm.
    """
    by_name: dict[str, list[Perturbation]] = {}
    titles: dict[str, str] = {}
    for group in plot_groups(comparison):
        name = f"same l2/{group.subject}"
        titles[name] = group.target
        by_name.setdefault(name, []).extend(_perturbations(group, comparison))
    return {
        name: _plot(comparison, titles[name], *pair)
        for name, perturbations in by_name.items()
        if (pair := _pair(perturbations) or _with_square(perturbations, comparison.x))
    }


def square(x: Tensor, length: float) -> Tensor | None:
    """x (c, h, w) with one bright or dark square of l2 `length` on it; None if there is no room for any.

    The smallest square that stays in [0, 1], as close to the middle as possible.
    """
    channels, height, width = x.shape
    for size in range(1, min(height, width) + 1):
        step = length / (size * math.sqrt(channels))
        for sign in (1, -1):
            full = F.max_pool2d((sign * x).amax(0)[None, None], size, 1)[0, 0]  # of the pixels, in that direction
            fits = (full + step <= (1 if sign > 0 else 0)).nonzero()
            if len(fits):
                middle = torch.tensor([height - size, width - size]) / 2
                y_top, x_left = fits[(fits - middle).norm(dim=1).argmin()].tolist()
                changed = x.clone()
                changed[:, y_top : y_top + size, x_left : x_left + size] += sign * step
                return changed
    return None


def _perturbations(group: PlotGroup, comparison: Comparison) -> Iterator[Perturbation]:
    """All successful adversarial examples of the first images."""
    for attack, results in group.attacks.items():
        for result in results:
            records, eps = result.records, result.row["eps"]
            attack_text = (
                f"{attack}, {group.norm} eps {eps_text(eps)}" if result.row["protocol"] == "bounded" else attack
            )
            for i in records["success"][: len(result.x_adv)].nonzero().flatten().tolist():
                size = records["l2"][i].item(), records["linf"][i].item()
                prediction = prediction_text((records["prediction"], records["confidence"]), i, comparison.classes)
                yield Perturbation(i, attack_text, result.x_adv[i], *size, prediction, True)


def _pair(perturbations: list[Perturbation]) -> tuple[Perturbation, Perturbation] | None:
    """The two that differ most in linf, at least by 2, of those on one image with l2 within 2 %."""
    pairs = [
        (a, b)
        for a, b in permutations(perturbations, 2)
        if a.image == b.image and abs(a.l2 - b.l2) <= 0.02 * a.l2 and b.linf >= 2 * a.linf
    ]
    return max(pairs, key=lambda pair: pair[1].linf / pair[0].linf, default=None)


def _with_square(perturbations: list[Perturbation], x: Tensor) -> tuple[Perturbation, Perturbation] | None:
    """The perturbation of the smallest linf norm, and a square of its l2 norm with at least twice its linf norm."""
    for smallest in sorted(perturbations, key=lambda perturbation: perturbation.linf):
        with_square = square(x[smallest.image], smallest.l2)
        size = delta_norms((x[smallest.image] if with_square is None else with_square)[None] - x[smallest.image])
        if with_square is not None and size["linf"].item() >= 2 * smallest.linf:
            return smallest, Perturbation(
                smallest.image, "a square", with_square, size["l2"].item(), size["linf"].item()
            )
    return None


def _plot(comparison: Comparison, target: str, spread: Perturbation, strong: Perturbation) -> Plot:
    figure = new_figure(8.2, 5.6)
    panels = figure.subplots(2, 3)
    clean, truth = comparison.x[spread.image], comparison.classes[int(comparison.y[spread.image])]
    factor = magnifications(strong.linf)[0]
    for row, perturbation in enumerate((spread, strong)):
        delta = perturbation.x_adv - clean
        tile(panels[row, 0], rgb(clean), f"clean: {truth}")
        scale = "" if factor == 1 else f" ×{factor}"
        tile(
            panels[row, 1], difference(delta, factor), f"l2 {perturbation.l2:.2f}, linf {perturbation.linf:.3g}{scale}"
        )
        tile(panels[row, 2], rgb(perturbation.x_adv), perturbation.prediction, perturbation.misclassified)
        panels[row, 0].set_ylabel(perturbation.attack_text, fontsize=10)
    caption = CAPTION if strong.misclassified else CAPTION + SQUARE
    return to_plot(figure, f"{target}: two perturbations of equal l2 norm {spread.l2:.2f}", caption)
