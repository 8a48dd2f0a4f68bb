"""The architecture of a generator where the settings leave it open: a short trial of the default one, beside FGSM.

Against a robust classifier, or in a small ball, a perturbation has to follow the gradient closely. A network that reads
no gradient then stays far below FGSM, which shows after a few steps; an unrolled network, which starts at the gradient,
does not.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from accelerate import Accelerator
from torch import nn

from advgan.core.errors import InputError, note
from advgan.core.json_files import read_sealed
from advgan.core.random_state import preserved_random_states
from advgan.data import Stream, steps_per_epoch
from advgan.defenses import unwrap
from advgan.models.generator import Generator
from advgan.training.build import batch_size_of
from advgan.training.datasets import Images
from advgan.training.defaults import size_defaults
from advgan.training.fgsm_comparison import FGSMComparison
from advgan.training.frozen import FunctionModel
from advgan.training.gan import FEATURE_LOSSES
from advgan.training.modules import Modules
from advgan.training.options import GeneratorConfig, TrainingConfig
from advgan.training.run_directory import Place
from advgan.training.runtime.distributed import in_any_process, restored_accelerator

TRIAL_STEPS = 60
MIN_TRAINING_STEPS = 300  # shorter trainings have no trial
MIN_SUCCESS = 0.7  # relative to FGSM's, after the trial: below it an unrolled network is worth its time


def is_architecture_open(config: TrainingConfig, modules: Modules, images: Images, others: Sequence[Any]) -> bool:
    """Whether the settings choose no network, and an unrolled one with the classifier as its guide fits all of them.

    others   further classifiers of the training
    """
    network = replace(config.generator, any_class=False, target_classes=(), eps_min=None)  # these fit each network
    callers_network = isinstance(modules.generator, nn.Module)
    callers_parts = callers_network or modules.guide or modules.loss is not None or modules.init is not None
    fits_loss = config.optimization.curriculum in (None, 1) and config.loss.adversarial not in FEATURE_LOSSES
    can_copy = not isinstance(images.train, Stream) and not isinstance(unwrap(images.model), FunctionModel)
    return network == GeneratorConfig() and not callers_parts and not others and fits_loss and can_copy


def unrolled_is_better(
    trial: Callable[[TrainingConfig], FGSMComparison | None],
    config: TrainingConfig,
    images: Images,
    place: Place,
    accelerator: Accelerator,
) -> bool:
    """Whether the default architecture has less than `MIN_SUCCESS` of FGSM's success after `TRIAL_STEPS` steps; of a
    resumed run, whether it had. False, without a trial, for trainings of less than `MIN_TRAINING_STEPS`.

    trial   runs the training with these settings -> its generator beside FGSM, on validation images
    """
    saved = place.directory / "training.json" if place.directory is not None and place.resume else None
    if saved is not None and saved.exists():
        return bool(read_sealed(saved)["settings"].get("architecture") == "unrolled")
    size = batch_size_of(config, images.train, accelerator.num_processes)
    defaults = size_defaults(images.train.image_shape)
    if config.optimization.total_steps(lambda: steps_per_epoch(images.train, size), defaults) < MIN_TRAINING_STEPS:
        return False
    with preserved_random_states(), restored_accelerator(accelerator):
        comparison = trial(config.replace({"max_steps": TRIAL_STEPS, "compile": False}))
    weak = comparison is not None and comparison.generator < MIN_SUCCESS * comparison.fgsm and _can_be_guide(images)
    weak = in_any_process(accelerator, weak)
    if weak and accelerator.is_main_process:
        note(
            f"after {TRIAL_STEPS} steps: {comparison}. A network that reads no gradient is weak against this "
            "classifier: the generator is unrolled, with the classifier as guide; to keep the other one: "
            f"architecture={defaults.architecture!r}"
        )
    return weak


def _can_be_guide(images: Images) -> bool:
    shape = images.train.image_shape
    try:
        Generator(channels=shape[0], architecture="unrolled", depth=1, guide=unwrap(images.model), image_shape=shape)
    except InputError:
        return False
    return True
