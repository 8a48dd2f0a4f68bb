"""Adversarial images in one forward pass: generators trained with GANs, measured against the classic attacks."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from advgan.core.errors import InputError
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


def __getattr__(name: str) -> Any:
    """The names that need PyTorch, when they are asked for: `advgan --help` does not wait for it (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
