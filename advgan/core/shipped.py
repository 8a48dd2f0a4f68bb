"""Where the checkpoints that come with advgan are: in an installed package inside it, in a clone at its top."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def shipped(name: str) -> Path:
    """The folder or file of a name like "checkpoints/mnist5k-classifier"."""
    inside = PACKAGE / "shipped" / name  # setup.py puts it there
    return inside if inside.exists() else PACKAGE.parent / name


CLASSIFIER = shipped("checkpoints/mnist5k-classifier")  # the one under attack where a program gets no weights
