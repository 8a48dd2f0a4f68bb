"""The architecture of a generator, where the settings leave it open: a short trial of the default one beside FGSM.

Success against a robust classifier, or in a small ball, is in the gradient: a network that reads none stays far below
FGSM there, and after a few steps already. An unrolled network, which starts at the gradient, does not.
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

STEPS = 60  # of the trial
LEAST_STEPS = 300  # of a training that is worth one
SHARE = 0.7  # of FGSM's success after the trial, below which an unrolled network is worth its time


def is_open(config: TrainingConfig, modules: Modules, images: Images, others: Sequence[Any]) -> bool:
    """Whether the settings choose no network, and an unrolled one with the classifier as its guide fits all of them."""
    network = replace(config.generator, any_class=False, target_classes=(), eps_min=None)
    generator = isinstance(modules.generator, nn.Module)
    own_parts = generator or modules.guide or modules.loss is not None or modules.init is not None
    fits = config.optimization.curriculum in (None, 1) and config.loss.adversarial not in FEATURE_LOSSES
    readable = not isinstance(images.train, Stream) and not isinstance(unwrap(images.model), FunctionModel)
    return network == GeneratorConfig() and not own_parts and not others and fits and readable


def unrolled_is_better(
    trial: Callable[[TrainingConfig], FGSMComparison | None],
    config: TrainingConfig,
    images: Images,
    place: Place,
    accelerator: Accelerator,
) -> bool:
    """Whether the default architecture has less than `SHARE` of FGSM's success after `STEPS` steps; of a resumed run,
    whether it was so. Without a trial before short trainings.

    trial   the training with these settings -> its generator beside FGSM, on validation images
    """
    saved = place.directory / "training.json" if place.directory is not None and place.resume else None
    if saved is not None and saved.exists():
        return bool(read_sealed(saved)["settings"].get("architecture") == "unrolled")
    size = batch_size_of(config, images.train, accelerator.num_processes)
    defaults = size_defaults(images.train.image_shape)
    if config.optimization.total_steps(lambda: steps_per_epoch(images.train, size), defaults) < LEAST_STEPS:
        return False
    with preserved_random_states(), restored_accelerator(accelerator):
        comparison = trial(config.replace({"max_steps": STEPS, "compile": False}))
    weak = comparison is not None and comparison.generator < SHARE * comparison.fgsm and _can_be_guide(images)
    weak = in_any_process(accelerator, weak)
    if weak and accelerator.is_main_process:
        note(
            f"after {STEPS} steps: {comparison}. A network that reads no gradient is weak against this classifier: the "
            f"architecture is unrolled, with the classifier as guide (another: architecture={defaults.architecture!r})"
        )
    return weak


def _can_be_guide(images: Images) -> bool:
    shape = images.train.image_shape
    try:
        Generator(channels=shape[0], architecture="unrolled", depth=1, guide=unwrap(images.model), image_shape=shape)
    except InputError:
        return False
    return True
