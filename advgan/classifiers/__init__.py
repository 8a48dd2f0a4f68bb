"""The classifiers under attack: build by name, load, save, check.

A family is a file (`mnist.py`, `cifar.py`) with its names in `TARGETS`. External classifiers, with names like
"timm:resnet18", are in `external/`. A `BlackBox` only responds to queries.
"""

from advgan.classifiers.base import Classifier, ImageShape
from advgan.classifiers.black_box import BlackBox, OutputKind, QueryBudgetExceeded
from advgan.classifiers.checkpoint import finetune_target, fingerprint, load_target, save_target
from advgan.classifiers.checks import check_normalised, check_target
from advgan.classifiers.registry import TARGETS, build_target
from advgan.core.lazy import lazy

__all__ = [
    "TARGETS",
    "BlackBox",
    "Classifier",
    "ImageShape",
    "OutputKind",
    "QueryBudgetExceeded",
    "build_target",
    "check_normalised",
    "check_target",
    "finetune_target",
    "fingerprint",
    "load_target",
    "save_target",
]

__getattr__, __dir__ = lazy(__name__, former={"Target": "Classifier"})
