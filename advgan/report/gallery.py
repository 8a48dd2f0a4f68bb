"""Galleries: clean image, perturbation and adversarial image, one below the other."""

import math
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from torch import Tensor

from advgan.core.errors import InputError
from advgan.core.terminal import printable_lines

TILE = 112  # least width of an image on the screen, in pixels
FOOLED, HELD = "#b03000", "#555555"  # vermilion and grey, also bold and normal
GAP, HEAD = 0.10, 0.20  # between images, and above them for a line of text, in image widths
LEFT = 1.05  # for the labels of the rows
Predictions = tuple[Tensor, Tensor]


def gallery(
    x: Tensor,
    x_adv: Tensor,
    y: Tensor,
    clean: Predictions,
    adversarial: Predictions,
    classes: Sequence[str] | None = None,
    *,
    magnify: Sequence[float] | None = None,
    title: str | None = None,
    columns: int = 8,
    success: Tensor | None = None,
) -> np.ndarray:
    """An image (height, width, 3) uint8 of n >= 1 attacked images, `columns` of them side by side.

    x, x_adv             (n, c, h, w) in [0, 1], c 1 or 3
    y                    (n,) the true classes, above the clean image
    clean, adversarial   predictions for x and x_adv: classes (n,) and confidences (n,); above the adversarial image
                         as "7 .99 → 3 .87"
    classes              names of the classes; None: numbers
    success              (n,) bool, predictions in bold; None: images correct before and misclassified after
    magnify              factors by which the perturbation is enlarged, a row for each; None: `magnifications`
    """
    n, channels, height, width = x.shape
    if not n or channels not in (1, 3):
        raise InputError(f"a gallery needs at least one image of 1 or 3 channels, got {tuple(x.shape)}")
    columns, delta = min(columns, n), (x_adv - x).detach().float().cpu()
    factors = magnifications(delta.abs().max().item()) if magnify is None else magnify
    names = {i: _name(i, classes) for i in torch.cat([y, clean[0], adversarial[0]]).tolist()}
    arrow = " → " if max(map(len, names.values())) <= 2 else "\n→ "  # long names take two lines
    success = (clean[0] == y) & (adversarial[0] != y) if success is None else success

    # All in one set of axes whose unit is an image's width: fast, whatever the number of images.
    aspect = height / width
    below = aspect + HEAD * (1 if arrow == " → " else 1.7)  # the last row has the predictions above it
    tops = np.cumsum([HEAD, *[aspect + GAP] * len(factors), below])  # of the rows in a band
    band = tops[-1] + aspect + 2 * GAP
    width_in_images = LEFT + columns * (1 + GAP)
    heading = textwrap.wrap(title, int(14 * width_in_images)) if title else []
    head = 0.05 + 0.3 * len(heading)
    size = np.array([width_in_images, head + math.ceil(n / columns) * band])
    scale = min(max(TILE, width), 3 * TILE) / 100  # inches an image's width takes, at 100 dots an inch
    figure = Figure(figsize=tuple(size * scale), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    font = 8.5 * scale * 100 / TILE
    axes.text(size[0] / 2, head / 2, "\n".join(heading), ha="center", va="center", size=font * 1.3)
    signs = "red +, blue −" if channels == 1 else "grey is none"
    labels = ["clean", *(f"perturbation\n×{factor:g}\n{signs}" for factor in factors), "adversarial"]
    for i in range(n):
        above, x0 = head + i // columns * band, LEFT + i % columns * (1 + GAP)
        tiles = [rgb(x[i]), *(difference(delta[i], factor) for factor in factors), rgb(x_adv[i])]
        for top, tile, label in zip(above + tops, tiles, labels, strict=True):
            axes.imshow(tile, extent=(x0, x0 + 1, top + aspect, top), interpolation="nearest", zorder=1)
            if i % columns == 0:
                axes.text(LEFT - GAP, top + aspect / 2, label, ha="right", va="center", size=font)
        predictions = prediction_text(clean, i, classes) + arrow + prediction_text(adversarial, i, classes)
        _write(axes, x0, above + HEAD, names[int(y[i])], font)
        _write(axes, x0, above + tops[-1], predictions, font, bool(success[i]))
    axes.set(xlim=(0, size[0]), ylim=(size[1], 0), aspect="auto")  # imshow has narrowed them to its last image
    return pixels(figure)


def _write(axes: Axes, x0: float, bottom: float, text: str, font: float, success: bool | None = None) -> None:
    """A line above an image; predictions in bold vermilion for a success, else in grey."""
    look = {"color": "black"} if success is None else emphasis(success)
    axes.text(x0 + 0.5, bottom - 0.03, text, ha="center", va="bottom", size=font, **look)


def emphasis(success: bool) -> dict[str, Any]:
    """How predictions are written: in bold vermilion for a success, else in grey."""
    return {"color": FOOLED, "weight": "bold"} if success else {"color": HELD, "weight": "normal"}


def prediction_text(predictions: Predictions, i: int, classes: Sequence[str] | None = None) -> str:
    """Predicted class and confidence of image i: "7 .99"."""
    return f"{_name(int(predictions[0][i]), classes)} {float(predictions[1][i]):.2f}".replace(" 0.", " .")


def magnifications(largest: float) -> tuple[int, ...]:
    """Factors by which to enlarge perturbations whose largest value is `largest`.

    ×10 and ×50 for changes up to 0.05: the first shows their size, the second their place. Larger ones by the largest
    of 1, 2 and 5 that keeps colours within their scale, which ends at half of the pixel range.
    """
    if largest <= 0.0501:
        return 10, 50
    return (max(factor for factor in (1, 2, 5) if factor == 1 or factor * largest <= 0.501),)


def _name(i: int, classes: Sequence[str] | None) -> str:
    name = str(i) if classes is None else classes[i]
    return name if len(name) <= 12 else name[:11] + "…"


def rgb(image: Tensor) -> np.ndarray:
    """(c, h, w) in [0, 1] as (h, w, 3)."""
    return image.detach().float().cpu().clamp(0, 1).expand(3, -1, -1).permute(1, 2, 0).numpy()


def difference(delta: Tensor, factor: float) -> np.ndarray:
    """delta (c, h, w) as (h, w, 3) on a scale symmetric around none: red and blue for one channel, else around grey."""
    shown = (0.5 + factor * delta.detach().float().cpu()).clamp(0, 1).permute(1, 2, 0).numpy()
    return shown if shown.shape[2] == 3 else colormaps["RdBu_r"](shown[..., 0])[..., :3]


def pixels(figure: Figure) -> np.ndarray:
    """A figure, drawn: (height, width, 3) uint8."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a class may be called $$
        text.set_text(printable_lines(text.get_text()))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def tile(axes: Axes, image: np.ndarray, title: str, misclassified: bool = False, *, size: float = 9.5) -> None:
    """An image (h, w, 3) with its title, bold and vermilion where it is misclassified."""
    axes.imshow(image, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=size, **emphasis(misclassified))
