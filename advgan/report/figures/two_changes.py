"""Two perturbations of equal l2 norm and different linf norm: an eps has no meaning without its norm."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import permutations
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor
from torch.nn import functional as F

from advgan.core.threat_model import delta_norms, eps_text
from advgan.report.comparison import Comparison, Plot
from advgan.report.figures.cases import Case, cases
from advgan.report.figures.style import finish, sheet
from advgan.report.gallery import FOOLED, HELD, difference, magnifications, prediction_text, rgb

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
    maker: str
    x_adv: Tensor
    l2: float
    linf: float
    prediction: str = "not classified"
    wrong: bool = False


def two_changes(comparison: Comparison) -> dict[str, Plot]:
    """For each target and aim, two successful perturbations of one image with equal l2, and linf at least twice apart.

    Where no two attacks have such a pair, the second is a square of that norm.
    """
    found: dict[str, list[Perturbation]] = {}
    titles: dict[str, str] = {}
    for case in cases(comparison):
        name = f"two changes/{case.subject}"
        titles[name] = case.target
        found.setdefault(name, []).extend(_changes(case, comparison))
    return {
        name: _plot(comparison, titles[name], *pair)
        for name, changes in found.items()
        if (pair := _pair(changes) or _with_square(changes, comparison.x))
    }


def square(x: Tensor, length: float) -> Tensor | None:
    """x (c, h, w) with one bright or dark square of l2 `length` on it; None if there is no room for any.

    The smallest square that stays in [0, 1], as close to the middle as possible.
    """
    channels, height, width = x.shape
    for side in range(1, min(height, width) + 1):
        step = length / (side * math.sqrt(channels))
        for sign in (1, -1):
            full = F.max_pool2d((sign * x).amax(0)[None, None], side, 1)[0, 0]  # of the pixels, in that direction
            fits = (full + step <= (1 if sign > 0 else 0)).nonzero()
            if len(fits):
                middle = torch.tensor([height - side, width - side]) / 2
                top, left = fits[(fits - middle).norm(dim=1).argmin()].tolist()
                changed = x.clone()
                changed[:, top : top + side, left : left + side] += sign * step
                return changed
    return None


def _changes(case: Case, comparison: Comparison) -> Iterator[Perturbation]:
    """All successful adversarial examples of the first images."""
    for attack, results in case.attacks.items():
        for result in results:
            records, eps = result.records, result.row["eps"]
            maker = f"{attack}, {case.norm} eps {eps_text(eps)}" if result.row["protocol"] == "bounded" else attack
            for i in records["success"][: len(result.x_adv)].nonzero().flatten().tolist():
                size = records["l2"][i].item(), records["linf"][i].item()
                prediction = prediction_text((records["prediction"], records["confidence"]), i, comparison.classes)
                yield Perturbation(i, maker, result.x_adv[i], *size, prediction, True)


def _pair(changes: list[Perturbation]) -> tuple[Perturbation, Perturbation] | None:
    """The two that differ most in linf, at least by 2, of those on one image with l2 within 2 %."""
    fitting = [
        (a, b)
        for a, b in permutations(changes, 2)
        if a.image == b.image and abs(a.l2 - b.l2) <= 0.02 * a.l2 and b.linf >= 2 * a.linf
    ]
    return max(fitting, key=lambda pair: pair[1].linf / pair[0].linf, default=None)


def _with_square(changes: list[Perturbation], x: Tensor) -> tuple[Perturbation, Perturbation] | None:
    """The perturbation of the smallest linf norm, and a square of its l2 norm with at least twice its linf norm."""
    for thin in sorted(changes, key=lambda change: change.linf):
        drawn = square(x[thin.image], thin.l2)
        size = delta_norms((x[thin.image] if drawn is None else drawn)[None] - x[thin.image])
        if drawn is not None and size["linf"].item() >= 2 * thin.linf:
            return thin, Perturbation(thin.image, "a square", drawn, size["l2"].item(), size["linf"].item())
    return None


def _plot(comparison: Comparison, target: str, spread: Perturbation, strong: Perturbation) -> Plot:
    figure = sheet(8.2, 5.6)
    panels = figure.subplots(2, 3)
    clean, truth = comparison.x[spread.image], comparison.classes[int(comparison.y[spread.image])]
    factor = magnifications(strong.linf)[0]
    for row, change in enumerate((spread, strong)):
        delta = change.x_adv - clean
        _tile(panels[row, 0], rgb(clean), f"clean: {truth}")
        scale = "" if factor == 1 else f" ×{factor}"
        _tile(panels[row, 1], difference(delta, factor), f"l2 {change.l2:.2f}, linf {change.linf:.3g}{scale}")
        _tile(panels[row, 2], rgb(change.x_adv), change.prediction, change.wrong)
        panels[row, 0].set_ylabel(change.maker, fontsize=10)
    caption = CAPTION if strong.wrong else CAPTION + SQUARE
    return finish(figure, f"{target}: two perturbations of equal l2 norm {spread.l2:.2f}", caption)


def _tile(axes: Axes, image: np.ndarray, title: str, wrong: bool = False) -> None:
    axes.imshow(image, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=9.5, color=FOOLED if wrong else HELD, weight="bold" if wrong else "normal")
