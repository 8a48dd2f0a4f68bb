"""Report of a sweep: accuracy and success against eps as tables, curves and images."""

from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from advgan.core.fraction import eps_text
from advgan.core.threat_model import toward_text
from advgan.evaluation.evaluate import ROW_KEYS, Result
from advgan.evaluation.statistics import rate, wilson
from advgan.report.comparison import Comparison, Plot
from advgan.report.figures.curves import curves
from advgan.report.figures.plot_groups import safe
from advgan.report.gallery import TILE, emphasis, pixels, rgb
from advgan.report.page import Cell, ResultRow, Summary, Table, percent
from advgan.report.study import StudyReport, eps_scalars

COLUMNS = ("attack", "norm", "eps", "n", "accuracy", "low", "high", "asr", "asr_low", "asr_high")
CLEAN_COLUMNS = (  # of a row at eps 0: what no attack decides
    *("target", "attack", "access", "protocol", "attack_norm", "norm", "targeted", "y_target"),
    *("seed", "batch_size", "n", "n_correct", "n_attacked", "clean_accuracy", "clean_rejected"),
)


SHOWN = 5  # images in a row
GAP, HEAD, LEFT = 0.12, 0.24, 1.3  # between images, above them, and left of them, in image widths
CAPTION = (
    "The same images at growing eps, with their class → the prediction; bold red: success. The images are quantiles by "
    "the eps of the first success, from easy (left) to hard (right), so that each row has about the attack's success "
    "rate. Chosen among the first {count} attacked images."
)


def unattacked(row: ResultRow) -> dict[str, Any]:
    """The row of the same attack at eps 0, where the ball holds nothing but the image itself."""
    clean_metrics = {
        **dict.fromkeys(("eps", "l0_mean", "l2_mean", "linf_mean", "linf_max"), 0.0),
        **{"robust_accuracy": row["clean_accuracy"], "ssim_mean": 1.0, "violations": [], "status": "ok"},
        **rate("asr", 0, row["n_attacked"]),
        **({} if row["clean_rejected"] is None else {"rejected": 0.0}),  # rejected images are not eligible
    }
    return dict.fromkeys(ROW_KEYS) | {key: row[key] for key in CLEAN_COLUMNS} | clean_metrics


def report(comparison: Comparison) -> StudyReport:
    """gallery/<attack>.png, curves.png, sweep.json, .md and .csv.

    `comparison.summary["rows"]` holds eps 0 too, `comparison.results` all others; the results' x_adv are adversarial
    examples of x and y.
    """
    summary = comparison.summary
    rows, target = summary["rows"], summary["target"]
    return StudyReport(
        name="sweep",
        title=f"Attacks on {target['label']} ({target['dataset']}) against eps",
        summary=summary,
        rows=rows,
        tables=tables(summary),
        figures=draw(comparison),
        folders=["gallery"],
        columns=COLUMNS,
        csv_rows=[row | _accuracy(row) for row in rows],
        scalars=list(eps_scalars(rows, {"accuracy": "robust_accuracy", "asr": "asr"})),
    )


def draw(comparison: Comparison) -> dict[str, Plot]:
    """File name -> figure: the curves, and a gallery for each attack that has metrics."""
    attacks: dict[str, list[Result]] = {}
    for result in sorted(comparison.results, key=lambda result: float(result.row["eps"])):
        if result.row["status"] == "ok":
            attacks.setdefault(result.row["attack"], []).append(result)
    curve_plots = list(curves(comparison).values())  # one target, norm and goal: one figure, if any attack has metrics
    plots = dict(zip(["curves.png"], curve_plots, strict=False))
    for label, results in attacks.items():
        if plot := examples(label, results, comparison):
            plots[f"gallery/{safe(label)}.png"] = plot
    return plots


def tables(summary: Summary) -> list[Table]:
    """Accuracy and success, a line per attack, a column per eps; "–" where an attack was not run."""
    rows = summary["rows"]
    first, eps_values = rows[0], sorted({row["eps"] for row in rows})
    by_attack_and_eps = {(row["attack"], row["eps"]): row for row in rows}
    context = f"on {first['target']}, {first['norm']}{toward_text(first)}"
    accuracy = f"Over all {first['n']} images: correct before the attack, and not misclassified after it."
    success = f"Over the {first['n_attacked']} eligible images."

    def at(eps: float, key: str) -> Cell:
        return lambda attack: (
            percent(by_attack_and_eps[attack, eps][key]) if (attack, eps) in by_attack_and_eps else "–"
        )

    return [
        Table.of(
            f"{title} {context}, against eps",
            dict.fromkeys(row["attack"] for row in rows),
            {"attack": str, **{eps_text(eps): at(eps, key) for eps in eps_values}},
            note,
        )
        for title, key, note in (("Accuracy %", "robust_accuracy", accuracy), ("ASR %", "asr", success))
    ]


def _accuracy(row: ResultRow) -> dict[str, float | None]:
    """Accuracy under the attack with its interval; None where it was not measured."""
    accuracy, n = row["robust_accuracy"], row["n"]
    values = [None] * 3 if accuracy is None else [accuracy, *wilson(round(accuracy * n), n)]
    return dict(zip(("accuracy", "low", "high"), values, strict=True))


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
            caption = f"{names[int(y[j])]}{arrow}{names[int(predictions[j])]}"
            position = (x_left + 0.5, top - 0.03)
            axes.text(*position, caption, ha="center", va="bottom", size=font, **emphasis(bool(bold[j])))
    axes.set(xlim=(0, size[0]), ylim=(size[1], 0), aspect="auto")
    return pixels(figure)
