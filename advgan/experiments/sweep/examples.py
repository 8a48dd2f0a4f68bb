"""Gallery of a curve: the same images at growing eps."""

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from advgan.core.threat_model import eps_text
from advgan.evaluation.evaluate import Result
from advgan.report.comparison import Comparison, Plot
from advgan.report.gallery import FOOLED, HELD, TILE, pixels, rgb

SHOWN = 5  # images in a row
GAP, HEAD, LEFT = 0.12, 0.24, 1.3  # between images, above them, and left of them, in image widths
CAPTION = (
    "The same images at growing eps, with their class → the prediction; bold red: success. The images are quantiles by "
    "the eps of the first success, from easy (left) to hard (right), so that each row has about the attack's success "
    "rate. Chosen among the first {count} attacked images."
)


def examples(label: str, results: list[Result], comparison: Comparison) -> Plot | None:
    """A row of images per eps, the clean ones first; None where none of the images at hand was attacked.

    results   of one attack by growing eps, all with metrics; their x_adv belong to `comparison.x`

    In place of an image of a minimum-norm attack that is farther away than eps, the clean image is shown.
    """
    chosen, count = _spread(results, len(comparison.x))
    if not count:
        return None
    x, clean = comparison.x[chosen], results[0].records["clean_prediction"][chosen]
    rows = [(f"eps 0\naccuracy {results[0].row['clean_accuracy']:.0%}", x, clean, torch.zeros_like(clean))]
    for result in results:
        within, prediction = result.records["within"][chosen], result.records["prediction"][chosen]
        images = torch.where(within.view(-1, 1, 1, 1), result.x_adv[chosen], x)
        text = f"eps {eps_text(result.row['eps'])}\naccuracy {result.row['robust_accuracy']:.0%}"
        rows.append((text, images, torch.where(within, prediction, clean), result.records["success"][chosen]))
    first = results[0].row
    toward = "" if first["y_target"] is None else f" toward class {comparison.classes[first['y_target']]}"
    title = f"{label}{toward} on {first['target']}, {first['norm']}: images at growing eps"
    return Plot(title, CAPTION.format(count=count), _draw(rows, comparison.y[chosen], comparison.classes))


def _spread(results: list[Result], n: int) -> tuple[Tensor, int]:
    """Up to SHOWN of the attacked ones among the first `n` images, from easy to hard; and how many those were."""
    attacked = torch.nonzero(results[0].records["counts"][:n])[:, 0]
    n_success = torch.stack([result.records["success"][attacked] for result in results]).sum(0)  # at so many eps
    order = attacked[n_success.argsort(descending=True, stable=True)]
    positions = torch.linspace(0, max(len(order) - 1, 0), min(SHOWN, len(order))).round().long()
    return order[positions], len(order)


def _draw(rows: list[tuple[str, Tensor, Tensor, Tensor]], y: Tensor, classes: tuple[str, ...]) -> np.ndarray:
    """Rows of a text, images (k, c, h, w), predictions (k,) and whether they are bold; `y` (k,) the labels.

    All in one set of axes whose unit is an image's width, as in `advgan.report.gallery`.
    """
    height, width = rows[0][1].shape[2:]
    aspect, names = height / width, [name[:12] for name in classes]
    arrow, head = (" → ", HEAD) if max(map(len, names)) <= 4 else ("\n→ ", 2 * HEAD)  # long names take two lines
    size = np.array([LEFT + len(y) * (1 + GAP), len(rows) * (head + aspect + GAP)])
    scale = min(max(TILE, width), 3 * TILE) / 100  # inches an image's width takes, at 100 dots an inch
    figure = Figure(figsize=tuple(size * scale), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    font = 9 * scale * 100 / TILE
    for i, (text, images, predictions, bold) in enumerate(rows):
        top = i * (head + aspect + GAP) + head
        axes.text(LEFT - GAP, top + aspect / 2, text, ha="right", va="center", size=font)
        for j, image in enumerate(images):
            x_left = LEFT + j * (1 + GAP)
            axes.imshow(rgb(image), extent=(x_left, x_left + 1, top + aspect, top), interpolation="nearest")
            color, weight = (FOOLED, "bold") if bold[j] else (HELD, "normal")
            caption = f"{names[int(y[j])]}{arrow}{names[int(predictions[j])]}"
            position = (x_left + 0.5, top - 0.03)
            axes.text(*position, caption, ha="center", va="bottom", size=font, color=color, weight=weight)
    axes.set(xlim=(0, size[0]), ylim=(size[1], 0), aspect="auto")
    return pixels(figure)
