"""Adversarial images in one forward pass: generators trained with GANs, measured against the classic attacks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advgan.core.errors import InputError
from advgan.core.lazy import lazy
from advgan.core.moved import install as _install_moved
from advgan.core.version import __version__

if TYPE_CHECKING:
    from advgan.classifiers.diagnosis import check_model
    from advgan.core.threat_model import Threat
    from advgan.defenses.checkpoint import load_classifier
    from advgan.experiments.comparison.compare import compare
    from advgan.experiments.frontier.frontier import frontier
    from advgan.models.generator import Generator
    from advgan.training.generator import fit

__all__ = [
    "Generator",
    "InputError",
    "Threat",
    "__version__",
    "check_model",
    "compare",
    "fit",
    "frontier",
    "load_classifier",
]
_HOMES = {
    "Generator": "advgan.models.generator",
    "Threat": "advgan.core.threat_model",
    "check_model": "advgan.classifiers.diagnosis",
    "compare": "advgan.experiments.comparison.compare",
    "fit": "advgan.training.generator",
    "frontier": "advgan.experiments.frontier.frontier",
    "load_classifier": "advgan.defenses.checkpoint",
}

_install_moved()

# What needs PyTorch is imported at its first use: `advgan --help` does not wait for it.
__getattr__, __dir__ = lazy(__name__, _HOMES)
