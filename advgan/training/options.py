"""Settings of a generator's training, grouped: the network, the optimisation, the run. The loss: `gan.LossConfig`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType, SimpleNamespace
from typing import Any, Literal

from advgan.core.config import check_signs
from advgan.core.errors import InputError, did_you_mean, note
from advgan.core.inputs import check_types, plain
from advgan.defenses.transforms import Transform, Transforms
from advgan.models.generator_settings import Architecture
from advgan.training.defaults import LEARNING_RATES, SMALL, SizeDefaults, objective_defaults, size_defaults
from advgan.training.gan import FEATURE_LOSSES, LossConfig

# What settings are called in flags and files.
FLAGS = {"targeted_fraction": "aimed", "diversity_weight": "gamma", "detector_weight": "evasion"}
FLAGS |= {"hinge_threshold": "hinge_c"}
Augment = Literal["crop-flip", "none"]
POSITIVE = ("batch_size", "accumulate", "validate_every", "validation_images", "epochs", "learning_rate", "clip_norm")
NOT_NEGATIVE = (
    *("kappa", "alpha", "beta", "diversity_weight", "detector_weight", "hinge_threshold"),
    "discriminator_learning_rate",
)


@dataclass(frozen=True)
class GeneratorConfig:
    """The generator's network, and what it can be asked for (see `advgan.Generator`).

    architecture   "patch" (fast), "unet", "unrolled" (needs a guide), "paper" (Xiao et al. 2018) or "resnet" (that of
                   the published attacks that transfer, without labels as an input by default); None: patch, for
                   images of 96 pixels a side and more unet; before 300 steps and more, and where nothing else of the
                   network is set, 60 steps are tried first: if they reach less than 0.7 of FGSM's success, unrolled
                   with the classifier as guide (a robust classifier, a small eps)
    patch          pixels a side per position
    width          channels; None: 32, of a unet for images of 96 pixels and more 28, of a resnet the published 64, of
                   an unrolled network 0, which is its learned backward pass alone
    depth          residual blocks, of an unrolled network iterations; None: 2, of a resnet 6
    levels         halvings of a unet; None: 1, for images of 96 pixels and more 2
    labels         the label is an input, `perturb(x, y)`; None: yes for the architectures patch and unet, unless a
                   guide gives its prediction, the perturbation is universal, or there are fewer than 10 images a class
    any_class      one generator for all classes: `perturb(x, y_target=3)` takes any, or none
    target_classes   the classes of any_class, two or more, by number; (): all. Few are learned sooner than a thousand
    eps_min        one generator for all radii from this one to eps; None: eps alone
    noise          length of a noise vector, for many different adversarial images of one image; 0: one
    universal      one perturbation for all images
    smoothing      pixels a side of a Gaussian filter of the perturbation, odd (CDA: 3); 0: none
    """

    architecture: Architecture | None = None
    patch: int = 4
    width: int | None = None
    depth: int | None = None
    levels: int | None = None
    labels: bool | None = None
    any_class: bool = False
    target_classes: Sequence[int] = ()
    eps_min: float | None = None
    noise: int = 0
    universal: bool = False
    smoothing: int = 0


@dataclass(frozen=True)
class OptimizationConfig:
    """How long is trained, and by which steps: Adam for both networks, a one-cycle schedule for the generator.

    epochs, max_steps    passes over the training images; or steps, which override epochs; neither: 20 passes, but at
                         most 600 steps; of an unrolled network 200, for images of 96 pixels and more 60
    batch_size           images a step, summed over processes; None: 64, for images of 96 pixels and more 16 (of an
                         unrolled network 8), or all images if there are fewer
    accumulate           micro-batches a step: the same step in less memory
    learning_rate, warmup           peak of the schedule (None: 1e-2, of a unet 4e-3, unrolled 2e-3), and the fraction
                                    of the steps in which it rises
    discriminator_learning_rate     constant
    ema                  decay of the averaged weights, which are validated and returned; 0: the latest weights
    clip_norm            largest gradient norm of the generator
    targeted_fraction    fraction of the images trained toward a class, with any_class
    label_dropout        fraction of the images whose label the generator is not given, so that it works without
    curriculum           radius of the first step over eps, which falls to eps, linearly, in the first half of the
                         steps: in a larger ball there is more to learn from. 1: eps in all steps; None: 2 for an
                         untargeted generator of photos of 100 classes and more, otherwise 1
    survive              transforms of the written image, ("png", "jpeg:75", "resize", "crop") or functions: the
                         classifier gets each adversarial image after one of them, drawn at random (`Transforms`)
    augment              "crop-flip": random crops of photos, half of them mirrored, another one in each epoch; "none":
                         the images as they are; None: crop-flip for files that are larger than the images
    """

    epochs: int | None = None
    max_steps: int | None = None
    batch_size: int | None = None
    accumulate: int = 1
    learning_rate: float | None = None
    warmup: float = 0.1
    discriminator_learning_rate: float = 1e-3
    ema: float = 0.9
    clip_norm: float = 10.0
    targeted_fraction: float = 0.5
    label_dropout: float = 0.1
    curriculum: float | None = None
    survive: Sequence[str | Transform] = ()
    augment: Augment | None = None

    def total_steps(self, steps_per_epoch: Callable[[], int], defaults: SizeDefaults) -> int:
        """Steps of a whole training; a stream, which has no `steps_per_epoch`, needs max_steps."""
        if self.max_steps:
            return self.max_steps
        if self.epochs is not None:
            return self.epochs * steps_per_epoch()
        return min(defaults.epochs * steps_per_epoch(), defaults.max_steps)


@dataclass(frozen=True)
class RunConfig:
    """Where and how a training runs; none but `seed` changes what is computed.

    seed                seed of batches, conditions and initial weights
    seed_weights        False: initial weights from torch's random state as it is, not from `seed`
    validate_every      steps between validations and saved states
    validation_images   largest number of validation images; None: 1000, of 96 pixels and more 200
    workers             processes that read images which do not lie in memory
    threads             CPU threads of each process; None: as they are
    bf16                mixed precision
    compile             torch.compile of generator and classifier
    checkpoint_target   recompute the classifier's activations: less memory, one forward pass more
    progress            progress bar and a line per validation
    """

    seed: int = 0
    seed_weights: bool = True
    validate_every: int = 100
    validation_images: int | None = None
    workers: int = 2
    threads: int | None = None
    bf16: bool = False
    compile: bool = False
    checkpoint_target: bool = False
    progress: bool = True


@dataclass(frozen=True)
class TrainingConfig:
    """The four groups of settings of a training."""

    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimization: OptimizationConfig = field(default_factory=OptimizationConfig)
    run: RunConfig = field(default_factory=RunConfig)

    @classmethod
    def from_flags(cls, flags: Any) -> TrainingConfig:
        """The settings of a program, which are called as in `FLAGS`."""
        names = {name: FLAGS.get(name, name) for name in cls().to_dict()}
        return cls().replace({name: getattr(flags, flag) for name, flag in names.items() if hasattr(flags, flag)})

    @property
    def learning_rate(self) -> float:
        """Peak of the schedule: as set, or the default of the architecture."""
        chosen = self.optimization.learning_rate
        return LEARNING_RATES[self.generator.architecture or SMALL.architecture] if chosen is None else chosen

    def resolved(
        self,
        image_shape: Sequence[int],
        architecture: Architecture | None = None,
        *,
        classes: int = 0,
        targeted: bool = False,
        one_eps: bool = True,
    ) -> TrainingConfig:
        """With values for the settings of the network and of the objective that are None, for images (c, h, w) of so
        many classes. `architecture`: of the caller's own generator; `targeted`: its objective, also without any_class;
        `one_eps`: it has no eps_min. Raises InputError as `check`."""
        defaults, chosen = size_defaults(image_shape, architecture or self.generator.architecture), self.to_dict()
        targeted = targeted or self.generator.any_class
        one_eps = one_eps and self.generator.eps_min is None
        values = {
            **{name: getattr(defaults, name) for name in ("architecture", "width", "depth", "levels")},
            **objective_defaults(image_shape, defaults.architecture, classes, targeted=targeted, one_eps=one_eps),
        }
        own = {name: value for name in values if (value := chosen[name]) is not None and name != "architecture"}
        resolved = self.replace(values | own)
        resolved.check()
        return resolved

    @property
    def objective(self) -> dict[str, Any]:
        """What `resolved` chooses of the objective where it is None, by name, for the card."""
        return {"adversarial": self.loss.adversarial, "curriculum": self.optimization.curriculum}

    def replace(self, settings: Mapping[str, Any]) -> TrainingConfig:
        """The same with some settings changed, each in its group. Raises InputError for an unknown one."""
        groups = {group.name: getattr(self, group.name) for group in fields(self)}
        group_of = {setting.name: name for name, group in groups.items() for setting in fields(group)}
        for setting, value in settings.items():
            if setting not in group_of:
                near = did_you_mean(setting, group_of) or f", expected some of {', '.join(group_of)}"
                raise InputError(f"unknown setting {setting!r}{near}")
            name = group_of[setting]
            groups[name] = replace(groups[name], **{setting: plain(value)})
        return TrainingConfig(**groups)

    def to_dict(self) -> dict[str, Any]:
        """All settings by name, without groups: no name is in two of them."""
        groups = [getattr(self, group.name) for group in fields(self)]
        return {setting.name: getattr(group, setting.name) for group in groups for setting in fields(group)}

    def check(self, names: Mapping[str, str] = MappingProxyType({})) -> None:
        """Raise InputError for a setting that cannot work, or that has no effect; `names` are what some are called."""
        for group in fields(self):
            check_types(getattr(self, group.name), names)
        settings = {names.get(name, name): value for name, value in self.to_dict().items()}
        shown = {name: names.get(name, name) for name in self.to_dict()}
        values = SimpleNamespace(**settings)
        check_signs(
            values, positive=[shown[name] for name in POSITIVE], not_negative=[shown[name] for name in NOT_NEGATIVE]
        )
        for name in ("ema", "warmup"):
            if not 0 <= settings[name] < 1:
                raise InputError(f"{name} must be in [0, 1), got {settings[name]}")
        generator, defaults = self.generator, TrainingConfig().to_dict()
        for name, needed, met in (
            ("targeted_fraction", "any_class", generator.any_class),
            ("target_classes", "any_class", generator.any_class),
            ("label_dropout", "labels", generator.labels is not False),
            ("diversity_weight", "noise", generator.noise > 0),
            ("curriculum", "a single eps", generator.eps_min is None or self.optimization.curriculum == 1),
            (
                "levels",
                "architecture unet",
                generator.architecture in (None, "unet") or generator.levels == SMALL.levels,
            ),
            ("kappa", "adversarial margin", self.loss.adversarial in (None, "margin")),
            ("layer", f"adversarial {' or '.join(FEATURE_LOSSES)}", self.loss.adversarial in FEATURE_LOSSES),
        ):
            if not met and self.to_dict()[name] != defaults[name]:
                raise InputError(f"{shown[name]} does nothing without {needed}, got {settings[shown[name]]}")
        for name in ("targeted_fraction", "label_dropout"):
            if not 0 <= settings[shown[name]] <= 1:
                raise InputError(f"{shown[name]} must be in [0, 1], got {settings[shown[name]]}")
        curriculum = 1.0 if self.optimization.curriculum is None else self.optimization.curriculum
        seed = self.run.seed
        if not 0 <= seed < 2**32:
            raise InputError(f"seed must be from 0 to 2^32 - 1, got {seed}")
        if not 1 <= curriculum < math.inf:
            raise InputError(f"curriculum must be {'finite' if curriculum > 1 else 'at least 1'}, got {curriculum}")
        if curriculum > 1 and generator.architecture == "unrolled":
            raise InputError(f"curriculum is not for architecture unrolled, expected 1, got {curriculum}")
        Transforms(self.optimization.survive)  # raises InputError for an unknown one
        if self.optimization.max_steps is not None and self.optimization.max_steps < 1:
            raise InputError(f"max_steps must be at least 1, got {self.optimization.max_steps}")

    def note_unused(self, names: Mapping[str, str] = MappingProxyType({})) -> None:
        """A note for each setting that was chosen and has no effect beside the others, which a recipe may share."""
        architecture, settings, defaults = self.generator.architecture, self.to_dict(), TrainingConfig().to_dict()
        for name, needed, met in (
            ("gan", "alpha above 0", self.loss.alpha > 0),
            ("discriminator_learning_rate", "alpha above 0", self.loss.alpha > 0),
            ("hinge_threshold", "beta above 0", self.loss.beta > 0),
            ("patch", "architecture patch or unet", architecture in (None, "patch", "unet")),
            ("width", "another architecture than paper", architecture != "paper"),
            ("depth", "another architecture than paper", architecture != "paper"),
        ):
            if not met and settings[name] != defaults[name]:
                note(f"{names.get(name, name)} does nothing without {needed}, got {settings[name]}")

    def check_objective(self, y_target: int | str | None) -> None:
        """Raise InputError for an adversarial loss that has no untargeted or no targeted form, and for what the passes
        that end at a layer cannot be combined with."""
        form, any_class = self.loss.adversarial, self.generator.any_class
        targeted = f"y_target {y_target}" if y_target is not None else "any_class" if any_class else None
        if form in FEATURE_LOSSES and targeted:
            raise InputError(f"adversarial {form} is untargeted, expected no target class, got {targeted}")
        fraction = self.optimization.targeted_fraction
        if form == "match" and not (y_target is not None or (any_class and fraction == 1)):
            got = f"any_class with targeted_fraction {fraction:g}" if any_class else "neither"
            raise InputError(
                f"adversarial match is targeted, expected y_target, or any_class with targeted_fraction "
                f"({FLAGS['targeted_fraction']}) 1, got {got}"
            )
        for name in ("compile", "checkpoint_target"):
            if form in FEATURE_LOSSES and getattr(self.run, name):
                raise InputError(f"adversarial {form} ends the classifier's pass at a layer, expected no {name}")

    def check_batch_size(self, batch_size: int, processes: int) -> None:
        """Raise InputError for a batch that cannot be divided into equal micro-batches of the processes."""
        accumulate = self.optimization.accumulate
        parts = processes * accumulate
        if batch_size % parts:
            raise InputError(
                f"batch size must be divisible by processes x accumulate, {processes} x {accumulate}, got {batch_size}"
            )
        if self.generator.noise and batch_size // parts % 2:
            raise InputError(f"with noise images go in pairs: expected an even batch a process, got {batch_size}")
