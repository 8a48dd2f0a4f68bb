"""Ablation of the terms of the loss: the same recipe trained without each, over seeds, evaluated on the test images.

python eval/ablation.py --seeds 0                         every variant of recipes/mnist-c.yaml
python eval/ablation.py --seeds 0 1 2 --variants full     the recipe itself, mean of three seeds
python eval/ablation.py --detector --variants alpha=0,beta=0.5,hinge-c=0 alpha=2

Each variant is `train/advgan.py`, then `eval/compare.py` and, with --detector, `train/detector.py`, in a directory of
its own. Finished variants of the same settings are kept; an interrupted one resumes.
"""

import json
import math
import statistics
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from rich.console import Console

import advgan.training as training
from advgan.core.config import ByOrder, parse, write_settings
from advgan.core.errors import InputError
from advgan.core.files import atomic_write
from advgan.core.json_files import read_sealed
from advgan.core.shipped import shipped
from advgan.data.flags import DATA_FLAGS
from advgan.experiments.trainings import ensure_trained, flags_of, run_script
from advgan.report.page import Table
from advgan.training.program import Settings as Training

VARIANTS = {
    "full": [],
    "no-gan": ["--alpha", "0"],
    "no-hinge": ["--beta", "0"],
    "neither": ["--alpha", "0", "--beta", "0"],
    "larger-alpha": ["--alpha", "1"],
    "paper-networks": ["--architecture", "paper"],
}
# Settings of the training that the comparison takes over.
SHARED_SETTINGS = (*DATA_FLAGS, "target", "target_weights", "defense", "eps", "norm", "threads")
# Column -> its value from a run.
COLUMNS = {
    "ASR %": lambda run: 100 * run["row"]["asr"],
    "l2": lambda run: run["row"]["l2_mean"],
    "SSIM": lambda run: run["row"]["ssim_mean"],
    "hinge active %": lambda run: _of_term(run, "beta", "hinge_active"),
    "D accuracy %": lambda run: _of_term(run, "alpha", "d_accuracy"),
    "steps to 95 %": lambda run: run["training"]["steps_to_95"],
    "passes to 95 %": lambda run: run["training"]["passes_to_95"],
}
DETECTOR_COLUMNS = {  # of a detector that was trained on the generator's adversarial training images
    "AUC %": lambda run: 100 * run["detector"]["auc"],
    "detected %": lambda run: 100 * run["detector"]["tpr"],
}

RECIPE = shipped("recipes/mnist-c.yaml")


@dataclass(frozen=True)
class Settings:
    """Variants and seeds; all other settings are in the recipe of train/advgan.py."""

    train_recipe: Path = RECIPE
    """Recipe of train/advgan.py that is varied"""
    variants: tuple[str, ...] = tuple(VARIANTS)
    """Some of full, no-gan, no-hinge, neither, larger-alpha, paper-networks, or settings like alpha=1,beta=0"""
    seeds: tuple[int, ...] = (0,)
    """Seeds of each variant"""
    detector: bool = False
    """Train a binary detector (1 % false positives) on each generator's adversarial training images, and test it"""
    data_dir: Path = Path("data")
    """Folder of the data set or its download"""
    target_weights: Path | None = None
    """The classifier under attack; None: the recipe's"""
    weights_by_order: ByOrder = False
    output_dir: Path = Path("checkpoints/runs/ablation")
    """A directory per cell, results.json and report.md"""
    recipe: Path | None = None
    """YAML file of these settings"""


def main(settings: Settings) -> None:
    if not settings.variants or not settings.seeds:
        raise InputError("expected at least one variant and one seed, got none")
    for variant in settings.variants:
        training_flags(settings, variant, 0)
    training.prepare_output_dir(settings.output_dir, "ablation", resume=False, overwrite=True)
    write_settings(settings, settings.output_dir)
    runs: dict[str, list[dict[str, Any]]] = {}
    for variant, seed in product(dict.fromkeys(settings.variants), dict.fromkeys(settings.seeds)):
        runs.setdefault(variant, []).append(run_variant(settings, variant, seed))
        report(runs, settings.output_dir)
    print(f"report: {settings.output_dir / 'report.md'}")


def run_variant(settings: Settings, variant: str, seed: int) -> dict[str, Any]:
    """Train one variant with one seed and compare it on the test images, as far as that is not done."""
    directory = settings.output_dir / f"{variant}-{seed}"
    arguments, train_settings = training_flags(settings, variant, seed)
    detector = directory / "detector" / "training.json"
    if ensure_trained("train/advgan.py", arguments, directory, train_settings, "generator"):
        detector.unlink(missing_ok=True)  # of another generator
    flags = flags_of(train_settings, SHARED_SETTINGS)
    flags += ["--generator", str(directory), "--output-dir", str(directory), "--attacks"]
    run_script("eval/compare.py", *flags, "advgan")  # again: its results are kept, for this classifier and these images
    rows = json.loads((directory / "results.json").read_text())["rows"]
    row = next(row for row in rows if row["attack"] == "advgan")
    if row["access"] == "transfer":
        raise InputError(f"{directory} was trained on another classifier: choose another --output-dir")
    if row["asr"] is None:
        raise InputError(f"the comparison in {directory} failed: {row['status']}")
    if settings.detector and not detector.exists():
        run_script("train/detector.py", *flags, "--kind", "binary", "--fpr", "0.01", "--overwrite")
    run = {"row": row, "training": read_sealed(directory / "training.json")}
    return run | ({"detector": read_sealed(detector)["attacks"][0]} if settings.detector else {})


def training_flags(settings: Settings, variant: str, seed: int) -> tuple[list[str], Training]:
    """Flags of train/advgan.py for a variant, and its settings. Raises InputError for a variant that is none."""
    changes = [] if variant in VARIANTS else [change.partition("=") for change in variant.split(",")]
    if not all(name and value for name, _, value in changes):
        expected = f"some of {', '.join(VARIANTS)}, or settings like alpha=1,beta=0"
        raise InputError(f"variants must be {expected}, got {variant!r}")
    flags = VARIANTS.get(variant, []) + [text for name, _, value in changes for text in (f"--{name}", value)]
    arguments = ["--recipe", settings.train_recipe, "--seed", seed, *flags, "--data-dir", settings.data_dir]
    arguments += [] if settings.target_weights is None else ["--target-weights", settings.target_weights]
    texts = [str(argument) for argument in arguments]
    return texts, parse(Training, texts)


def best_validation(run: dict[str, Any]) -> dict[str, Any]:
    """The validation whose generator was saved: the best one; of equals, the later."""
    return max(reversed(run["training"]["history"]), key=lambda validation: validation["asr"])


def _of_term(run: dict[str, Any], weight: str, metric: str) -> float:
    """A metric in % of a term of the loss; NaN where the term has no weight, and so no effect."""
    return math.nan if run["training"]["settings"][weight] == 0 else 100 * float(best_validation(run)[metric])


def report(runs: dict[str, list[dict[str, Any]]], output_dir: Path) -> None:
    """The table so far, on the terminal and as Markdown: mean over the seeds, +- standard deviation of several."""
    detected = all("detector" in run for seeds in runs.values() for run in seeds)
    columns = COLUMNS | (DETECTOR_COLUMNS if detected else {})
    lines = [
        [variant, str(len(seeds)), *(mean_and_deviation([read(run) for run in seeds]) for read in columns.values())]
        for variant, seeds in runs.items()
    ]
    table = Table("Ablation", ["variant", "seeds", *columns], lines)
    Console().print(table.rich())
    atomic_write(output_dir / "report.md", "\n".join(table.markdown()[2:]))  # without a title
    atomic_write(output_dir / "results.json", json.dumps(runs, indent=2))


def mean_and_deviation(values: list[float | None]) -> str:
    """Mean and standard deviation; "–" for NaN; the number of values where some are missing."""
    measured = [v for v in values if v is not None]
    if any(math.isnan(v) for v in measured):
        return "–"
    if len(measured) < len(values):
        return "never" if not measured else f"{len(measured)} of {len(values)} runs"
    mean = statistics.fmean(measured)
    text = f"{mean:.0f}" if mean >= 100 else f"{mean:.2f}" if mean >= 10 else f"{mean:.3f}"
    return text + (f" ± {statistics.stdev(measured):.2g}" if len(measured) > 1 else "")
