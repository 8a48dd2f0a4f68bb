"""The architecture of a generator where the settings leave it open: a short trial of the default one, beside FGSM.

Against a robust classifier, or in a small ball, a perturbation has to follow the gradient closely. A network that reads
no gradient then stays far below FGSM, which shows after a few steps; an unrolled network, which starts at the gradient,
does not.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from advgan.attacks.common import find_adversarial
from advgan.attacks.fgsm import fgsm
from advgan.classifiers.adapters import FunctionModel
from advgan.core.errors import InputError, note
from advgan.core.json_files import read_sealed
from advgan.core.random_state import preserved_random_states
from advgan.data import Stream, steps_per_epoch
from advgan.data.split import Split
from advgan.defenses import unwrap
from advgan.models.generator import Generator
from advgan.training.build import Modules, batch_size_of
from advgan.training.datasets import Images
from advgan.training.defaults import size_defaults
from advgan.training.gan import FEATURE_LOSSES
from advgan.training.options import GeneratorConfig, TrainingConfig
from advgan.training.run_directory import Place
from advgan.training.runtime.distributed import in_any_process, restored_accelerator

TRIAL_STEPS = 60
MIN_TRAINING_STEPS = 300  # shorter trainings have no trial
MIN_SUCCESS = 0.7  # relative to FGSM's, after the trial: below it an unrolled network is worth its time
IMAGES = 200  # of a comparison, at most: as long as a few steps of the training


@dataclass(frozen=True)
class FGSMComparison:
    """Successes of both attacks on the same `n` images, which the classifier classifies correctly."""

    n: int
    generator: int
    fgsm: int

    def __str__(self) -> str:
        rates = f"generator {self.generator / self.n:.1%}, FGSM {self.fgsm / self.n:.1%}"
        return f"{rates} of {self.n} validation images"


def compare_with_fgsm(generator: Generator, model: Any, split: Split, device: torch.device) -> FGSMComparison | None:
    """Both at the generator's largest eps, toward its target class if it has one; None where no image is eligible.

    Labels that are an input are given.
    """
    x, y = next(split.first(IMAGES).batches(IMAGES))
    x, y, y_target = x.to(device), y.to(device), generator.y_target
    correct = find_adversarial(model, x, y, y)  # "toward its own class": classified correctly, and not rejected
    eligible = correct & (y != (-1 if y_target is None else y_target))
    x, y = x[eligible], y[eligible]
    if not len(x):
        return None
    targets = None if y_target is None else torch.full_like(y, y_target)
    threat, labels = generator.threat, y if generator.labels else None
    rng = torch.Generator().manual_seed(0)
    x_adv = generator.perturb(x, labels, y_target=y_target, rng=rng)
    gradient = fgsm(model, x, y, eps=threat.eps, norm=threat.norm, y_target=targets)
    successes = (int(find_adversarial(model, images, y, targets).sum()) for images in (x_adv, gradient))
    return FGSMComparison(len(x), *successes)


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
