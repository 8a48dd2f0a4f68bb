"""Training of a detector of adversarial images for a classifier, calibrated on clean images.

python train/detector.py                                           feature squeezing for mnist-c on the embedded digits
python train/detector.py --kind binary --attacks fgsm pgd:steps=10 --generator RUN --output-dir DIR
python train/detector.py --kind discriminator --discriminator RUN  that of a run of train/advgan.py

Its threshold rejects a fraction --fpr of the clean validation images; the test images are used once, to measure it.
Then --defense reject:detector=DIR is the classifier that rejects, in every program. Training takes seconds: there is no
--resume.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.optim import Adam
from torch.utils.tensorboard import SummaryWriter

import advgan.bridges  # noqa: F401 - registers the names of other libraries' attacks
import advgan.training as training
from advgan.attacks.registry import AttackFn, make_attack, parse_attack
from advgan.classifiers import BlackBox, fingerprint, save_target
from advgan.classifiers.adapters import classes_of
from advgan.core.config import Real, check_signs, write_settings
from advgan.core.errors import InputError
from advgan.core.field_docs import documented
from advgan.core.inputs import check_columns, check_types
from advgan.core.rejection import can_reject
from advgan.core.threat_model import Norm, Threat
from advgan.core.weights import device_of
from advgan.data import Split, Stream
from advgan.data.flags import DataSettings, load_chosen
from advgan.data.sources import as_split, by_name, note_shared
from advgan.data.split import attack_batch_size
from advgan.defenses import attack_view, load_classifier, parse_classifier, unwrap
from advgan.defenses.detection import (
    BinaryDetector,
    Detector,
    DiscriminatorDetector,
    FeatureSqueezing,
    scores,
    threshold_at,
)
from advgan.defenses.flags import ClassifierSettings
from advgan.evaluation import predict
from advgan.evaluation.compatibility import predicted_labels, prepare_model_and_data, require_gradients
from advgan.evaluation.statistics import auc
from advgan.models.discriminator import Discriminator
from advgan.models.generator import Generator, check_no_generator
from advgan.training.card import detector_card
from advgan.training.frozen import frozen, process_settings
from advgan.training.supervised import replaced

NamedAttack = tuple[str, AttackFn]
LOG_EVERY = 10  # steps between logged losses


@documented
@dataclass(frozen=True)
class DetectorConfig:
    """Kind, training and calibration of a detector."""

    kind: Literal["feature-squeezing", "binary", "discriminator"] = "feature-squeezing"
    """feature-squeezing (without training), binary (a network, trained on adversarial images), or discriminator (that
    of a generator's run)"""
    eps: Real = 0.3
    """Radius of the attacks' ball"""
    norm: Norm = "linf"
    """Norm of the ball"""
    fpr: Real = 0.05
    """Largest fraction of the clean validation images above the threshold"""
    max_samples: int = 2000
    """Maximum number of attacked training images, and of attacked test images"""
    steps: int = 600
    """Training steps (kind binary)"""
    batch_size: int = 64
    """Batch size, in pairs of a clean and an adversarial image (kind binary)"""
    learning_rate: Real = 3e-3
    """Peak of the one-cycle schedule (Adam; kind binary)"""
    seed: int = 0
    """Seed of weights, batches and random attacks"""

    def check(self, *, attacks: int, discriminator: object) -> None:
        """Raise InputError for settings that cannot work, or that have no effect, with so many attacks."""
        Threat(self.norm, self.eps)
        threshold_at(torch.zeros(1), self.fpr)
        check_signs(self, positive=("max_samples", "steps", "batch_size", "learning_rate"))
        for name in ("steps", "batch_size", "learning_rate"):
            if self.kind != "binary" and getattr(self, name) != getattr(DetectorConfig, name):
                raise InputError(f"{name} does nothing with kind {self.kind}, got {getattr(self, name)}")
        if (self.kind == "discriminator") != (discriminator is not None):
            expected = "a discriminator" if self.kind == "discriminator" else "no discriminator"
            raise InputError(f"kind {self.kind}: expected {expected}, got {discriminator or 'none'}")
        if self.kind == "binary" and not attacks:
            raise InputError("kind binary is trained on adversarial images: expected attacks or a generator, got none")
        least = max(attacks, 2) if self.kind == "binary" else 2  # an AUC has an interval of two images on
        if self.max_samples < least:
            raise InputError(f"max_samples must be at least {least}, an image for each attack, got {self.max_samples}")


def train_detector(
    model: nn.Module | Callable[[Tensor], Tensor],
    train: Any,
    validation: Any,
    attacks: str | AttackFn | Generator | Iterable[str | AttackFn | Generator] = (),
    *,
    discriminator: Discriminator | None = None,
    progress: bool = True,
    **settings: Any,
) -> Detector:
    """A detector of adversarial images for `model`, with a threshold that rejects a fraction `fpr` of clean images.

        detector = train_detector(model, (x, y), x_validation, ["fgsm"], kind="binary", eps=0.3)
        rejected = detector(x_test, model) > detector.threshold

    Feature squeezing: Xu et al. 2018, arXiv:1704.01155. A binary detector: Gong et al. 2017, arXiv:1704.04960.

    Args:
        model: images (n, c, h, w) float32 in [0, 1] -> logits (n, k); it is used in eval mode, and left as it was.
        train: images and labels as for `advgan.fit`, of a binary detector; without labels the predictions on the clean
            images are the labels. None for other kinds.
        validation: clean images that the threshold is calibrated on; labels are not used.
        attacks: a binary detector is trained on their adversarial images, each attack on its part of the training
            images: one or several names like "pgd:steps=10", functions (x, y) -> x_adv, or Generators.
        discriminator: of kind discriminator: one that was trained with a generator.
        progress: a progress bar of the steps of a binary detector.
        settings: those of `DetectorConfig`, like kind="binary", eps=8/255, fpr=0.01.

    Returns:
        The detector, images (n, c, h, w) and model -> scores (n,), in eval mode and frozen, on the model's device.

    Raises:
        InputError: before any training, for what cannot work; where no attack succeeds; for adversarial images of a
            function outside of the ball.
        NotFiniteError: the loss became NaN or infinite.
    """
    config = replaced(DetectorConfig(), settings)
    check_types(config)
    attacks = [attacks] if isinstance(attacks, (str, Generator)) or callable(attacks) else list(attacks)
    config.check(attacks=len(attacks), discriminator=discriminator and type(discriminator).__name__)
    device = device_of(model) if isinstance(model, nn.Module) else torch.device("cpu")
    with process_settings(None), frozen(model, device) as classifier:
        check_no_rejection(classifier)
        set_seed(config.seed)
        clean = by_name(as_split(validation, "validation"), classes_of(unwrap(classifier))).split
        if isinstance(clean, Stream):
            raise InputError("validation must be images with a length, got a stream")
        if not isinstance(unwrap(classifier), BlackBox):  # whose queries have a price
            check_columns(predict(classifier, next(clean.first(2).batches(2))[0]))
        detector = untrained_detector(config, clean.image_shape, discriminator).to(device)
        named = named_attacks(attacks, classifier, config)
        if config.kind == "binary":
            note_shared(as_split(train, "train").split, clean)
            images = first_images(train, classifier, config)
            train_binary_detector(detector, classifier, images, named, config, progress=progress)
        calibrate(detector, classifier, clean, config.fpr)
    return detector.requires_grad_(False)


def check_no_rejection(model: nn.Module, name: Any = None) -> None:
    """Raise InputError for a classifier that can reject already."""
    if can_reject(model):
        raise InputError(
            f"the target rejects already, expected one without a detector, got {name or type(model).__name__}"
        )


def first_images(train: Any, model: nn.Module, config: DetectorConfig) -> tuple[Tensor, Tensor]:
    """The first `max_samples` images (n, c, h, w) of `train` and their labels (n,), or the predictions on them."""
    images = by_name(as_split(train, "train"), classes_of(unwrap(model))).split.first(config.max_samples)
    return next(predicted_labels(images, model, progress=False).batches(config.max_samples))


def untrained_detector(
    config: DetectorConfig, image_shape: tuple[int, int, int], discriminator: Discriminator | None
) -> Detector:
    """A detector without a threshold, in eval mode; a binary one has random weights (torch's seed)."""
    if config.kind == "binary":
        return BinaryDetector(image_shape)
    if config.kind == "feature-squeezing":
        return FeatureSqueezing(image_shape)
    assert discriminator is not None, "checked before"
    if (channels := discriminator.config["channels"]) != image_shape[0]:
        raise InputError(f"the discriminator was made for images of {channels} channels, expected {image_shape[0]}")
    detector = DiscriminatorDetector(image_shape, discriminator.config["architecture"], discriminator.config["width"])
    detector.network.load_state_dict(discriminator.state_dict())
    return detector.eval()


def named_attacks(
    attacks: Iterable[str | AttackFn | Generator], model: nn.Module, config: DetectorConfig
) -> list[NamedAttack]:
    """The name of each attack, and a function (x, y) -> x_adv. Raises InputError for one that cannot attack `model`."""
    return [
        checked_function(attack, Threat(config.norm, config.eps))
        if callable(attack) and not isinstance(attack, Generator)
        else known_attack(attack, model, config)
        for attack in attacks
    ]


def checked_function(attack: AttackFn, threat: Threat) -> NamedAttack:
    """A caller's function, whose adversarial images are verified."""
    name = getattr(attack, "__name__", type(attack).__name__)
    check_no_generator(f"attack {name}", attack)

    def run(x: Tensor, y: Tensor) -> Tensor:
        x_adv = in_batches(attack, x, y)
        if problems := threat.violations(x_adv, x):
            raise InputError(f"attack {name} returns images that are no adversarial examples: {'; '.join(problems)}")
        return x_adv

    return name, run


def known_attack(attack: str | Generator, model: nn.Module, config: DetectorConfig) -> NamedAttack:
    """An attack by name, or that of a generator; random ones draw the same in each call."""
    generator = attack if isinstance(attack, Generator) else None
    y_target = None if generator is None else generator.y_target
    if generator is not None and (
        reason := generator.incompatibility(eps=config.eps, norm=config.norm, y_target=y_target)
    ):
        raise InputError(reason)
    spec = parse_attack("advgan" if isinstance(attack, Generator) else attack)
    threat = Threat(config.norm, config.eps, targeted=y_target is not None)

    def run(x: Tensor, y: Tensor) -> Tensor:
        rng = torch.Generator().manual_seed(config.seed)
        return in_batches(make_attack(spec, attack_view(model, spec.view), threat, y_target, rng, generator), x, y)

    return spec.label, run


def in_batches(attack: AttackFn, x: Tensor, y: Tensor) -> Tensor:
    """x_adv (n, c, h, w) of images `x` and labels `y`, n >= 1, which the attack gets in batches."""
    size = attack_batch_size(None, x.shape[1:])
    return torch.cat([attack(*part) for part in zip(x.split(size), y.split(size), strict=True)])


def adversarial_images(attack: AttackFn, model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """x_adv (n, c, h, w), and which of them (n,) are misclassified while the clean images `x` are not."""
    x, y = x.to(device_of(model)), y.to(device_of(model))
    x_adv = attack(x, y)
    correct, correct_adv = (predict(model, images).argmax(1).to(y) == y for images in (x, x_adv))
    return x_adv, correct & ~correct_adv


def train_binary_detector(
    detector: Detector,
    model: nn.Module,
    images: tuple[Tensor, Tensor],
    attacks: list[NamedAttack],
    config: DetectorConfig,
    log: SummaryWriter | None = None,
    *,
    progress: bool = True,
) -> list[float]:
    """Train on pairs of a clean image and a successful adversarial one, each attack on its part of `images`; the loss
    of every tenth step, which `log` gets during the training.

    Raises InputError where no attack succeeds, NotFiniteError for a loss that is not finite.
    """
    x, y = images
    if len(x) < len(attacks):
        raise InputError(f"expected a training image for each of {len(attacks)} attacks, got {len(x)}")
    x_adv, success = x.clone(), torch.zeros_like(y, dtype=torch.bool)
    for i, (_, attack) in enumerate(attacks):
        part = slice(i, None, len(attacks))
        x_adv[part], success[part] = (values.cpu() for values in adversarial_images(attack, model, x[part], y[part]))
    if not success.any():
        raise InputError(f"expected attacks that fool the target, got none that fools it on any of {len(x)} images")
    device = device_of(detector)
    x, x_adv = x[success].to(device), x_adv[success].to(device)
    optimizer = Adam(detector.parameters(), config.learning_rate)
    labels = torch.arange(2.0, device=device).repeat_interleave(config.batch_size)  # 0: clean, 1: adversarial
    detector.train()
    values: list[float] = []
    with training.progress_bar(disable=not progress) as bar:
        task = bar.add_task("detector", total=config.steps, metrics="")
        for step in range(config.steps):
            batch = np.random.default_rng((config.seed, step)).integers(len(x), size=config.batch_size)
            loss = F.binary_cross_entropy_with_logits(detector(torch.cat([x[batch], x_adv[batch]]), model), labels)
            training.check_finite({"the loss": loss.item()}, step + 1, "nothing was kept yet")
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * training.one_cycle(step / config.steps, 0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % LOG_EVERY == 0:
                values.append(loss.item())
                if log is not None:
                    log.add_scalar("train/loss", values[-1], step)
            bar.update(task, completed=step + 1, metrics=f"loss {values[-1]:.3f}")
    detector.eval().requires_grad_(False)
    return values


def calibrate(detector: Detector, model: nn.Module, validation: Split, fpr: float) -> Tensor:
    """Set the threshold above which a fraction `fpr` of clean images lies at most; their scores (n,)."""
    clean = split_scores(detector, model, validation)
    detector.threshold.fill_(threshold_at(clean, fpr))
    return clean


def split_scores(detector: Detector, model: nn.Module, split: Split) -> Tensor:
    """The scores (n,) of all clean images of a split."""
    return torch.cat([scores(detector, model, x) for x, _ in split.batches(500)])


def rejection_rate(detector: Detector, image_scores: Tensor) -> float:
    """The fraction of the scores above the threshold."""
    return (image_scores > detector.threshold.cpu()).double().mean().item()


def evaluate_detector(
    detector: Detector, model: nn.Module, split: Split, attacks: list[NamedAttack], max_samples: int
) -> dict[str, Any]:
    """The fraction of the clean images of `split` that is rejected, and how well the successful adversarial images of
    each attack are detected among them: area under the ROC curve with its interval, and true positive rate."""
    clean, rows = split_scores(detector, model, split), list[dict[str, Any]]()
    x, y = next(split.first(max_samples).batches(max_samples))
    for name, attack in attacks:
        x_adv, success = adversarial_images(attack, model, x, y)
        row: dict[str, Any] = {"attack": name, "n": len(x), "n_fooled": int(success.sum())}
        row["words"] = "fools on no image"
        if row["n_fooled"]:
            adversarial = scores(detector, model, x_adv[success])
            row |= dict(zip(("auc", "auc_low", "auc_high"), auc(clean, adversarial), strict=True))
            row["tpr"] = rejection_rate(detector, adversarial)
            summary = "AUC {auc:.4f} [{auc_low:.4f}, {auc_high:.4f}], {tpr:.1%} of {n_fooled} fooling images rejected"
            row["words"] = summary.format(**row)
        rows.append(row)
    return {"n_test": len(clean), "fpr_test": rejection_rate(detector, clean), "attacks": rows}


# The program


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
    """CPU threads; None: OMP_NUM_THREADS, else all cores"""


def main(settings: Settings) -> None:
    generator_given = settings.generator is not None
    settings.check(attacks=len(settings.attacks) + generator_given, discriminator=settings.discriminator)
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
            losses = train_binary_detector(detector, target, images, attacks, settings, log)
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
    save_target(detector, settings.output_dir / "detector", detector_card(summary), summary)
    print_summary(summary, settings.output_dir)


def print_summary(summary: dict[str, Any], directory: Path) -> None:
    """The metrics of each attack, and where the detector is."""
    for row in summary["attacks"]:
        print(f"{row['attack']}: {row['words']}")
    print(f"clean images rejected: {summary['fpr_test']:.2%} on test, {summary['fpr_validation']:.2%} on validation")
    print(f"detector in {directory / 'detector'}: --defense reject:detector={directory}")
