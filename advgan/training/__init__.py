"""Training: generators (`fit`), classifiers (also adversarially), distillation, detectors, substitutes of black boxes;
and the runtime of each loop: processes, output directory, training state.
"""

from advgan.core.errors import NotFiniteError
from advgan.core.lazy import lazy
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

# The trainings and their settings, which import this package, are imported at their first use.
_HOMES = {
    "AdversarialConfig": "advgan.training.adversarial",
    "ClassifierConfig": "advgan.training.supervised",
    "DetectorConfig": "advgan.training.detector",
    "GeneratorConfig": "advgan.training.options",
    "LossConfig": "advgan.training.gan",
    "LossInputs": "advgan.training.gan",
    "OptimizationConfig": "advgan.training.options",
    "RunConfig": "advgan.training.options",
    "SubstituteConfig": "advgan.training.substitute_training",
    "adversarial_config": "advgan.training.adversarial",
    "distill": "advgan.training.distillation",
    "fit": "advgan.training.generator",
    "train_classifier": "advgan.training.classifier",
    "train_detector": "advgan.training.detector",
    "train_substitute": "advgan.training.substitute",
}

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
__all__ += list(_HOMES)

__getattr__, __dir__ = lazy(__name__, _HOMES)
