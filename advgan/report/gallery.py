"""Clean image, perturbation, adversarial image, one under the other: the figures, to be looked at."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from advgan.core.errors import InputError

TILE = 112  # screen pixels that an image is wide, at least
FOOLED, HELD = "#b03000", "#555555"  # vermilion and grey: bold too, for those who see no colours
GAP, HEAD = 0.10, 0.20  # between images, and above them for a line of text, in image widths
Answers = tuple[Tensor, Tensor]


def gallery(
    x: Tensor,
    x_adv: Tensor,
    y: Tensor,
    clean: Answers,
    adversarial: Answers,
    classes: Sequence[str] | None = None,
    magnify: Sequence[float] | None = None,
    title: str | None = None,
    columns: int = 8,
    success: Tensor | None = None,
) -> np.ndarray:
    """A picture (height, width, 3) uint8 of n >= 1 attacked images, `columns` of them side by side.

    x, x_adv             (n, c, h, w) in [0, 1], c 1 or 3
    y                    (n,) the true classes, above the clean image
    clean, adversarial   what the target says of x and of x_adv: classes (n,) and how sure it is (n,); read above the
                         adversarial image as "7 .99 → 3 .87"
    classes              names of the classes; numbers if not given
    success              (n,) bool, what is written in bold; None: images that were right before and no longer are
    magnify              how many times the perturbation is shown enlarged, a row for each; None: see `magnifications`
    """
    n, channels, height, width = x.shape
    if not n or channels not in (1, 3):
        raise InputError(f"a gallery needs at least one image of 1 or 3 channels, got {tuple(x.shape)}")
    columns, delta = min(columns, n), (x_adv - x).detach().float().cpu()
    factors = magnifications(delta.abs().max().item()) if magnify is None else magnify
    names = {i: _name(i, classes) for i in torch.cat([y, clean[0], adversarial[0]]).tolist()}
    arrow = " → " if max(map(len, names.values())) <= 2 else "\n→ "  # long names take two lines

    # All in one set of axes whose unit is an image's width: fast, whatever the number of images.
    aspect = height / width
    below = aspect + HEAD * (1 if arrow == " → " else 1.7)  # the last row has the answers above it
    tops = np.cumsum([HEAD, *[aspect + GAP] * len(factors), below])  # of the rows in a band
    band = tops[-1] + aspect + 2 * GAP
    left = 1.05
    width_in_images = left + columns * (1 + GAP)
    heading = textwrap.wrap(title, int(14 * width_in_images)) if title else []
    head = 0.05 + 0.3 * len(heading)
    size = np.array([width_in_images, head + math.ceil(n / columns) * band])
    scale = min(max(TILE, width), 3 * TILE) / 100  # inches an image's width takes, at 100 dots an inch
    figure = Figure(figsize=tuple(size * scale), dpi=100)
    canvas, axes = FigureCanvasAgg(figure), figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    font = 8.5 * scale * 100 / TILE
    if heading:
        axes.text(size[0] / 2, head / 2, "\n".join(heading), ha="center", va="center", size=font * 1.3)

    signs = "red +, blue −" if channels == 1 else "grey is none"
    texts = ["clean", *(f"perturbation\n×{factor:g}\n{signs}" for factor in factors), "adversarial"]
    for b in range(0, n, columns):
        above = head + b // columns * band
        for top, text in zip(tops, texts, strict=True):
            axes.text(left - GAP, above + top + aspect / 2, text, ha="right", va="center", size=font)
        for i in range(b, min(b + columns, n)):
            x0 = left + (i - b) * (1 + GAP)
            tiles = [rgb(x[i]), *(difference(delta[i], factor) for factor in factors), rgb(x_adv[i])]
            for top, tile in zip(above + tops, tiles, strict=True):
                axes.imshow(tile, extent=(x0, x0 + 1, top + aspect, top), interpolation="nearest", zorder=1)
            before, after = answer(clean, i, classes), answer(adversarial, i, classes)
            lost = bool(clean[0][i] == y[i]) and bool(adversarial[0][i] != y[i])
            bold = lost if success is None else bool(success[i])
            _write(axes, x0, above + HEAD, names[int(y[i])], font)
            _write(axes, x0, above + tops[-1], before + arrow + after, font, bold)
    axes.set(xlim=(0, size[0]), ylim=(size[1], 0), aspect="auto")  # imshow has narrowed them to its last image
    for each in axes.texts:
        each.set_parse_math(False)  # a class may be called $$
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _write(axes: Axes, x0: float, bottom: float, text: str, font: float, success: bool | None = None) -> None:
    """A line above an image; an answer in bold vermilion for a success, else in grey."""
    color = "black" if success is None else FOOLED if success else HELD
    weight = "bold" if success else "normal"
    axes.text(x0 + 0.5, bottom - 0.03, text, ha="center", va="bottom", size=font, color=color, weight=weight)


def answer(answers: Answers, i: int, classes: Sequence[str] | None = None) -> str:
    """What the target said of image i, and how sure it is: "7 .99"."""
    return f"{_name(int(answers[0][i]), classes)} {float(answers[1][i]):.2f}".replace(" 0.", " .")


def magnifications(largest: float) -> tuple[int, ...]:
    """How often to enlarge perturbations whose largest change is `largest`.

    ×10 and ×50 for changes up to 0.05: the first shows how large, the second where. Larger ones by the most of 1, 2
    and 5 that keeps colours on their scale, which ends at half of the pixel range.
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
