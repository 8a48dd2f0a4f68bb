"""ROC of detectors of adversarial images, against oblivious and adaptive attacks.

python eval/detection.py --detector DIR                            one or more runs of train/detector.py
python eval/detection.py --detector DIR --attacks pgd:steps=40@oblivious pgd:steps=40 square
python eval/detection.py --detector DIR --generator BEFORE AFTER   AFTER: trained with --defense reject:detector=DIR

An attack with @oblivious uses the classifier alone; without, also the detector. Metrics are recomputed from the images
(advgan/evaluation); a success is not rejected. Results are cached in OUTPUT_DIR/cells: the same command resumes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from advgan.attacks.registry import AttackSpec, parse_attack
from advgan.core.config import Real
from advgan.core.errors import InputError
from advgan.core.threat_model import Norm, Threat
from advgan.defenses import ClassifierSpec, RejectingClassifier
from advgan.defenses.detection import scores
from advgan.defenses.flags import ClassifierSettings
from advgan.evaluation import GridPoint, Result
from advgan.evaluation.loading import LoadedGenerator, TargetModel, read_training_json
from advgan.evaluation.statistics import auc, rate, roc
from advgan.experiments.detection.report import report
from advgan.experiments.study import SeededStudySettings, Study

RATES = [*(i / 200 for i in range(20)), *(i / 50 for i in range(5, 51))]  # of false positives, where the ROC is noted
METRICS = ("auc", "auc_low", "auc_high", "tpr", "tpr_low", "tpr_high", "roc")


@dataclass(frozen=True)
class Settings(ClassifierSettings, SeededStudySettings):
    """Detectors, classifier, attacks, images and the directory of the results."""

    detector: tuple[Path, ...] = ()
    """Runs of train/detector.py, one or more"""
    attacks: tuple[str, ...] = ("noise-sign", "fgsm@oblivious", "pgd@oblivious", "pgd", "square")
    """Names, with settings after colons, and @oblivious after gradient attacks that do not use the detector"""
    generator: tuple[Path, ...] = ()
    """Folders of trained generators, or their runs, e.g. before and after training against a detector"""
    eps: Real = 0.3
    """Radius of the ball"""
    norm: Norm = "linf"
    """Norm of the ball"""
    output_dir: Path = Path("checkpoints/runs/detection")
    """Directory of detection.md, roc.png, detection.json and the rest; earlier ones are replaced"""


def main(settings: Settings) -> None:
    study = Study("detection", settings)
    if not settings.detector:
        raise InputError("expected a --detector, made by train/detector.py, got none")
    classifier, threat = settings.classifier, Threat(settings.norm, settings.eps)
    specs = [parse_attack(name) for name in dict.fromkeys(settings.attacks)]
    trained = study.load_generators(settings.generator, [settings.target])
    study.check_generator_threats([threat])
    study.init_run(settings.seed, classifier)
    targets = load_rejecting(study, classifier, settings.detector)
    study.check_attacks(specs, [threat])
    study.prepare_output_dir(keep=len(study.x))
    attacks: list[tuple[AttackSpec, LoadedGenerator | None]] = [(spec, None) for spec in specs]
    attacks += [(parse_attack("advgan"), generator) for generator in trained]
    points = [
        GridPoint(
            spec, target, threat, seed=settings.seed, generator=generator, label=generator.name if generator else None
        )
        for target in targets
        for spec, generator in attacks
    ]
    results = study.run(points)
    clean = {target.label: rejection_scores(target, study.x) for target in targets}
    rows = [
        {**detection_metrics(result, point.target, clean[point.target.label]), "knows": is_adaptive(point)}
        for point, result in zip(points, results, strict=True)
    ]
    summary = study.summary(
        generators=[  # of the classifier that it was trained on, if it is among the targets; else of the first
            generator.describe(next((t for t in targets if generator.source_sha256 in t.fingerprints), targets[0]))
            for generator in trained
        ],
        detectors=[
            describe_detector(target, path, clean[target.label])
            for target, path in zip(targets, settings.detector, strict=True)
        ],
        rates=RATES,
        rows=rows,
    )
    study.write_report(report(summary), total=len(rows))


def load_rejecting(study: Study, classifier: ClassifierSpec, detectors: Sequence[Path]) -> list[TargetModel]:
    """The classifier with each of the detectors, labelled by the detector's kind and, of several of a kind, folder."""
    defenses = ["+".join(filter(None, (classifier.defense, f"reject:detector={path}"))) for path in detectors]
    loaded = study.load_targets([replace(classifier, defense=defense) for defense in defenses])
    kinds = [rejecting(target).detector.kind for target in loaded]
    names = [k if kinds.count(k) == 1 else f"{k} {p.name}" for k, p in zip(kinds, detectors, strict=True)]
    if len(set(names)) < len(names):
        raise InputError(f"expected detectors in folders of different names, got {', '.join(names)}")
    study.targets = [target.with_label(name) for target, name in zip(loaded, names, strict=True)]
    return study.targets


def rejecting(target: TargetModel) -> RejectingClassifier:
    """The model as the rejecting classifier that it is."""
    assert isinstance(target.model, RejectingClassifier)
    return target.model


def rejection_scores(target: TargetModel, x: Tensor) -> Tensor:
    """The detector's scores (n,) of images."""
    return scores(rejecting(target).detector, rejecting(target).inner, x)


def describe_detector(target: TargetModel, path: Path, clean: Tensor) -> dict[str, Any]:
    """A detector for detection.json, with the fraction of the clean test images, of these scores, that it rejects."""
    detector, run = rejecting(target).detector, read_training_json(path / "detector")
    return {
        "label": target.label,
        "kind": detector.kind,
        "path": str(path),
        "n": len(clean),
        "threshold": detector.threshold.item(),
        "fpr_wanted": run.get("settings", {}).get("fpr"),
        "fpr_validation": run.get("fpr_validation"),
        "training_seconds": run.get("training_seconds"),
        **rejected_fraction("fpr", target, clean),
    }


def rejected_fraction(name: str, target: TargetModel, values: Tensor) -> dict[str, Any]:
    """The fraction of the scores above the threshold, as columns of a row."""
    return rate(name, int((values > rejecting(target).detector.threshold.cpu()).sum()), len(values))


def is_adaptive(point: GridPoint) -> bool:
    """Whether an attack uses this very detector: a generator does if it was trained on the classifier behind it."""
    spec = point.spec
    if point.generator is not None:
        return point.generator.source_sha256 in point.target.fingerprints
    return (spec.attack.handles_rejection or spec.access == "decisions") and spec.view != "oblivious"


def detection_metrics(result: Result, target: TargetModel, clean: Tensor) -> dict[str, Any]:
    """The row, and scores of the adversarial examples that fool the classifier, rejected or not, against all `clean`
    ones (n,)."""
    row: dict[str, Any] = {**result.row, "n_fooled": None, "fooled": None, **dict.fromkeys(METRICS)}
    if row["status"] != "ok":
        return row
    records = result.records
    correct = records["clean_prediction"] == records["label"]
    fooling = correct & (records["prediction"] != records["label"]) & records["within"]
    row |= {"n_fooled": int(fooling.sum()), "fooled": int(fooling.sum()) / int(correct.sum())}
    if row["n_fooled"]:
        values = rejection_scores(target, result.x_adv[fooling])
        row |= zip(METRICS[:3], auc(clean, values), strict=True)
        row |= rejected_fraction("tpr", target, values) | {"roc": roc(clean, values, RATES)}
    return row
