"""The shipped checkpoints and recipes, inside an installed package or at the top of a clone; and the classifier of a
generator."""

import os
from pathlib import Path

from advgan.core.errors import InputError, did_you_mean

PACKAGE = Path(__file__).resolve().parents[1]
INSTALLED = PACKAGE / "shipped"  # filled by setup.py


def shipped(name: str) -> Path:
    """The folder or file of a name like "checkpoints/mnist5k-classifier"."""
    inside = INSTALLED / name
    return inside if inside.exists() else PACKAGE.parent / name


def existing_or_shipped(path: Path) -> Path:
    """`path` if there is such a file or folder; else a shipped checkpoint of that name, if there is one: names like
    "checkpoints/mnist-c-generator" work in any working directory."""
    named = path.parts[:1] == ("checkpoints",) and not {"runs", ".."} & set(path.parts)
    if not named or os.path.exists(path):
        return path
    found = shipped(path.as_posix())
    return found if os.path.exists(found) else path


CLASSIFIERS = {"mnist-c": shipped("checkpoints/mnist5k-classifier")}  # weights of a name without any
# Folder of a generator in checkpoints/ -> that of the classifier that it was trained against.
CLASSIFIER_OF = {
    "mnist-c-generator": "mnist-c-classifier",
    "mnist-c-conditional": "mnist-c-classifier",
    "mnist5k-generator": "mnist5k-classifier",
}


def check_shipped(name: str) -> None:
    """Raise InputError, with similar names, for one of no shipped generator."""
    if name not in CLASSIFIER_OF:
        suggestion = did_you_mean(name, CLASSIFIER_OF) or f", expected one of {', '.join(CLASSIFIER_OF)}"
        raise InputError(f"unknown checkpoint {name!r:.80}{suggestion}")


def classifier_beside(generator: str) -> Path | None:
    """The folder of the classifier that belongs to the generator in a folder: classifier/ of its run, or the shipped
    one of a shipped generator; None where there is neither."""
    folder = Path(generator)
    runs = [folder.parent] if folder.name == "generator" else []
    for run in (folder, *runs):
        if os.path.isfile(run / "classifier" / "config.json"):
            return run / "classifier"
    for name, classifier in CLASSIFIER_OF.items():
        if folder.resolve() == shipped(f"checkpoints/{name}").resolve():
            return shipped(f"checkpoints/{classifier}")
    return None
