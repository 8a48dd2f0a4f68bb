"""Adversarial images in one forward pass: generators trained with GANs, measured against the classic attacks."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pkgutil import iter_modules
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
    """The names that need PyTorch, and the packages, `advgan.attacks`, when they are used: `advgan --help` does not
    wait for them (PEP 562)."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name.startswith("_") or find_spec(f"{__name__}.{name}") is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(f"{__name__}.{name}")


def __dir__() -> list[str]:
    """For completion: also what is not imported yet."""
    return sorted({*globals(), *__all__, *(module.name for module in iter_modules(__path__))})
