"""Training of a detector of adversarial images for a classifier, calibrated on clean images.

python train/detector.py                                           feature squeezing for mnist-c on the embedded digits
python train/detector.py --kind binary --attacks fgsm pgd:steps=10 --generator RUN --output-dir DIR
python train/detector.py --kind discriminator --discriminator RUN  that of a run of train/advgan.py

Its threshold rejects a fraction --fpr of the clean validation images; the test images are used once, to measure it.
Then --defense reject:detector=DIR is the classifier that rejects, in every program. Training takes seconds: there is no
--resume.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import advgan.bridges  # noqa: F401 - registers the names of other libraries' attacks
import advgan.training as training
from advgan.attacks.registry import parse_attack
from advgan.classifiers import fingerprint
from advgan.core.config import write_settings
from advgan.data.flags import DataSettings, load_chosen
from advgan.defenses import load_classifier, parse_classifier
from advgan.defenses.detection import save_detector
from advgan.defenses.flags import ClassifierSettings
from advgan.evaluation.compatibility import prepare_model_and_data, require_gradients
from advgan.models.discriminator import Discriminator
from advgan.models.generator import Generator
from advgan.training.card import detector_card
from advgan.training.detector import (
    DetectorConfig,
    calibrate,
    check_no_rejection,
    evaluate_detector,
    first_images,
    named_attacks,
    rejection_rate,
    train_binary_detector,
    untrained_detector,
)

PROGRAM = "detector"  # as in settings-detector.yaml


@dataclass(frozen=True)
class Settings(DetectorConfig, ClassifierSettings, DataSettings):
    """Which detector, of what, for which classifier."""

    attacks: tuple[str, ...] = ("fgsm", "pgd:steps=10")
    """Attacks, with settings after colons: a binary detector is trained on their adversarial training images, each
    attack on its part of them, and every detector is tested on all their adversarial test images"""
    generator: Path | None = None
    """A trained generator's folder, or its run: one more attack; None: of a discriminator, its own generator"""
    discriminator: Path | None = None
    """The run of train/advgan.py with the discriminator (kind discriminator)"""
    output_dir: Path = Path("checkpoints/runs/detector")
    """Directory of detector/ and logs/"""
    overwrite: bool = False
    """Replace an earlier detector in the output directory"""
    threads: int | None = None
    """CPU threads; None takes all cores"""


def main(settings: Settings) -> None:
    generator_given = settings.generator is not None
    settings.check(attacks=bool(settings.attacks) or generator_given, discriminator=settings.discriminator)
    specs = [parse_attack(text) for text in settings.attacks]
    spec = settings.classifier
    accelerator = training.init_accelerator(settings.seed, settings.threads, one_process=True)
    data = load_chosen(settings)
    target = load_classifier(spec, image_shape=data.image_shape, num_classes=data.all_classes)
    if any(spec.access == "gradients" for spec in specs):
        require_gradients(target)
    _, data = prepare_model_and_data(target, data)
    check_no_rejection(target, spec.defense)
    target = target.to(accelerator.device)
    generators = list[Generator]()
    if source := settings.generator or settings.discriminator:
        allowed = [parse_classifier(settings.target).name]
        generators.append(Generator.from_pretrained(source, allowed_guides=allowed).to(accelerator.device))
    attacks = named_attacks([*settings.attacks, *generators], target, settings)
    discriminator = None if settings.discriminator is None else Discriminator.load(settings.discriminator)
    detector = untrained_detector(settings, data.image_shape, discriminator).to(accelerator.device)
    training.prepare_output_dir(settings.output_dir, "detector", resume=None, overwrite=settings.overwrite)
    write_settings(settings, settings.output_dir)

    losses, seconds = list[float](), 0.0
    if settings.kind == "binary":
        began = time.perf_counter()
        images = first_images(data.train, target, settings)
        with training.open_log(accelerator, settings.output_dir, "detector", 0, training.to_jsonable(settings)) as log:

            def write_loss(step: int, loss: float) -> None:
                if log and step % 10 == 0:
                    losses.append(loss)
                    log.add_scalar("train/loss", loss, step)

            train_binary_detector(detector, target, images, attacks, settings, write_loss)
        seconds = time.perf_counter() - began
    clean = calibrate(detector, target, data.validation, settings.fpr)
    tested = evaluate_detector(detector, target, data.test, attacks, settings.max_samples)
    summary = {
        "settings": training.to_jsonable(settings) | {"target_sha256": fingerprint(target)},
        "training_seconds": seconds,  # of a binary one; making its adversarial images is part of it
        "losses": losses,
        "threshold": detector.threshold.item(),
        "n_validation": len(clean),
        "fpr_validation": rejection_rate(detector, clean),
        **tested,
    }
    save_detector(detector, settings.output_dir / "detector", detector_card(summary), summary)
    print_summary(summary, settings.output_dir)


def print_summary(summary: dict[str, Any], directory: Path) -> None:
    """The metrics of each attack, and where the detector is."""
    for row in summary["attacks"]:
        print(f"{row['attack']}: {row['words']}")
    print(f"clean images rejected: {summary['fpr_test']:.2%} on test, {summary['fpr_validation']:.2%} on validation")
    print(f"detector in {directory / 'detector'}: --defense reject:detector={directory}")
