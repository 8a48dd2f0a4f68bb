"""Training: generators (`fit`), classifiers (also adversarially), distillation, detectors, substitutes of black boxes;
and the runtime of each loop: processes, output directory, training state.
"""

from importlib import import_module
from typing import Any

from advgan.training.query_cache import QueryCache
from advgan.training.run_directory import prepare_output_dir
from advgan.training.runtime.checkpoint import (
    IGNORED_ON_RESUME,
    Checkpointer,
    TrainState,
    clear,
    extension_note,
    latest_state,
    saving,
    settings_diff,
    to_jsonable,
    unfinished,
)
from advgan.training.runtime.distributed import init_accelerator, shutdown
from advgan.training.runtime.loop import GracefulShutdown, check_finite, one_cycle, open_log, progress_bar
from advgan.training.runtime.memory import compile_models, enable_activation_checkpointing

__all__ = [
    "IGNORED_ON_RESUME",
    "Checkpointer",
    "GracefulShutdown",
    "QueryCache",
    "TrainState",
    "check_finite",
    "clear",
    "compile_models",
    "enable_activation_checkpointing",
    "extension_note",
    "init_accelerator",
    "latest_state",
    "one_cycle",
    "open_log",
    "prepare_output_dir",
    "progress_bar",
    "saving",
    "settings_diff",
    "shutdown",
    "to_jsonable",
    "unfinished",
]  # fmt: skip

_FUNCTIONS = {
    "ClassifierConfig": "supervised",
    "adversarial_config": "adversarial",
    "distill": "distillation",
    "fit": "generator",
    "train_classifier": "classifier",
    "train_detector": "detector",
    "train_substitute": "substitute",
}


def __getattr__(name: str) -> Any:
    """The trainings, which import this package, when they are used (PEP 562)."""
    if name not in _FUNCTIONS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"advgan.training.{_FUNCTIONS[name]}"), name)
