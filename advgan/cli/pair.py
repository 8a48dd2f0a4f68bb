"""A generator and the classifier beside it."""

from pathlib import Path

from advgan.app.attack import Pair
from advgan.app.pairs import classifier_beside
from advgan.cli.attack_images.loading import chosen_classifier, load_target_model, model_input_of
from advgan.cli.attack_images.settings import PairSettings
from advgan.core.errors import InputError
from advgan.data.model_input import ModelInput
from advgan.defenses import ClassifierSpec
from advgan.evaluation.loading import LoadedGenerator, TargetModel
from advgan.models.generator import Generator


def load_pair(source: str, settings: PairSettings) -> Pair:
    """The generator in `source` (a folder, a run, hf://USER/MODEL) and its classifier. Raises InputError for a
    generator without one, and for two that do not fit."""
    spec = classifier_of(source, settings)
    generator = Generator.from_pretrained(source, guide=settings.guide, allowed_guides=[spec.name])
    classifier = load_target_model(spec, settings, generator)
    model_input = model_input_of(settings, classifier, generator.guide) or ModelInput(*classifier.image_shape[1:])
    name = Path(source).resolve().name if not source.startswith("hf://") else source
    return Pair(name, classifier.eval(), generator.eval(), model_input, transfer_note(source, generator, classifier))


def classifier_of(source: str, settings: PairSettings) -> ClassifierSpec:
    """The classifier of the settings, else that which belongs to the generator. Raises InputError for neither."""
    if (spec := chosen_classifier(settings)) is not None:
        return spec
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
