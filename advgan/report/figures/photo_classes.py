"""A photo turned into each of several classes: adversarial photos with their predictions, and the perturbations."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes

from advgan.core.errors import InputError
from advgan.report.figures.style import new_figure
from advgan.report.gallery import emphasis, magnifications, pixels

TILE = 2.6  # inches of an image's width
NAME = 26  # characters of a class


class ShownPhoto(NamedTuple):
    """An image (h, w, 3) in [0, 1]; the aim of its attack ("clean" without one); the predicted class and its
    confidence; and whether the attack succeeded."""

    image: np.ndarray
    aim: str
    prediction: str
    confidence: float
    success: bool = False


def photo_classes(photos: Sequence[Sequence[ShownPhoto]], title: str = "") -> np.ndarray:
    """(height, width, 3) uint8: for each photo a row of images, the clean one first, and below them the perturbations.

    All perturbations are enlarged by one factor, given beside them. Raises InputError without a clean and an
    adversarial image, and for rows of different lengths.
    """
    if not photos or len(photos[0]) < 2 or len({len(row) for row in photos}) > 1:
        raise InputError(f"expected rows of one clean and some adversarial images, got {[len(row) for row in photos]}")
    largest = max(float(np.abs(shown.image - row[0].image).max()) for row in photos for shown in row)
    factor = magnifications(largest)[0]
    heights = [TILE * row[0].image.shape[0] / row[0].image.shape[1] for row in photos]
    figure = new_figure(TILE * len(photos[0]), sum(2 * height + 0.5 for height in heights) + (0.4 if title else 0))
    ratios = [ratio for height in heights for ratio in (height, height)]
    grid = figure.subplots(2 * len(photos), len(photos[0]), height_ratios=ratios, squeeze=False)
    for i, row in enumerate(photos):
        for j, shown in enumerate(row):
            _draw(grid[2 * i, j], shown.image)
            _label(grid[2 * i, j], shown, clean=j == 0)
            if j:
                _draw(grid[2 * i + 1, j], 0.5 + factor * (shown.image - row[0].image))
        grid[2 * i + 1, 0].axis("off")
        text = f"perturbation\n× {factor}\n(grey: none)"
        grid[2 * i + 1, 0].text(0.98, 0.5, text, ha="right", va="center", transform=grid[2 * i + 1, 0].transAxes)
    if title:
        figure.suptitle(title, fontsize=11)
    return pixels(figure)


def _draw(axes: Axes, image: np.ndarray) -> None:
    axes.imshow(image.clip(0, 1))
    axes.axis("off")


def _label(axes: Axes, shown: ShownPhoto, *, clean: bool) -> None:
    """The aim and the prediction above an image, the latter in bold vermilion for a success."""
    look = {"color": "black"} if clean else emphasis(shown.success)
    prediction = f"{_short(shown.prediction)}  {shown.confidence:.0%}"
    axes.set_title(prediction, fontsize=9.5, pad=4, **look)
    axes.annotate(
        _short(shown.aim), (0.5, 1), (0, 18), xycoords="axes fraction", textcoords="offset points", ha="center",
        va="bottom", fontsize=8.5, color="#555555",
    )  # fmt: skip


def _short(name: str) -> str:
    return name if len(name) <= NAME else name[: NAME - 1] + "…"
