"""Loud noise beside a small attack: what matters is the direction of a change, not its size."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes

from advgan.core.threat_model import eps_text
from advgan.evaluation.evaluate import Result
from advgan.report.comparison import Comparison, Picture
from advgan.report.figures.cases import Case, cases
from advgan.report.figures.style import finish, sheet
from advgan.report.gallery import FOOLED, HELD, answer, rgb

CAPTION = (
    "One image under noise and under an attack of the same size, column by column. The target shrugs off noise that "
    "anyone can see, and errs under a change no louder: what matters is the direction of a change, not its size. Bold: "
    "the target is wrong."
)


class Whisper(NamedTuple):
    """An image that `attack` turns at `eps`, though `noise` does not at any that was tried."""

    eps: float
    image: int
    attack: str
    noise: str


def noise(comparison: Comparison) -> dict[str, Picture]:
    """For each target, norm and aim with such an image: noise of growing size above, an attack of that size below."""
    return {
        f"noise/{case.name}": _noise(comparison, case, whisper)
        for case in cases(comparison)
        if (whisper := find_whisper(case, len(comparison.x)))
    }


def find_whisper(case: Case, shown: int) -> Whisper | None:
    """The smallest eps at which a generator or else a gradient attack turns an image that noise never does."""
    noises = [a for a, results in case.attacks.items() if results[0].row["access"] == "nothing"]
    noises.sort(key=lambda a: -case.attacks[a][-1].row["l2_mean"])  # the loudest first
    best: tuple[tuple[float, ...], Whisper] | None = None
    for softness, loud in enumerate(noises):
        records = [result.records for result in case.attacks[loud]]
        held = torch.stack([each["prediction"] == each["label"] for each in records]).all(0)[:shown]
        for rank, (attack, results) in enumerate(sorted(case.attacks.items(), key=lambda item: _rank(item[1][0]))):
            for result in results if _rank(results[0]) < 3 else []:
                hit = held & result.records["success"][:shown]
                for i in hit[: len(result.x_adv)].nonzero().flatten().tolist():
                    order = (result.row["eps"], rank, softness, -result.records["confidence"][i].item())
                    if best is None or order < best[0]:
                        best = order, Whisper(result.row["eps"], i, attack, loud)
    return None if best is None else best[1]


def _rank(result: Result) -> int:
    """Whose whisper is shown: a generator's, FGSM's, another bounded attack's; not noise's or a minimal-norm one's."""
    row = result.row
    if row["protocol"] != "bounded" or row["access"] == "nothing":
        return 3
    return 0 if row["access"] == "generator" else 1 if row["attack"] == "fgsm" else 2


def _noise(comparison: Comparison, case: Case, whisper: Whisper) -> Picture:
    i, clean = whisper.image, comparison.x[whisper.image]
    rows = [
        {result.row["eps"]: result for result in case.attacks[name] if i < len(result.x_adv)}
        for name in (whisper.noise, whisper.attack)
    ]
    eps = sorted(rows[0] | rows[1])
    figure = sheet(2.0 * (len(eps) + 1) + 0.6, 5.2)
    panels = figure.subplots(2, len(eps) + 1, squeeze=False)
    truth = int(comparison.y[i])
    first = next(iter(rows[0].values())).records
    before = answer((first["clean_prediction"], first["clean_confidence"]), i, comparison.classes)
    for row, (results, name) in enumerate(zip(rows, (whisper.noise, whisper.attack), strict=True)):
        _tile(panels[row, 0], rgb(clean), f"clean: {before}", False)
        panels[row, 0].set_ylabel(name, fontsize=11)
        for axes, size in zip(panels[row, 1:], eps, strict=True):
            if size not in results:
                axes.axis("off")
                continue
            records = results[size].records
            says = answer((records["prediction"], records["confidence"]), i, comparison.classes)
            wrong = int(records["prediction"][i]) != truth
            _tile(axes, rgb(results[size].x_adv[i]), f"eps {eps_text(size)}: {says}", wrong)
    return finish(figure, f"{case.words}: {whisper.noise} and {whisper.attack} of the same size", CAPTION)


def _tile(axes: Axes, image: np.ndarray, title: str, wrong: bool) -> None:
    axes.imshow(image, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=9, color=FOOLED if wrong else HELD, weight="bold" if wrong else "normal")
