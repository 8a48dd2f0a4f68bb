"""Make a detector of adversarial images for a classifier, calibrated on clean validation images, tested once.

python train/detector.py                                           feature squeezing for mnist-c on the embedded digits
python train/detector.py --kind binary --attacks fgsm pgd:steps=10 --generator RUN --output-dir DIR
python train/detector.py --kind discriminator --discriminator RUN  that of a run of train/advgan.py

Its threshold lets --fpr of the clean images be rejected. Then --defense reject:detector=DIR is the classifier that
rejects, in every program. Training takes seconds, so there is nothing to resume.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Adam

import advgan.bridges  # noqa: F401 - registers the names of other libraries' attacks
import advgan.training as training
from advgan.attacks.registry import Spec, make_attack, parse_attack
from advgan.classifiers import fingerprint
from advgan.core.config import ByOrder, Real, check_signs, write_settings
from advgan.core.errors import InputError
from advgan.core.recipe import NameOrPath
from advgan.core.shipped import CLASSIFIER
from advgan.core.threat_model import Norm, Threat
from advgan.data import Data, Split
from advgan.data.flags import DataSettings, load_chosen
from advgan.defenses import can_reject, load_classifier, parse_classifier, seen
from advgan.defenses.detection import (
    BinaryDetector,
    Detector,
    DiscriminatorDetector,
    FeatureSqueezing,
    save_detector,
    scores,
    threshold_at,
)
from advgan.evaluation import predict
from advgan.evaluation.compatibility import prepare_model_and_data, require_gradients
from advgan.evaluation.roc import auc
from advgan.evaluation.runner import device_of
from advgan.models.discriminator import Discriminator
from advgan.models.generator import Generator
from advgan.training.card import detector_card

Answer = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # (x, y) -> x_adv, and which of them (n,) fool


@dataclass(frozen=True)
class Settings(DataSettings):
    """Which detector, of what, for which classifier."""

    kind: Literal["feature-squeezing", "binary", "discriminator"] = "feature-squeezing"
    """feature-squeezing (nothing is trained), binary (a network, trained on adversarial images), or discriminator (that
    of a generator's run)"""
    target: NameOrPath = "mnist-c"
    """The classifier: its name, the directory of a saved one, or torchvision:NAME:WEIGHTS, timm:NAME,
    hf:REPO, FILE.py:FACTORY, which need no weights"""
    target_weights: Path | None = None
    """Its weights: a run of train/classifier.py, a .safetensors or .pt file; None: its own, or the shipped mnist-c"""
    weights_by_order: ByOrder = False
    defense: NameOrPath | None = None
    """What it stands behind already, like bit-depth:bits=3, or several with +; None: nothing"""
    attacks: tuple[str, ...] = ("fgsm", "pgd:steps=10")
    """Attacks, with settings after colons: a binary detector learns from their answers to training images, in turn, and
    every detector is tested on those to test images"""
    generator: Path | None = None
    """A trained generator's folder, or its run: one attack more; None: of a discriminator, its own generator"""
    discriminator: Path | None = None
    """The run of train/advgan.py whose discriminator it is (kind discriminator)"""
    eps: Real = 0.3
    """Radius of the attacks' ball"""
    norm: Norm = "linf"
    """Norm of the ball"""
    fpr: Real = 0.05
    """Share of the clean validation images that the threshold rejects, at most"""
    max_samples: int = 2000
    """Attack at most so many training images, and so many test images"""
    steps: int = 600
    """Training steps (kind binary)"""
    batch_size: int = 64
    """Pairs of a clean and an adversarial image a step (kind binary)"""
    learning_rate: Real = 3e-3
    """Peak of the one-cycle schedule (Adam; kind binary)"""
    output_dir: Path = Path("checkpoints/runs/detector")
    """Where detector/ and logs/ go"""
    overwrite: bool = False
    """Replace an earlier detector in the output directory"""
    seed: int = 0
    """Of weights, batches and random attacks"""
    threads: int | None = None
    """CPU threads; None takes all cores"""


def main(settings: Settings) -> None:
    specs = check(settings)
    spec = parse_classifier(settings.target, settings.target_weights, settings.defense, default=CLASSIFIER)
    accelerator = training.start(settings.seed, settings.threads)
    if accelerator.num_processes > 1:
        raise InputError(f"a detector is made by one process, got {accelerator.num_processes}")
    data = load_chosen(settings)
    target = load_classifier(spec, image_shape=data.image_shape, num_classes=data.num_classes)
    if any(spec.access == "gradients" for spec in specs):
        require_gradients(target)
    _, data = prepare_model_and_data(target, data)
    if can_reject(target):
        raise InputError(f"the target rejects already, expected one that answers every image, got {spec.defense}")
    target = target.to(accelerator.device)
    attacks = known_attacks(settings, specs, target)
    training.claim(settings.output_dir, "detector", resume=None, overwrite=settings.overwrite)
    write_settings(settings, settings.output_dir)

    began = time.perf_counter()
    detector, losses = make(settings, data, target, attacks, accelerator)
    seconds = time.perf_counter() - began if losses else 0.0
    clean = split_scores(detector, target, data.validation)
    detector.threshold.fill_(threshold_at(clean, settings.fpr))
    tested = on_test_images(detector, target, data.test, attacks, settings.max_samples)
    summary = {
        "settings": training.plain(settings) | {"target_sha256": fingerprint(target)},
        "training_seconds": seconds,  # of a binary one; making its adversarial images is part of it
        "losses": losses,
        "threshold": detector.threshold.item(),
        "n_validation": len(clean),
        "fpr_validation": rejected(detector, clean),
        **tested,
    }
    save_detector(detector, settings.output_dir / "detector", detector_card(summary), summary)
    for row in tested["attacks"]:
        print(f"{row['attack']}: {row['words']}")
    print(f"clean images rejected: {tested['fpr_test']:.2%} on test, {summary['fpr_validation']:.2%} on validation")
    print(f"detector in {settings.output_dir / 'detector'}: --defense reject:detector={settings.output_dir}")


def check(settings: Settings) -> list[Spec]:
    """The attacks by name; refuses what cannot work, before any work."""
    Threat(settings.norm, settings.eps)
    threshold_at(torch.zeros(1), settings.fpr)
    check_signs(settings, positive=("max_samples", "steps", "batch_size", "learning_rate"))
    for name in ("steps", "batch_size", "learning_rate"):
        if settings.kind != "binary" and getattr(settings, name) != getattr(Settings, name):
            raise InputError(f"{name} does nothing with kind {settings.kind}, got {getattr(settings, name)}")
    if (settings.kind == "discriminator") != (settings.discriminator is not None):
        wanted = "a run of train/advgan.py" if settings.kind == "discriminator" else "none"
        raise InputError(f"kind {settings.kind}: expected for --discriminator {wanted}, got {settings.discriminator}")
    if settings.kind == "binary" and not settings.attacks and settings.generator is None:
        raise InputError("kind binary learns from adversarial images: expected --attacks or --generator, got neither")
    return [parse_attack(word) for word in settings.attacks]


def known_attacks(settings: Settings, specs: list[Spec], target: nn.Module) -> dict[str, Answer]:
    """Attack's name -> its answers to images, and which of them fool the target."""
    source = settings.generator or settings.discriminator
    guides = [parse_classifier(settings.target).name]
    generator = (
        None if source is None else Generator.from_pretrained(source, allowed_guides=guides).to(device_of(target))
    )
    aim = None if generator is None else generator.y_target
    if generator is not None and (
        reason := generator.incompatibility(eps=settings.eps, norm=settings.norm, y_target=aim)
    ):
        raise InputError(reason)

    def answer(spec: Spec, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        y_target = aim if spec.name == "advgan" else None
        threat = Threat(settings.norm, settings.eps, targeted=y_target is not None)
        rng = torch.Generator().manual_seed(settings.seed)
        x, y = x.to(device_of(target)), y.to(device_of(target))
        x_adv = make_attack(spec, seen(target, spec.view), threat, y_target, rng, generator)(x, y)
        before, after = (predict(target, images).argmax(1).to(y) == y for images in (x, x_adv))
        return x_adv, before & ~after

    specs = specs if generator is None else [*specs, parse_attack("advgan")]
    return {spec.label: partial(answer, spec) for spec in specs}


def make(
    settings: Settings, data: Data, target: nn.Module, attacks: dict[str, Answer], accelerator: Accelerator
) -> tuple[Detector, list[float]]:
    """The detector, without a threshold, and the losses of its training."""
    shape = data.image_shape
    if settings.kind == "binary":
        detector = BinaryDetector(shape).to(accelerator.device)
        return detector, fit(detector, settings, data.train, target, attacks, accelerator)
    if settings.kind == "feature-squeezing":
        return FeatureSqueezing(shape).to(accelerator.device), []
    assert settings.discriminator is not None, "check() has looked"
    network = Discriminator.load(settings.discriminator)
    if network.config["channels"] != shape[0]:
        made = network.config["channels"]
        raise InputError(f"the discriminator was made for images of {made} channels, expected {shape[0]}")
    found = DiscriminatorDetector(shape, network.config["architecture"], network.config["width"])
    found.network = network
    return found.to(accelerator.device).eval(), []


def fit(
    detector: Detector,
    settings: Settings,
    train: Split,
    target: nn.Module,
    attacks: dict[str, Answer],
    accelerator: Accelerator,
) -> list[float]:
    """Train on pairs of a clean image and one that fools the target, each attack on its share of the images.

    Returns the loss of every tenth step.
    """
    x, y = next(train.first(settings.max_samples).batches(settings.max_samples))
    x_adv, fooled = x.clone(), torch.zeros_like(y, dtype=torch.bool)
    for i, answer in enumerate(attacks.values()):
        mine = slice(i, None, len(attacks))
        x_adv[mine], fooled[mine] = (part.cpu() for part in answer(x[mine], y[mine]))
    if not fooled.any():
        raise InputError(f"expected attacks that fool the target, got none that fools it on any of {len(x)} images")
    x, x_adv = x[fooled].to(accelerator.device), x_adv[fooled].to(accelerator.device)
    optimizer, losses = Adam(detector.parameters(), settings.learning_rate), list[float]()
    made = torch.arange(2.0, device=x.device).repeat_interleave(settings.batch_size)  # 0: clean, 1: adversarial
    detector.train()
    with training.open_log(accelerator, settings.output_dir, "detector", 0, training.plain(settings)) as log:
        for step in range(settings.steps):
            drawn = np.random.default_rng((settings.seed, step)).integers(len(x), size=settings.batch_size)
            loss = F.binary_cross_entropy_with_logits(detector(torch.cat([x[drawn], x_adv[drawn]]), target), made)
            training.check_finite({"the loss": loss.item()}, step + 1, "nothing was kept yet")
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * training.one_cycle(step / settings.steps, 0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if log and step % 10 == 0:
                losses.append(loss.item())
                log.add_scalar("train/loss", loss.item(), step)
    detector.eval().requires_grad_(False)
    return losses


def on_test_images(
    detector: Detector, target: nn.Module, split: Split, attacks: dict[str, Answer], max_samples: int
) -> dict[str, Any]:
    """Seen once: the share of clean images that is rejected, and how well each attack's are told from them."""
    clean, rows = split_scores(detector, target, split), list[dict[str, Any]]()
    x, y = next(split.first(max_samples).batches(max_samples))
    for name, answer in attacks.items():
        x_adv, fooled = answer(x, y)
        row: dict[str, Any] = {"attack": name, "n": len(x), "n_fooled": int(fooled.sum()), "words": "fools on no image"}
        if row["n_fooled"]:
            found = scores(detector, target, x_adv[fooled])
            row |= dict(zip(("auc", "auc_low", "auc_high"), auc(clean, found), strict=True))
            row["tpr"] = rejected(detector, found)
            words = "AUC {auc:.4f} [{auc_low:.4f}, {auc_high:.4f}], {tpr:.1%} of {n_fooled} fooling images rejected"
            row["words"] = words.format(**row)
        rows.append(row)
    return {"n_test": len(clean), "fpr_test": rejected(detector, clean), "attacks": rows}


def split_scores(detector: Detector, target: nn.Module, split: Split) -> Tensor:
    """Of all clean images of a split: (n,)."""
    return torch.cat([scores(detector, target, x) for x, _ in split.batches(500)])


def rejected(detector: Detector, found: Tensor) -> float:
    """The share of the scores above the threshold."""
    return (found > detector.threshold.cpu()).double().mean().item()
