"""The flags that name a classifier beside a generator, and the two together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from advgan.app.attack import Pair
from advgan.app.pairs import classifier_beside
from advgan.cli.attack_images.loading import imagenet_names, load_target_model, model_input_of
from advgan.core.config import ByOrder
from advgan.core.errors import InputError
from advgan.core.recipe import NameOrPath
from advgan.data.model_input import ModelInput
from advgan.defenses import ClassifierSpec, parse_classifier
from advgan.evaluation.loading import LoadedGenerator, TargetModel
from advgan.models.generator import Generator


@dataclass(frozen=True, kw_only=True)
class PairSettings:
    """The classifier under attack, and the guide of the generator."""

    guide: NameOrPath | None = None
    """Guide of the generator in a Python file, FILE.py:FACTORY, which is run; None: no such guide"""
    target: NameOrPath | None = None
    """Classifier under attack: any --target of advgan compare; None: that of the generator's run, or the shipped one
    of a shipped generator"""
    target_weights: Path | None = None
    """Weights of the target; None: its published or saved ones"""
    weights_by_order: ByOrder = False
    defense: NameOrPath | None = None
    """Defenses around the classifier, e.g. bit-depth:bits=3, several joined by +; None: none"""
    class_names: Literal["imagenet"] | None = None
    """Class names of a target that has none: ImageNet's, for 1,000 logits"""
    image_size: int | None = None
    """Side in pixels of the square input of the classifier; None: that of the target"""
    resize: int | None = None
    """Shorter side in pixels to which pictures are resized before the centre crop; None: the target's, or image-size"""


def load_pair(source: str, settings: PairSettings) -> Pair:
    """The generator in `source` (a folder, a run, hf://USER/MODEL) and its classifier. Raises InputError for a
    generator without one, and for two that do not fit."""
    spec = classifier_of(source, settings)
    generator = Generator.from_pretrained(source, guide=settings.guide, allowed_guides=[spec.name])
    size, guide = settings.image_size, generator.guide
    shape = None if guide is None else tuple(guide.image_shape)
    classifier = load_target_model(spec, shape if size is None else (generator.channels, size, size))
    if settings.class_names is not None:
        classifier.classes = imagenet_names(classifier)  # type: ignore[assignment]
    model_input = model_input_of(size, settings.resize, classifier, guide) or ModelInput(*classifier.image_shape[1:])  # type: ignore[index]
    name = Path(source).resolve().name if not source.startswith("hf://") else source
    return Pair(name, classifier.eval(), generator.eval(), model_input, transfer_note(source, generator, classifier))


def classifier_of(source: str, settings: PairSettings) -> ClassifierSpec:
    """The classifier of the settings, else that which belongs to the generator. Raises InputError for neither."""
    if settings.target is not None:
        return parse_classifier(settings.target, settings.target_weights, settings.defense)
    if settings.target_weights is not None:
        raise InputError(f"target_weights need a target, got {settings.target_weights} alone")
    folder = classifier_beside(source)
    if folder is None:
        raise InputError(f"{source} has no classifier beside it, expected --target, the classifier under attack")
    return ClassifierSpec(str(folder), None, settings.defense)


def transfer_note(source: str, generator: Generator, classifier: object) -> str:
    """A sentence where the generator's training.json names another classifier than this one; "" otherwise."""
    if source.startswith("hf://"):
        return ""
    loaded = LoadedGenerator(Path(source), generator)
    target = TargetModel("classifier", classifier)  # type: ignore[arg-type]
    return "" if loaded.trained_on(target) else "The generator was trained against another classifier: a transfer."
