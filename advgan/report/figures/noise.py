"""Noise and an attack of the same size: the direction of a perturbation matters, not its size alone."""

from typing import NamedTuple

import torch

from advgan.core.fraction import eps_text
from advgan.evaluation.evaluate import Result
from advgan.report.comparison import Comparison, Plot
from advgan.report.figures.plot_groups import PlotGroup, plot_groups
from advgan.report.figures.style import new_figure, to_plot
from advgan.report.gallery import prediction_text, rgb, tile

CAPTION = (
    "One image under noise and under an attack of the same size, column by column. The classifier is robust to "
    "visible noise but not to an adversarial perturbation of that size: its direction matters. Bold: misclassified."
)


class NoiseExample(NamedTuple):
    """An image on which `attack` succeeds at `eps`, and `noise` at no eps of the comparison."""

    eps: float
    image: int
    attack: str
    noise: str


def noise(comparison: Comparison) -> dict[str, Plot]:
    """For each target, norm and aim with such an image: noise of growing size above, an attack of that size below."""
    return {
        f"noise/{group.name}": _noise(comparison, group, example)
        for group in plot_groups(comparison)
        if (example := find_noise_example(group, len(comparison.x)))
    }


def find_noise_example(group: PlotGroup, shown: int) -> NoiseExample | None:
    """Smallest eps at which a generator or else a gradient attack succeeds on an image on which noise never does."""
    noises = [a for a, results in group.attacks.items() if results[0].row["access"] == "nothing"]
    noises.sort(key=lambda a: -group.attacks[a][-1].row["l2_mean"])  # the largest first
    best: tuple[tuple[float, ...], NoiseExample] | None = None
    for noise_rank, noise_name in enumerate(noises):
        records = [result.records for result in group.attacks[noise_name]]
        held = torch.stack([column["prediction"] == column["label"] for column in records]).all(0)[:shown]
        for rank, (attack, results) in enumerate(sorted(group.attacks.items(), key=lambda item: _rank(item[1][0]))):
            for result in results if _rank(results[0]) < 3 else []:
                candidates = held & result.records["success"][:shown]
                for i in candidates[: len(result.x_adv)].nonzero().flatten().tolist():
                    order = (result.row["eps"], rank, noise_rank, -result.records["confidence"][i].item())
                    if best is None or order < best[0]:
                        best = order, NoiseExample(result.row["eps"], i, attack, noise_name)
    return None if best is None else best[1]


def _rank(result: Result) -> int:
    """Order of preference: a generator, FGSM, another bounded attack; 3 for noise and minimum-norm attacks."""
    row = result.row
    if row["protocol"] != "bounded" or row["access"] == "nothing":
        return 3
    return 0 if row["access"] == "generator" else 1 if row["attack"] == "fgsm" else 2


def _noise(comparison: Comparison, group: PlotGroup, example: NoiseExample) -> Plot:
    i, clean = example.image, comparison.x[example.image]
    rows = [
        {result.row["eps"]: result for result in group.attacks[name] if i < len(result.x_adv)}
        for name in (example.noise, example.attack)
    ]
    eps = sorted(rows[0] | rows[1])
    figure = new_figure(2.0 * (len(eps) + 1) + 0.6, 5.2)
    panels = figure.subplots(2, len(eps) + 1, squeeze=False)
    truth = int(comparison.y[i])
    first = next(iter(rows[0].values())).records
    before = prediction_text((first["clean_prediction"], first["clean_confidence"]), i, comparison.classes)
    for row, (results, name) in enumerate(zip(rows, (example.noise, example.attack), strict=True)):
        tile(panels[row, 0], rgb(clean), f"clean: {before}", size=9)
        panels[row, 0].set_ylabel(name, fontsize=11)
        for axes, size in zip(panels[row, 1:], eps, strict=True):
            if size not in results:
                axes.axis("off")
                continue
            records = results[size].records
            text = prediction_text((records["prediction"], records["confidence"]), i, comparison.classes)
            misclassified = int(records["prediction"][i]) != truth
            tile(axes, rgb(results[size].x_adv[i]), f"eps {eps_text(size)}: {text}", misclassified, size=9)
    return to_plot(figure, f"{group.title}: {example.noise} and {example.attack} of the same size", CAPTION)
