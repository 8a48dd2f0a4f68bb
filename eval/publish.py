"""Measure a run on test images that it has not seen, and publish it: weights, configuration and a card of its figures.

python eval/publish.py --run checkpoints/runs/mnist-c --target mnist-c --target-weights checkpoints/runs/mnist-c \
    --recipe-name recipes/mnist-c.yaml --dataset mnist --data-dir data --output-dir checkpoints/mnist-c-generator

A run of train/classifier.py (with --classifier) or train/advgan.py becomes a folder with config.json, model.safetensors
and README.md, which `load_target` or `Generator.from_pretrained` loads. A figure that stands in the card is one that
this program has measured; --also adds a second data set's, which anybody can measure again without a download.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# A program run by its path has its own folder first on the path; the library is above it.
sys.path.insert(0, str(ROOT))

import hashlib
import json
import platform
import shutil
from dataclasses import dataclass
from typing import Any

import torch

from advgan import training
from advgan.attacks.registry import bind
from advgan.data import load_data
from advgan.errors import InputError
from advgan.evaluation import evaluate, predict, wilson
from advgan.generator import Generator
from advgan.settings import parse_fraction, run
from advgan.storage import write_aside
from advgan.targets import Target, load_target
from advgan.threat import Threat


@dataclass(frozen=True)
class Settings:
    """Which run, measured on what, and where it goes."""

    run: Path
    """The run that is published: of train/advgan.py, or with --classifier of train/classifier.py"""
    target: str
    """The classifier: the one that is published, or the one that the generator attacks"""
    output_dir: Path
    """The checkpoint's folder"""
    classifier: bool = False
    """Publish the run's classifier, not its generator"""
    target_weights: Path | None = None
    """The weights of the classifier under attack; None: the run's"""
    recipe_name: str | None = None
    """What the card says it was made by; None: the flags that the run kept"""
    dataset: str = "mnist5k"
    """The data set whose test images the figures are measured on"""
    also: tuple[str, ...] = ()
    """Further data sets"""
    data_dir: Path = Path("data")
    """Where the data sets lie"""
    eps: tuple[str, ...] = ()
    """Radii a generator is measured at; () takes its own"""
    recipe: Path | None = None
    """YAML file of these settings"""
    threads: int | None = None
    """CPU threads; None takes all cores"""


CARD = """---
library_name: advgan
license: mit
tags: [{tags}]
---
# {title}

{purpose}

    {load}

{table}

Measured on test images, which neither training nor choice has seen, by `python eval/publish.py {command}`
(torch {torch}, {machine}); in brackets the 95 % interval.{note}

| | |
|---|---|
| made by | `{made_by}` |
| seed | {seed} |
| trained on | {trained_on} |
| parameters | {parameters:,}{guide} |
| SHA-256 of model.safetensors | `{sha256}` |

{limits}
"""


def main(settings: Settings) -> None:
    training.start(0, settings.threads)
    folder = settings.run / ("classifier" if settings.classifier else "generator")
    if not (folder / "model.safetensors").is_file():
        raise InputError(f"expected a run with {folder.name}/model.safetensors, found none in {settings.run}")
    target = load_target(settings.target, settings.target_weights or settings.run)
    generator = None if settings.classifier else Generator.from_pretrained(folder)
    lines = []
    for name in (settings.dataset, *settings.also):
        x, y = next(iter_all(name, settings))
        lines += accuracy(name, target, x, y) if generator is None else success(name, generator, target, x, y, settings)
    card = CARD.format(**words(settings, folder, target, generator, lines))

    def write(directory: Path) -> None:
        for file in ("config.json", "model.safetensors"):
            shutil.copy(folder / file, directory / file)
        (directory / "README.md").write_text(card)

    write_aside(settings.output_dir, write)
    print(card)


def iter_all(name: str, settings: Settings) -> Any:
    """The test images of data set `name` in one batch."""
    test = load_data(name, settings.data_dir).test
    return test.batches(len(test))


def accuracy(name: str, target: Target, x: torch.Tensor, y: torch.Tensor) -> list[str]:
    """The lines of a classifier's table."""
    right = int((predict(target, x).argmax(1) == y).sum())
    rate = percent(right / len(y), *wilson(right, len(y)))
    return ["| test images | n | accuracy % |", "|---|---|---|", f"| {name} | {len(y)} | {rate} |"]


def success(
    name: str, generator: Generator, target: Target, x: torch.Tensor, y: torch.Tensor, settings: Settings
) -> list[str]:
    """The lines of a generator's table: one pass at each eps; and toward every class, where it takes any."""
    own = generator.threat
    radii = [parse_fraction(word) for word in settings.eps] or [own.eps]
    lines = ["| test images | n | goal | eps | ASR % | mean l2 | SSIM |", "|---|---|---|---|---|---|---|"]
    for eps in radii:
        aims: list[int | None] = [generator.y_target]
        if generator.classes and eps == max(radii):
            aims += range(generator.classes)
        rows = []
        for y_target in aims:
            threat = Threat(own.norm, eps, targeted=y_target is not None)
            attack = bind("advgan", target, threat, y_target, torch.Generator().manual_seed(0), generator)
            result = evaluate(attack, target, x, y, threat, y_target=y_target, keep=0)
            if result.row["status"] != "ok":
                raise InputError(f"nothing to publish: on {name} at eps {eps:.6g} {result.row['status']}")
            rows.append(result.row)
        lines.append(line(name, rows[0], "away" if generator.y_target is None else f"class {generator.y_target}"))
        if rows[1:]:
            n = sum(row["n_attacked"] for row in rows[1:])
            hits = round(sum(row["asr"] * row["n_attacked"] for row in rows[1:]))
            mean = {key: sum(row[key] for row in rows[1:]) / len(rows[1:]) for key in ("l2_mean", "ssim_mean")}
            low, high = wilson(hits, n)
            both = {**rows[1], **mean, "asr": hits / n, "asr_low": low, "asr_high": high, "n_attacked": n}
            lines.append(line(name, both, "each wrong class"))
    return lines


def line(name: str, row: dict[str, Any], goal: str) -> str:
    rate = percent(row["asr"], row["asr_low"], row["asr_high"])
    beside = f"{row['l2_mean']:.3f} | {row['ssim_mean']:.3f}"
    return f"| {name} | {row['n_attacked']} | {goal} | {row['norm']} {row['eps']:.4g} | {rate} | {beside} |"


def percent(rate: float, low: float, high: float) -> str:
    return f"{100 * rate:.2f} [{100 * low:.2f}, {100 * high:.2f}]"


def words(
    settings: Settings, folder: Path, target: Target, generator: Generator | None, lines: list[str]
) -> dict[str, Any]:
    """What fills the card."""
    seen: list[str] = []
    for each in lines:  # a second data set repeats the head
        if not (each in seen and (each.startswith("| test images") or each.startswith("|---"))):
            seen.append(each)
    made = json.loads((settings.run / "training.json").read_text()) if (settings.run / "training.json").exists() else {}
    kept = made.get("settings", {})
    flags = " ".join(f"--{k.replace('_', '-')} {v}" for k, v in vars(settings).items() if v not in (None, (), False))
    shape = "x".join(map(str, target.image_shape))
    both = {
        "table": "\n".join(seen),
        "command": flags.replace("(", "").replace(")", "").replace(",", "").replace("'", "").replace(" True", ""),
        "torch": torch.__version__.split("+")[0],
        "machine": platform.machine(),
        "sha256": hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest(),
        "seed": kept.get("seed", 0),
        "trained_on": f"the training images of {kept.get('dataset', settings.dataset)}",
        "note": "",
        "guide": "",
    }
    if settings.also:
        both["note"] = (
            f" {', '.join(settings.also)} may share images with the training data; {settings.dataset} does not."
        )
    if generator is None:
        return both | {
            "tags": "image-classification, adversarial-examples, advgan",
            "title": f"`{settings.target}`, a classifier to be attacked",
            "purpose": f"{shape} images in [0, 1] -> logits of {target.num_classes} classes.",
            "load": f'model = advgan.targets.load_target("{settings.target}", weights=DIR)  # the folder of this card',
            "made_by": settings.recipe_name or f"train/classifier.py --target {settings.target}",
            "parameters": sum(p.numel() for p in target.parameters()),
            "limits": "Made to be attacked, not to be relied on: it was not hardened, and knows only images like those "
            "it was trained on.",
        }
    classes = f", y_target (0 to {generator.classes - 1}, or none)" if generator.classes else ""
    smallest = "" if generator.eps_min is None else f"{generator.eps_min:.6g} to "
    guide = sum(p.numel() for p in generator.guide.parameters()) if generator.guide is not None else 0
    return both | {
        "tags": "adversarial-examples, advgan",
        "title": f"A one-pass attack on `{settings.target}`",
        "purpose": f"Images in [0, 1]{classes} -> adversarial images within {generator.threat.norm} eps "
        f"{smallest}{generator.threat.eps:.6g} and [0, 1], in one forward pass.",
        "load": "x_adv = advgan.Generator.from_pretrained(DIR).perturb(x)  # the folder of this card",
        "made_by": settings.recipe_name or "train/advgan.py",
        "parameters": sum(p.numel() for p in generator.parameters()),
        "guide": f", of which {guide:,} are a frozen copy of the target" if guide else "",
        "limits": "For authorised testing, research and teaching. The figures hold for this classifier and these data; "
        "they say nothing about others.",
    }


if __name__ == "__main__":
    run(main, Settings)
