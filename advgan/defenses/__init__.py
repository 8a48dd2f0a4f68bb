"""Defenses of a classifier. A wrapper is a file and a name in `DEFENSES`, and is a classifier too: all attacks and
programs accept it as a target, `--defense bit-depth:bits=3`.
"""

from advgan.core.lazy import lazy
from advgan.core.rejection import can_reject
from advgan.defenses.base import EOT, Defended, adaptive, attack_view, is_random, reseed, unwrap
from advgan.defenses.checkpoint import defend, load_classifier, load_members
from advgan.defenses.classifier_spec import ClassifierSpec, parse_classifier, parse_classifiers
from advgan.defenses.detection import Detector, RejectingClassifier, load_detector
from advgan.defenses.registry import DEFENSES
from advgan.defenses.transforms import Transforms

__all__ = [
    "DEFENSES",
    "EOT",
    "ClassifierSpec",
    "Defended",
    "Detector",
    "RejectingClassifier",
    "Transforms",
    "adaptive",
    "attack_view",
    "can_reject",
    "defend",
    "is_random",
    "load_classifier",
    "load_detector",
    "load_members",
    "parse_classifier",
    "parse_classifiers",
    "reseed",
    "unwrap",
]

__getattr__, __dir__ = lazy(__name__)
