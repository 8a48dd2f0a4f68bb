"""What is a detector worth? Its ROC against attacks that do not know it, and against those that do.

python eval/detection.py --detector DIR                            one or more that train/detector.py has made
python eval/detection.py --detector DIR --attacks pgd:steps=40@oblivious pgd:steps=40 square
python eval/detection.py --detector DIR --generator BEFORE AFTER   AFTER: trained with --defense reject:detector=DIR

An attack with @oblivious sees the classifier alone; without, the detector too. Metrics are
recomputed from the images (advgan/evaluation); success means that an image is not rejected. Every result is kept in
OUTPUT_DIR/cells as soon as it is done: the same command resumes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import advgan.training as training
from advgan.attacks.registry import Spec, make_attack, parse_attack
from advgan.core.config import Real, write_settings
from advgan.core.errors import InputError
from advgan.core.shipped import CLASSIFIER
from advgan.core.threat_model import Norm, Threat
from advgan.data import Data
from advgan.data.flags import load_chosen
from advgan.defenses import ClassifierSpec, RejectingClassifier, parse_classifier
from advgan.defenses.detection import scores
from advgan.evaluation import Result, ResultCache, environment, wilson
from advgan.evaluation.loading import (
    LoadedGenerator,
    TargetModel,
    load_generators,
    load_targets,
    read_training_json,
    unfit,
)
from advgan.evaluation.roc import auc, roc
from advgan.experiments.detection.report import report
from advgan.experiments.settings import ClassifierSettings, StudySettings
from advgan.report.progress import cell_progress

RATES = [*(i / 200 for i in range(20)), *(i / 50 for i in range(5, 51))]  # of false positives, where the ROC is noted
TOLD = ("auc", "auc_low", "auc_high", "tpr", "tpr_low", "tpr_high", "roc")


@dataclass(frozen=True)
class Settings(ClassifierSettings, StudySettings):
    """Which detectors, of which classifier, against what, and where the results go."""

    detector: tuple[Path, ...] = ()
    """What train/detector.py has made, one or more"""
    attacks: tuple[str, ...] = ("noise-sign", "fgsm@oblivious", "pgd@oblivious", "pgd", "square")
    """Names, with settings after colons, and @oblivious after those by gradients that shall not know the detector"""
    generator: tuple[Path, ...] = ()
    """Trained generators' folders, or their runs: before and after they were trained against a detector, say"""
    eps: Real = 0.3
    """Radius of the ball"""
    norm: Norm = "linf"
    """Norm of the ball"""
    output_dir: Path = Path("checkpoints/runs/detection")
    """Where detection.md, roc.png, detection.json and the rest go; earlier ones are replaced"""
    seed: int = 0
    """Of the random attacks"""


def main(settings: Settings) -> None:
    if settings.batch_size < 1:
        raise InputError(f"batch_size must be at least 1, got {settings.batch_size}")
    if not settings.detector:
        raise InputError("expected a --detector, made by train/detector.py, got none")
    classifier = parse_classifier(settings.target, settings.target_weights, settings.defense, default=CLASSIFIER)
    threat = Threat(settings.norm, settings.eps)
    specs = [parse_attack(word) for word in dict.fromkeys(settings.attacks)]
    trained = load_generators(settings.generator, len(settings.generator), [settings.target])
    if reason := next(filter(None, (unfit(each.generator, threat, None) for each in trained)), None):
        raise InputError(reason)
    device = training.start_alone(settings.seed, settings.threads)
    data = load_chosen(settings)
    targets, data = rejecting(settings, classifier, data, device)
    test = data.test if settings.max_samples is None else data.test.first(settings.max_samples)
    x, y = next(test.batches(len(test)))
    for spec in specs:
        make_attack(spec, targets[0].model, threat)(x[:0], y[:0])  # what cannot be, it says now
    plan: list[tuple[Spec, LoadedGenerator | None]] = [(spec, None) for spec in specs]
    plan += [(parse_attack("advgan"), each) for each in trained]
    for each in trained:
        each.generator.to(device).perturb(x[:1].to(device))
    training.claim(settings.output_dir, "detection", resume=False, overwrite=True)
    write_settings(settings, settings.output_dir)
    size, every = settings.batch_size, len(x)
    cells = ResultCache(settings.output_dir / "cells", x, y, batch_size=size, keep=every, fresh=settings.fresh)

    detectors, rows = [], []
    with cell_progress(len(targets) * len(plan)) as begin:
        for target, path in zip(targets, settings.detector, strict=True):
            clean = scores(guard(target).detector, guard(target).inner, x)
            detectors.append(described(target, path, clean))
            for spec, maker in plan:
                name = spec.label if maker is None else maker.name
                result = cells.run(
                    *(spec, target, threat),
                    seed=settings.seed,
                    generator=None if maker is None else maker.generator,
                    foreign=maker is not None and not maker.trained_on(target),
                    progress=begin(f"{name}, {target.label}", len(x)),
                )
                rows.append({**measured(result, target, clean), "attack": name, "knows": knows(spec, maker, target)})
    summary = {
        **{"environment": environment(settings), "targets": [target.describe(settings.dataset) for target in targets]},
        **{"generators": [each.describe(meant(each, targets)) for each in trained]},
        **{"detectors": detectors, "rates": RATES},
        **{"rows": rows},
    }
    study_report = report(summary)
    study_report.write(settings.output_dir)
    study_report.print(settings.output_dir, kept=cells.found, total=len(rows))


def meant(trained: LoadedGenerator, targets: list[TargetModel]) -> TargetModel:
    """The classifier that a generator was trained on, if it is among the `targets`; else the first."""
    return next((target for target in targets if target.sha256 == trained.source_sha256), targets[0])


def rejecting(
    settings: Settings, classifier: ClassifierSpec, data: Data, device: torch.device
) -> tuple[list[TargetModel], Data]:
    """The classifier behind each of the detectors, called by the detector's kind and, of several of a kind, folder; and
    the data as it has them."""
    defenses = ["+".join(filter(None, (classifier.defense, f"reject:detector={path}"))) for path in settings.detector]
    found, data = load_targets([replace(classifier, defense=defense) for defense in defenses], data, device)
    kinds = [guard(target).detector.kind for target in found]
    names = [k if kinds.count(k) == 1 else f"{k} {p.name}" for k, p in zip(kinds, settings.detector, strict=True)]
    if len(set(names)) < len(names):
        raise InputError(f"expected detectors in folders of different names, got {', '.join(names)}")
    return [target.with_label(name) for target, name in zip(found, names, strict=True)], data


def guard(target: TargetModel) -> RejectingClassifier:
    """The model, that is known to reject."""
    assert isinstance(target.model, RejectingClassifier)
    return target.model


def described(target: TargetModel, path: Path, clean: Tensor) -> dict[str, Any]:
    """A detector for detection.json, with the share of the clean test images, of these scores, that it rejects."""
    detector, made = guard(target).detector, read_training_json(path / "detector")
    return {
        **{"label": target.label, "kind": detector.kind, "path": str(path), "n": len(clean)},
        **{"threshold": detector.threshold.item(), "fpr_wanted": made.get("settings", {}).get("fpr")},
        **{"fpr_validation": made.get("fpr_validation"), "training_seconds": made.get("training_seconds")},
        **dict(zip(("fpr", "fpr_low", "fpr_high"), rejected(target, clean), strict=True)),
    }


def rejected(target: TargetModel, found: Tensor) -> tuple[float, float, float]:
    """The share of the scores above the threshold, with the ends of its 95 % interval."""
    count = int((found > guard(target).detector.threshold.cpu()).sum())
    return count / len(found), *wilson(count, len(found))


def knows(spec: Spec, maker: LoadedGenerator | None, target: TargetModel) -> bool:
    """Whether an attack heeds this very detector: a generator does if it was trained on the classifier behind it."""
    if maker is not None:
        return maker.source_sha256 == target.sha256
    return (spec.attack.handles_rejection or spec.access == "decisions") and spec.view != "oblivious"


def measured(result: Result, target: TargetModel, clean: Tensor) -> dict[str, Any]:
    """The row, and beside it the answers that fool the classifier, rejected or not, against all `clean` scores (n,)."""
    row: dict[str, Any] = {**result.row, "n_fooled": None, "fooled": None, **dict.fromkeys(TOLD)}
    if row["status"] != "ok":
        return row
    records = result.records
    correct = records["clean_prediction"] == records["label"]
    fooling = correct & (records["prediction"] != records["label"]) & records["within"]
    row |= {"n_fooled": int(fooling.sum()), "fooled": int(fooling.sum()) / int(correct.sum())}
    if row["n_fooled"]:
        found = scores(guard(target).detector, guard(target).inner, result.x_adv[fooling])
        told = (*auc(clean, found), *rejected(target, found), roc(clean, found, RATES))
        row |= dict(zip(TOLD, told, strict=True))
    return row
