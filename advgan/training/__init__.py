"""Training: generators (`fit`), classifiers (also adversarially), distillation, detectors, substitutes of black boxes;
and the runtime of each loop: processes, output directory, training state.
"""

from importlib import import_module
from typing import Any

from advgan.core.errors import NotFiniteError
from advgan.training.run_directory import prepare_output_dir
from advgan.training.runtime.checkpoint import (
    IGNORED_ON_RESUME,
    TrainState,
    extension_note,
    latest_state,
    settings_diff,
    to_jsonable,
    unfinished,
)
from advgan.training.runtime.distributed import init_accelerator, shutdown
from advgan.training.runtime.loop import GracefulShutdown, Interrupted, check_finite, one_cycle, open_log, progress_bar

__all__ = [
    "IGNORED_ON_RESUME",
    "GracefulShutdown",
    "Interrupted",
    "NotFiniteError",
    "TrainState",
    "check_finite",
    "extension_note",
    "init_accelerator",
    "latest_state",
    "one_cycle",
    "open_log",
    "prepare_output_dir",
    "progress_bar",
    "settings_diff",
    "shutdown",
    "to_jsonable",
    "unfinished",
]  # fmt: skip

_HOMES = {
    "AdversarialConfig": "adversarial",
    "ClassifierConfig": "supervised",
    "DetectorConfig": "detector",
    "GeneratorConfig": "options",
    "LossConfig": "gan",
    "LossInputs": "gan",
    "OptimizationConfig": "options",
    "RunConfig": "options",
    "SubstituteConfig": "substitute_training",
    "adversarial_config": "adversarial",
    "distill": "distillation",
    "fit": "generator",
    "train_classifier": "classifier",
    "train_detector": "detector",
    "train_substitute": "substitute",
}


def __getattr__(name: str) -> Any:
    """The trainings and their settings, which import this package, when they are used (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"advgan.training.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
