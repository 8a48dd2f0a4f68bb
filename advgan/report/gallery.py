"""Clean image, perturbation, adversarial image, one under the other: the figures, to be looked at."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from advgan.errors import InputError

TILE = 112  # screen pixels that an image is wide, at least
FOOLED, HELD = "#b03000", "#555555"  # vermilion and grey: bold too, for those who see no colours
GAP, HEAD = 0.10, 0.20  # between images, and above them for a line of text, in image widths


def gallery(
    x: Tensor,
    x_adv: Tensor,
    y: Tensor,
    logits_clean: Tensor,
    logits_adv: Tensor,
    classes: Sequence[str] | None = None,
    magnify: float | None = None,
    title: str | None = None,
    columns: int = 8,
) -> np.ndarray:
    """A picture (height, width, 3) uint8 of n >= 1 attacked images, `columns` of them side by side.

    x, x_adv         (n, c, h, w) in [0, 1], c 1 or 3
    y                (n,) the true classes, above the clean image
    logits_*         (n, k), read under it as "7 .99 → 3 .87": what the target said, and says, and how sure it is
    classes          names of the classes; numbers if not given
    magnify          how many times the perturbation is shown enlarged; None: as much as fits the scale, a round number
    """
    n, channels, height, width = x.shape
    if not n or channels not in (1, 3):
        raise InputError(f"a gallery needs at least one image of 1 or 3 channels, got {tuple(x.shape)}")
    columns, delta = min(columns, n), (x_adv - x).detach().float().cpu()
    if magnify is None:
        magnify = round_factor(0.5 / max(delta.abs().max().item(), 1e-6))
    names = [str(i) for i in range(logits_clean.shape[1])] if classes is None else [_short(name) for name in classes]
    arrow = " → " if max(map(len, names)) <= 2 else "\n→ "  # long names take two lines
    captions = [caption(*pair, names, arrow) for pair in zip(logits_clean.cpu(), logits_adv.cpu(), strict=True)]

    # All in one set of axes whose unit is an image's width: fast, whatever the number of images.
    aspect = height / width
    tops = np.cumsum(
        [HEAD, aspect + GAP, aspect + HEAD * (1 if arrow == " → " else 1.7)]
    )  # of the three rows in a band
    band = tops[2] + aspect + 2 * GAP
    head, left = (0.35 if title else 0.05), 1.05
    size = np.array([left + columns * (1 + GAP), head + math.ceil(n / columns) * band])
    scale = min(max(TILE, width), 3 * TILE) / 100  # inches an image's width takes, at 100 dots an inch
    figure = Figure(figsize=tuple(size * scale), dpi=100)
    canvas, axes = FigureCanvasAgg(figure), figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    font = 8.5 * scale * 100 / TILE
    if title:
        axes.text(size[0] / 2, head / 2, title, ha="center", va="center", size=font * 1.3)

    signs = "red +, blue −" if channels == 1 else "grey is none"
    for b in range(0, n, columns):
        above = head + b // columns * band
        for row, text in enumerate(("clean", f"perturbation\n×{magnify:g}\n{signs}", "adversarial")):
            axes.text(left - GAP, above + tops[row] + aspect / 2, text, ha="right", va="center", size=font)
        for i in range(b, min(b + columns, n)):
            x0 = left + (i - b) * (1 + GAP)
            pictures = (_rgb(x[i]), _difference(delta[i], magnify), _rgb(x_adv[i]))
            for top, picture in zip(above + tops, pictures, strict=True):
                axes.imshow(picture, extent=(x0, x0 + 1, top + aspect, top), interpolation="nearest", zorder=1)
            wrong = logits_adv[i].argmax() != logits_clean[i].argmax()
            axes.text(x0 + 0.5, above + HEAD - 0.03, names[int(y[i])], ha="center", va="bottom", size=font)
            color, weight = (FOOLED, "bold") if wrong else (HELD, "normal")
            where = (x0 + 0.5, above + tops[2] - 0.03)
            axes.text(*where, captions[i], ha="center", va="bottom", size=font, color=color, weight=weight)
    axes.set(xlim=(0, size[0]), ylim=(size[1], 0), aspect="auto")  # imshow has narrowed them to its last image
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def caption(clean: Tensor, adversarial: Tensor, classes: Sequence[str], arrow: str = " → ") -> str:
    """What the target said and says, and how sure it is: "7 .99 → 3 .87", from the logits (k,) before and after."""
    sides = []
    for logits in (clean, adversarial):
        confidence, winner = logits.detach().float().softmax(0).max(0)
        sides.append(f"{classes[int(winner)]} {confidence:.2f}".replace(" 0.", " ."))
    return arrow.join(sides)


def round_factor(factor: float) -> float:
    """The largest of 1, 2, 5, 10, 20, 50, ... up to `factor`, at least 1."""
    power = 10.0 ** math.floor(math.log10(max(factor, 1.0)))
    return max(step * power for step in (1, 2, 5) if step * power <= max(factor, 1.0))


def _short(name: str) -> str:
    return name if len(name) <= 12 else name[:11] + "…"


def _rgb(image: Tensor) -> np.ndarray:
    """(c, h, w) in [0, 1] as (h, w, 3)."""
    return image.detach().float().cpu().clamp(0, 1).expand(3, -1, -1).permute(1, 2, 0).numpy()


def _difference(delta: Tensor, magnify: float) -> np.ndarray:
    """delta (c, h, w) as (h, w, 3) on a scale symmetric around none: red and blue for one channel, else around grey."""
    shown = (0.5 + magnify * delta).clamp(0, 1).permute(1, 2, 0).numpy()
    return shown if shown.shape[2] == 3 else colormaps["RdBu_r"](shown[..., 0])[..., :3]
