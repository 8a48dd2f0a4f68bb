"""Evaluate a run on unseen test images, and publish it: weights, configuration and a card with the results.

python eval/publish.py --run checkpoints/runs/mnist-c --target mnist-c --target-weights checkpoints/runs/mnist-c \
    --dataset mnist --data-dir data --output-dir checkpoints/mnist-c-generator

A run of train/classifier.py (with --classifier) or train/advgan.py becomes a folder with config.json, model.safetensors
and README.md (the run's card, and these results), which `load_target` or `Generator.from_pretrained` loads. --also adds
a second data set, which anybody can measure again without a download.
"""

import hashlib
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import advgan.training as training
from advgan.attacks.registry import make_attack
from advgan.classifiers import Classifier, fingerprint, load_target
from advgan.classifiers.external import source_of
from advgan.core.config import ByOrder
from advgan.core.errors import InputError
from advgan.core.files import atomic_write_dir
from advgan.core.fraction import eps_text, parse_fraction
from advgan.core.recipe import NameOrPath
from advgan.core.threat_model import Threat
from advgan.core.training_record import unfinished
from advgan.data import CUSTOM_DATASETS, Split, Stream, load_data, relabel
from advgan.data.flags import ImageSettings
from advgan.defenses import parse_classifier
from advgan.evaluation import evaluate, predict
from advgan.evaluation.compatibility import class_info, own_input, predicted_labels, prepare_model_and_data
from advgan.evaluation.loading import read_training_json
from advgan.evaluation.statistics import rate
from advgan.experiments.study import PART_OF_MNIST
from advgan.models.generator import Generator
from advgan.report.page import with_interval


@dataclass(frozen=True)
class Settings(ImageSettings):
    """The run, data sets for its evaluation, and the directory of the checkpoint."""

    run: Path = Path("checkpoints/runs/advgan")
    """Run to publish: of train/advgan.py, or with --classifier of train/classifier.py"""
    target: NameOrPath = "mnist-c"
    """Classifier to publish, or under attack by the generator"""
    output_dir: Path = Path("checkpoints/published")
    """The checkpoint's folder"""
    classifier: bool = False
    """Publish the run's classifier, not its generator"""
    target_weights: Path | None = None
    """The weights of the classifier under attack; None: the run's"""
    weights_by_order: ByOrder = False
    dataset: str = "mnist5k"
    """Data set of the test images"""
    also: tuple[str, ...] = ()
    """Further data sets"""
    data_dir: Path = Path("data")
    """Directory of the data sets"""
    max_samples: int | None = None
    """Maximum number of test images of each: always the same fair sample (docs/data.md)"""
    eps: tuple[str, ...] = ()
    """Radii for the evaluation of a generator; (): its own"""
    recipe: Path | None = None
    """YAML file of these settings"""
    overwrite: bool = False
    """Replace an earlier checkpoint"""
    threads: int | None = None
    """CPU threads; None: OMP_NUM_THREADS, else all cores"""


FILES = ("config.json", "model.safetensors", "README.md")
ACCURACY = "| test images | n | accuracy % |"
SUCCESS = "| test images | n | goal | eps | ASR % | mean l2 | SSIM |"
ASR_NOTE = """ASR is the success rate of one pass over the images that the target classifies correctly (targeted: and
that are not of the target class). """
MEASURED = """
## On test images

{table}

{meaning}In brackets 95 % intervals. Measured by `python eval/publish.py {command}`
(torch {torch}, {machine}) on images that were used neither in training nor in selection.{note}

SHA-256 of model.safetensors: `{sha256}`
"""


def main(settings: Settings) -> None:
    training.init_accelerator(0, settings.threads, one_process=True)
    folder = settings.run / ("classifier" if settings.classifier else "generator")
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise InputError(f"expected a finished run with {', '.join(FILES)} in {folder}, found no {', '.join(missing)}")
    exists = settings.output_dir.exists()
    if exists and not (settings.overwrite and (settings.output_dir / "config.json").is_file()):
        raise InputError(f"{settings.output_dir} exists: --overwrite replaces a checkpoint, and no other directory")
    trained = read_training_json(folder).get("settings", {})
    if progress := unfinished(folder):
        raise InputError(f"expected a finished run, got {progress} in {settings.run}: --resume continues its training")
    if trained.get("train_on") == "test" or (trained.get("dataset"), settings.dataset) == ("mnist", PART_OF_MNIST):
        given = f"{settings.dataset} of {trained['dataset']}"
        raise InputError(f"expected test images that the run was not trained on, got training images, {given}")
    spec = parse_classifier(settings.target, settings.target_weights)
    if settings.classifier and spec.weights is not None:
        raise InputError(f"a classifier's weights are the run's: expected no target_weights, got {spec.weights}")
    if spec.defense is not None:
        raise InputError(f"expected a target without a defense, got {spec.defense}")
    weights = folder if settings.classifier else settings.run if spec.needs_weights else spec.path
    target = load_target(spec.name, weights)
    generator = None if settings.classifier else Generator.from_pretrained(folder, allowed_guides=[spec.name])
    if generator is not None and fingerprint(target) != trained.get("target_sha256"):
        raise InputError(
            "the generator was trained on another classifier than this target, or its run does not record on which"
        )
    head, lines = (ACCURACY, []) if generator is None else (SUCCESS, [])
    for name in (settings.dataset, *settings.also):
        shown, test = test_images(name, target, settings, check=bool(source_of(spec.name)))
        x, y = next(test.batches(len(test)))
        lines += (
            accuracy(shown, target, x, y) if generator is None else success(shown, generator, target, x, y, settings)
        )
    values = {
        "meaning": "" if generator is None else ASR_NOTE,
        "table": "\n".join([head, "|---" * (head.count("|") - 1) + "|", *lines]),
        "command": " ".join(sys.argv[1:]),
        "torch": torch.__version__.split("+")[0],
        "machine": platform.machine(),
        "sha256": hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest(),
        "note": f" Some images of {' and '.join(settings.also)} may be among the training images."
        if settings.also
        else "",
    }
    card = (folder / "README.md").read_text().rstrip() + "\n" + MEASURED.format(**values)

    def write(directory: Path) -> None:
        for file in FILES[:2]:
            shutil.copy(folder / file, directory / file)
        (directory / "README.md").write_text(card)

    atomic_write_dir(settings.output_dir, write)
    print(MEASURED.format(**values))


def test_images(name: str, target: Classifier, settings: Settings, *, check: bool) -> tuple[str, Split]:
    """The test images of data set `name` for `target`, and its name with how they were resized."""
    sizing: dict[str, Any] = {"image_size": settings.image_size, "resize": settings.resize}
    sizing |= {"labels_file": settings.labels_file, "own_input": lambda: own_input(target)}
    custom = name.partition(":")[0] in CUSTOM_DATASETS
    data = load_data(name, settings.data_dir, label_source=settings.label_source, **(sizing if custom else {}))
    data = prepare_model_and_data(target, data)[1] if check else relabel(data, *class_info(target))
    if not isinstance(data.test, Stream) and not len(data.test):
        raise InputError(f"{name} has no test images in {settings.data_dir}")
    test = data.test if settings.max_samples is None else data.test.first(settings.max_samples)
    return data.text(name, "the target"), predicted_labels(test, target)


def accuracy(name: str, target: Classifier, x: torch.Tensor, y: torch.Tensor) -> list[str]:
    """The lines of a classifier's table."""
    n_correct = int((predict(target, x).argmax(1) == y).sum())
    row = rate("accuracy", n_correct, len(y))
    return [f"| {name} | {len(y)} | {with_interval(row, 'accuracy', digits=2)} |"]


def success(
    name: str, generator: Generator, target: Classifier, x: torch.Tensor, y: torch.Tensor, settings: Settings
) -> list[str]:
    """The lines of a generator's table: one pass at each eps; for class-conditional ones also toward every class."""
    threat_model = generator.threat
    eps_values = [parse_fraction(text) for text in settings.eps] or [threat_model.eps]
    lines = []
    for eps in eps_values:
        target_classes: list[int | None] = [generator.y_target]
        if generator.classes and eps == max(eps_values):
            target_classes += generator.target_classes
        rows = []
        for y_target in target_classes:
            threat = Threat(threat_model.norm, eps, targeted=y_target is not None)
            attack = make_attack("advgan", target, threat, y_target, torch.Generator().manual_seed(0), generator)
            result = evaluate(attack, target, x, y, threat, y_target=y_target, keep=0)
            if result.row["status"] != "ok":
                raise InputError(f"nothing to publish: on {name} at eps {eps_text(eps)} {result.row['status']}")
            rows.append(result.row)
        lines.append(line(name, rows[0], "untargeted" if generator.y_target is None else f"class {generator.y_target}"))
        if rows[1:]:
            n = sum(row["n_attacked"] for row in rows[1:])
            hits = round(sum(row["asr"] * row["n_attacked"] for row in rows[1:]))
            mean = {key: sum(row[key] * row["n_attacked"] for row in rows[1:]) / n for key in ("l2_mean", "ssim_mean")}
            all_classes = {**rows[1], **mean, **rate("asr", hits, n), "n_attacked": n}
            lines.append(line(name, all_classes, "each wrong class"))
    return lines


def line(name: str, row: dict[str, Any], target_text: str) -> str:
    threat, rate = f"{row['norm']} {eps_text(row['eps'])}", with_interval(row, digits=2)
    sizes = f"{row['l2_mean']:.3f} | {row['ssim_mean']:.3f}"
    return f"| {name} | {row['n_attacked']} | {target_text} | {threat} | {rate} | {sizes} |"
