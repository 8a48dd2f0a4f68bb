"""The classifiers under attack: build one by name, load it with its weights, save it, check that it can be attacked.

A family is a file (`mnist.py`, `cifar.py`); a family joins by adding its names to `TARGETS`. Other people's
classifiers, and names like "timm:resnet18" for them, are in `others/`. Of a `BlackBox`, which
is anybody's, nothing is known but its answers.
"""

from __future__ import annotations

from advgan.classifiers.base import ImageShape, Target
from advgan.classifiers.black_box import Answers, BlackBox, OutOfQueries
from advgan.classifiers.checkpoint import fingerprint, initial_target, load_target, save_target
from advgan.classifiers.checks import check_normalised, check_target
from advgan.classifiers.registry import TARGETS, build_target

__all__ = [
    "TARGETS",
    "Answers",
    "BlackBox",
    "ImageShape",
    "OutOfQueries",
    "Target",
    "build_target",
    "check_normalised",
    "check_target",
    "fingerprint",
    "initial_target",
    "load_target",
    "save_target",
]
