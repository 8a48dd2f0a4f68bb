"""Training: generators (`fit`), classifiers (also adversarially), distillation, detectors, substitutes of black boxes;
and what stands around each loop: processes, a directory of its own, a state to resume.
"""

from importlib import import_module
from typing import Any

from advgan.training.query_cache import QueryCache
from advgan.training.runtime.checkpoint import (
    FREE,
    Record,
    State,
    changes,
    clear,
    latest_state,
    lengthenings,
    plain,
    saving,
    unfinished,
)
from advgan.training.runtime.distributed import finish, start, start_alone
from advgan.training.runtime.loop import Stop, check_finite, one_cycle, open_log, progress_bar
from advgan.training.runtime.memory import compile_models, enable_activation_checkpointing
from advgan.training.runtime.output_dir import claim

__all__ = [
    "FREE",
    "QueryCache",
    "Record",
    "State",
    "Stop",
    "changes",
    "check_finite",
    "claim",
    "clear",
    "compile_models",
    "enable_activation_checkpointing",
    "finish",
    "latest_state",
    "lengthenings",
    "one_cycle",
    "open_log",
    "plain",
    "progress_bar",
    "saving",
    "start",
    "start_alone",
    "unfinished",
]  # fmt: skip

_FUNCTIONS = {
    "ClassifierConfig": "supervised",
    "adversarial_config": "adversarial",
    "distill": "distillation",
    "fit": "generator",
    "train_classifier": "classifier",
    "train_detector": "detector",
}


def __getattr__(name: str) -> Any:
    """The trainings, which import this package, when they are used (PEP 562)."""
    if name not in _FUNCTIONS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"advgan.training.{_FUNCTIONS[name]}"), name)
