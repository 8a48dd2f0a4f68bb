"""What hardens a classifier. A wrapper is a file and a name in `DEFENSES`, and is again a classifier: every attack and
every program takes it as a target, `--defense bit-depth:bits=3`.
"""

from __future__ import annotations

from advgan.defenses.base import Defended, Expectation, adaptive, is_random, reseed, seen, suspicious, undefended
from advgan.defenses.checkpoint import is_directory, load_classifier, load_members
from advgan.defenses.registry import DEFENSES, defend

__all__ = [
    "DEFENSES",
    "Defended",
    "Expectation",
    "adaptive",
    "defend",
    "is_directory",
    "is_random",
    "load_classifier",
    "load_members",
    "reseed",
    "seen",
    "suspicious",
    "undefended",
]
