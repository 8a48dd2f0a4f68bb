"""Location of the shipped checkpoints and recipes: inside an installed package, at the top of a clone."""

import os
from pathlib import Path

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
