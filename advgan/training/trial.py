"""The architecture of a generator where the settings leave it open: a short trial of the default one, beside FGSM.

The fastest network that reaches FGSM's success is wanted. One of patches, the default for small images, often does.
Where it is a little below FGSM after a few steps it stays there: a U-Net is stronger, and still faster than FGSM where
the classifier is the larger network. Against a robust classifier, or in a small ball, a perturbation has to follow the
gradient closely: what reads no gradient is far below FGSM, and an unrolled network, which starts at it, is not.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from advgan.attacks.common import find_adversarial
from advgan.attacks.fgsm import fgsm
from advgan.classifiers.adapters import FunctionModel
from advgan.core.errors import InputError, note
from advgan.core.random_state import preserved_random_states
from advgan.core.terminal import bar_console
from advgan.data import Stream, steps_per_epoch
from advgan.data.split import Split, attack_batch_size
from advgan.defenses import unwrap
from advgan.models.generator import Generator
from advgan.training.build import Modules, batch_size_of
from advgan.training.datasets import Images
from advgan.training.defaults import size_defaults
from advgan.training.gan import FEATURE_LOSSES, LossConfig
from advgan.training.options import GeneratorConfig, TrainingConfig
from advgan.training.run_directory import Place
from advgan.training.runtime.distributed import in_any_process, restored_accelerator

TRIAL_STEPS = 60
MIN_TRAINING_STEPS = 300  # shorter trainings have no trial
NEAR_FGSM = 0.97  # of FGSM's success, after the trial: below it patches are not enough
MIN_SUCCESS = 0.7  # the same: below it a network that reads no gradient is not enough
UNET: dict[str, Any] = {"architecture": "unet", "patch": 2, "width": 32, "levels": 2}
IMAGES = 200  # of a comparison, at most: as long as a few steps of the training


@dataclass(frozen=True)
class FGSMComparison:
    """Successes of both attacks on the same `n` images, which the classifier classifies correctly; `score`: the name of
    their share."""

    n: int
    generator: int
    fgsm: int
    score: str = "ASR"

    def __str__(self) -> str:
        rates = f"generator {self.generator / self.n:.1%}, FGSM {self.fgsm / self.n:.1%}"
        return f"{rates} ({self.score} on {self.n} of the validation images)"


def compare_with_fgsm(generator: Generator, model: Any, split: Split, device: torch.device) -> FGSMComparison | None:
    """Both at the generator's largest eps, toward its target class if it has one; None where no image is eligible.

    Labels that are an input are given.
    """
    rng, n, successes = torch.Generator().manual_seed(0), 0, [0, 0]
    threat, y_target = generator.threat, generator.y_target
    for images, classes in split.first(IMAGES).batches(attack_batch_size(None, split.image_shape)):
        x, y = images.to(device), classes.to(device)
        correct = find_adversarial(model, x, y, y)  # "toward its own class": classified correctly, and not rejected
        eligible = correct & (y != (-1 if y_target is None else y_target))
        x, y = x[eligible], y[eligible]
        if not len(x):
            continue
        targets = None if y_target is None else torch.full_like(y, y_target)
        x_adv = generator.perturb(x, y if generator.labels else None, y_target=y_target, rng=rng)
        gradient = fgsm(model, x, y, eps=threat.eps, norm=threat.norm, y_target=targets)
        n += len(x)
        for i, attacked in enumerate((x_adv, gradient)):
            successes[i] += int(find_adversarial(model, attacked, y, targets).sum())
    return FGSMComparison(n, generator=successes[0], fgsm=successes[1]) if n else None


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


def chosen_settings(
    trial: Callable[[TrainingConfig], FGSMComparison | None],
    config: TrainingConfig,
    images: Images,
    place: Place,
    accelerator: Accelerator,
    *,
    targeted: bool,
) -> dict[str, Any]:
    """The settings of the network that takes the place of the default one, by its success in a trial of `TRIAL_STEPS`
    steps; of a resumed run those that it has. None, without a trial, for trainings of less than `MIN_TRAINING_STEPS`.

    trial   runs the training with these settings -> its generator beside FGSM, on validation images
    """
    defaults = size_defaults(images.train.image_shape)
    choices: dict[str, dict[str, Any]] = {"unrolled": {"architecture": "unrolled"}}
    if patches := defaults.architecture == "patch":
        # The relativistic loss for an untargeted U-Net, unless the settings choose the loss.
        loss_chosen = config.loss.adversarial is not None or config.loss.kappa != LossConfig().kappa
        plain = targeted or config.generator.any_class or loss_chosen
        choices["unet"] = UNET | ({} if plain else {"adversarial": "relativistic"})
    if (saved := place.saved_settings()) is not None:
        return choices.get(saved.get("architecture", ""), {})
    size = batch_size_of(config, images.train, accelerator.num_processes)
    if config.optimization.total_steps(lambda: steps_per_epoch(images.train, size), defaults) < MIN_TRAINING_STEPS:
        return {}
    with preserved_random_states(), restored_accelerator(accelerator):
        comparison = trial(config.replace({"max_steps": TRIAL_STEPS, "compile": False}))
        share = 1.0 if comparison is None or not comparison.fgsm else comparison.generator / comparison.fgsm
        if not in_any_process(accelerator, share < (NEAR_FGSM if patches else MIN_SUCCESS)):
            if config.run.progress and accelerator.is_main_process and comparison is not None:
                bar_console().print(f"trial: {comparison}: the default network is kept", highlight=False)
            return {}
        order = ("unrolled", "unet") if in_any_process(accelerator, share < MIN_SUCCESS) else ("unet", "unrolled")
        fits = {"unet": partial(_unet_is_fast, images, accelerator.device), "unrolled": partial(_can_be_guide, images)}
        chosen = next((choices[name] for name in order if name in choices and fits[name]()), {})
    if chosen and accelerator.is_main_process:
        unrolled = "unrolled, with the classifier as guide: slower, and stronger"
        network = unrolled if chosen["architecture"] == "unrolled" else "a U-Net"
        note(
            f"after {TRIAL_STEPS} steps: {comparison}. The default network is too weak against this classifier: the "
            f"generator is {network}; to keep the other one: architecture={defaults.architecture!r}"
        )
    return chosen


def _unet_is_fast(images: Images, device: torch.device) -> bool:
    """Whether a pass of the U-Net takes no more operations than one of the classifier, which is about a third of FGSM.

    Operations of convolutions, matrix products and attention: times would not be the same twice.
    """
    from torch.utils.flop_counter import FlopCounterMode  # imports Triton: slow

    x = torch.full((2, *images.train.image_shape), 0.5, device=device)
    unet = Generator(channels=x.shape[1], **UNET).to(device)
    counts = []
    for network in (unet, images.model):
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            network(x)
        counts.append(counter.get_total_flops())
    return counts[0] <= counts[1]


def _can_be_guide(images: Images) -> bool:
    shape = images.train.image_shape
    try:
        Generator(channels=shape[0], architecture="unrolled", depth=1, guide=unwrap(images.model), image_shape=shape)
    except InputError:
        return False
    return True
