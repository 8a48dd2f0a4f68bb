"""Defenses of a classifier. A wrapper is a file and a name in `DEFENSES`, and is again a classifier: every attack and
every program takes it as a target, `--defense bit-depth:bits=3`.
"""

from __future__ import annotations

from advgan.defenses.base import EOT, Defended, adaptive, can_reject, is_random, reseed, seen, unwrap
from advgan.defenses.checkpoint import (
    default_weights,
    defend,
    is_directory,
    load_classifier,
    load_members,
    needs_weights,
)
from advgan.defenses.detection import Detector, load_detector
from advgan.defenses.registry import DEFENSES
from advgan.defenses.rejection import RejectingClassifier

__all__ = [
    "DEFENSES",
    "EOT",
    "Defended",
    "Detector",
    "RejectingClassifier",
    "adaptive",
    "can_reject",
    "default_weights",
    "defend",
    "is_directory",
    "is_random",
    "load_classifier",
    "load_detector",
    "load_members",
    "needs_weights",
    "reseed",
    "seen",
    "unwrap",
]
