"""Classifiers and the generators that attack them: shipped, and in a run's folder."""

import os
from pathlib import Path

from advgan.app.attack import Pair
from advgan.core.errors import InputError, did_you_mean
from advgan.core.json_files import read_object
from advgan.core.shipped import shipped
from advgan.data.model_input import ModelInput
from advgan.defenses import load_classifier
from advgan.models.generator import Generator

# Folder of a generator in checkpoints/ -> that of the classifier that it was trained against.
SHIPPED = {
    "mnist-c-generator": "mnist-c-classifier",
    "mnist-c-conditional": "mnist-c-classifier",
    "mnist5k-generator": "mnist5k-classifier",
}


def check_shipped(name: str) -> None:
    """Raise InputError, with similar names, for one of no shipped generator."""
    if name not in SHIPPED:
        suggestion = did_you_mean(name, SHIPPED) or f", expected one of {', '.join(SHIPPED)}"
        raise InputError(f"unknown checkpoint {name!r:.80}{suggestion}")


def load_shipped(name: str) -> Pair:
    """A shipped generator and its classifier. Raises InputError for an unknown name."""
    check_shipped(name)
    classifier = load_classifier(str(shipped(f"checkpoints/{SHIPPED[name]}")))
    generator = Generator.from_pretrained(shipped(f"checkpoints/{name}"))
    return Pair(name, classifier, generator, ModelInput(*classifier.image_shape[1:]))


def shipped_label(name: str) -> str:
    """The name of a shipped generator with its architecture and goal; another name as it is."""
    if name not in SHIPPED:
        return name
    config = read_object(shipped(f"checkpoints/{name}") / "config.json")
    return f"{name} ({config['architecture']}, {'any target class' if config['classes'] else 'untargeted'})"


def classifier_beside(generator: str) -> Path | None:
    """The folder of the classifier that belongs to the generator in a folder: classifier/ of its run, or the shipped
    one of a shipped generator; None where there is neither."""
    folder = Path(generator)
    runs = [folder.parent] if folder.name == "generator" else []
    for run in (folder, *runs):
        if os.path.isfile(run / "classifier" / "config.json"):
            return run / "classifier"
    for name, classifier in SHIPPED.items():
        if folder.resolve() == shipped(f"checkpoints/{name}").resolve():
            return shipped(f"checkpoints/{classifier}")
    return None
