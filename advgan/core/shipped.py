"""Location of the shipped checkpoints and recipes: inside an installed package, at the top of a clone."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
INSTALLED = PACKAGE / "shipped"  # filled by setup.py


def shipped(name: str) -> Path:
    """The folder or file of a name like "checkpoints/mnist5k-classifier"."""
    inside = INSTALLED / name
    return inside if inside.exists() else PACKAGE.parent / name


CLASSIFIER = shipped("checkpoints/mnist5k-classifier")  # the default classifier under attack
