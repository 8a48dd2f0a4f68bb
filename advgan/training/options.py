"""Settings of a generator's training, grouped: the network, the optimisation, the run (the loss: `gan.LossConfig`)."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType, SimpleNamespace
from typing import Any, Literal, Self

from advgan.core.config import Real, check_signs
from advgan.core.errors import InputError, did_you_mean, note
from advgan.core.field_docs import documented
from advgan.core.inputs import check_types, plain
from advgan.core.json_files import check_int
from advgan.defenses.transforms import Transform, Transforms
from advgan.models.generator_settings import Architecture
from advgan.training.defaults import LEARNING_RATES, MAX_STEPS, SMALL, SizeDefaults, objective_defaults, size_defaults
from advgan.training.gan import FEATURE_LOSSES, LossConfig, LossTerms


@dataclass(frozen=True)
class LossFlags(LossTerms):
    """The loss, with what is called otherwise in the library."""

    hinge_c: Real | None = None
    """Threshold c of the hinge loss, an l2 norm; None: 0.85 of that of random-sign noise of this eps on training
    images"""


@dataclass(frozen=True)
class NetworkFlags:
    """The network of the generator."""

    architecture: Architecture | None = None
    """Architecture of generator and discriminator: patch (fast), unet (more success), unrolled (for small eps, with a
    guide), paper (Xiao et al. 2018) or resnet (the published attacks that transfer). None: patch, or unet from 96
    pixels a side on"""
    patch: int = 4
    """Side in pixels of the patches: the generator's feature map has one position for each"""
    width: int | None = None
    """Channels of the generator; None: 32 (unet from 96 pixels a side on: 28, resnet: 64, unrolled: 0, the learned
    backward pass alone)"""
    depth: int | None = None
    """Residual blocks of the generator (unet: at its bottom; unrolled: iterations); None: 2 (resnet: 6)"""
    levels: int | None = None
    """Downsampling levels of a unet; None: 1, from 96 pixels a side on 2"""


# What settings are called in flags and files.
FLAGS = {"targeted_fraction": "aimed", "diversity_weight": "gamma", "detector_weight": "evasion"}
FLAGS |= {"hinge_threshold": "hinge_c"}
Augment = Literal["crop-flip", "none"]
POSITIVE = ("batch_size", "accumulate", "validate_every", "validation_images", "epochs", "learning_rate", "clip_norm")
NOT_NEGATIVE = (
    *("kappa", "alpha", "beta", "diversity_weight", "detector_weight", "hinge_threshold"),
    "discriminator_learning_rate",
)


@documented
@dataclass(frozen=True)
class GeneratorConfig(NetworkFlags):
    """The generator's network, and its conditions (see `advgan.Generator`; each setting: `advgan train --help`)."""

    architecture: Architecture | None = None
    """Architecture of generator and discriminator: patch (fast), unet (more success), unrolled (for small eps, with a
    guide), paper (Xiao et al. 2018) or resnet (the published attacks that transfer). None: patch, or unet from 96
    pixels a side on; a training of 300 steps or more tries it for 60 first and, where that is below FGSM, takes a unet
    or unrolled with the target as guide instead"""
    labels: bool | None = None
    """Whether the label, the class to leave, is an input of the generator, `perturb(x, y)`; None: it is for patch and
    unet, with at least 10 training images per class, neither guided nor universal"""
    any_class: bool = False
    """One generator for all target classes, and untargeted: the class is an input, `perturb(x, y_target=3)`"""
    target_classes: Sequence[int] = ()
    """Of any_class: the classes to be trained toward, two or more, by number; (): all. Few are learned sooner than a
    thousand"""
    eps_min: Real | None = None
    """One generator for all radii from this one to eps; None: for eps alone"""
    noise: int = 0
    """Length of a noise vector that makes several perturbations of one image; 0: one perturbation"""
    universal: bool = False
    """One perturbation for all images"""
    smoothing: int = 0
    """Side in pixels, odd, of a Gaussian filter (standard deviation 1 pixel) of the perturbation (CDA: 3); 0: none"""


@dataclass(frozen=True)
class OptimizationFlags:
    """How long is trained, and by which steps: Adam for both networks, a one-cycle schedule for the generator."""

    epochs: int | None = None
    """Passes over the training images (with noise a pass is over half of them, each twice); None: 20, but at most 600
    steps (below 96 pixels a side a unet: 500, unrolled: 200; above unrolled: 60). A resumed run may have more, to train
    longer"""
    max_steps: int | None = None
    """Number of steps, instead of epochs; a resumed run may have more, to train longer"""
    batch_size: int | None = None
    """Images per step, over all processes; None: 64, from 96 pixels a side on 16 (unrolled: 8), or all images if there
    are fewer"""
    accumulate: int = 1
    """Micro-batches per step and process: the same step in less memory"""
    learning_rate: Real | None = None
    """Peak of the generator's one-cycle schedule (Adam); None: 1e-2 (unet: 4e-3, unrolled and resnet: 2e-3)"""
    warmup: Real = 0.1
    """Fraction of the steps in which the learning rate rises"""
    discriminator_learning_rate: Real = 1e-3
    """Learning rate of the discriminator, constant (Adam)"""
    ema: Real = 0.9
    """Decay of the averaged weights that are validated and kept; 0 keeps the latest"""
    clip_norm: Real = 10.0
    """Largest gradient norm of the generator"""
    label_dropout: Real = 0.1
    """Fraction of the training images whose label the generator does not get, so that it also works without"""
    curriculum: Real | None = None
    """Factor on eps at the first step, which falls to 1 over the first half of the steps: in a larger ball there is
    more to learn from. None: 2 for an untargeted generator of photos of 100 classes and more, otherwise 1"""
    survive: Sequence[str | Transform] = ()
    """Transforms of the written image, ("png", "jpeg:75", "resize", "crop") or functions: the classifier gets each
    adversarial image after one of them, drawn at random (`Transforms`)"""
    augment: Augment | None = None
    """crop-flip: random crops of photos, half to all of their area, and mirrored ones; none: the images as they are;
    None: crop-flip for files that are larger than the images"""


@documented
@dataclass(frozen=True)
class OptimizationConfig(OptimizationFlags):
    """How long is trained, and by which steps (each setting: `advgan train --help`)."""

    targeted_fraction: float = 0.5
    """With any_class: fraction of the training images that get a random target class; the others are attacked
    untargeted"""

    def total_steps(self, steps_per_epoch: Callable[[], int], defaults: SizeDefaults) -> int:
        """Steps of a whole training; a stream, which has no `steps_per_epoch`, needs max_steps."""
        if self.max_steps:
            return self.max_steps
        if self.epochs is not None:
            return self.epochs * steps_per_epoch()
        return min(defaults.epochs * steps_per_epoch(), defaults.max_steps)


@dataclass(frozen=True)
class ComputeFlags:
    """How a training runs; none but `seed` changes what is computed."""

    seed: int = 0
    """Seed of weights, batches and conditions"""
    validate_every: int = 100
    """Steps between validations (and saves)"""
    validation_images: int | None = None
    """Maximum number of validation images; None: 1000, from 96 pixels a side on 200"""
    bf16: bool = False
    """Mixed precision: twice the speed on a GPU, or on a CPU that has bfloat16 matrix units"""
    compile: bool = False
    """Compile generator and target (torch.compile): the first pass takes a minute"""
    checkpoint_target: bool = False
    """Recompute the target's activations in the backward pass instead of keeping them: less memory, one more forward"""


@documented
@dataclass(frozen=True)
class RunConfig(ComputeFlags):
    """How a training runs: its seed, its validations, its speed (each setting: `advgan train --help`)."""

    seed_weights: bool = True
    """Whether initial weights are from `seed`; False: from torch's random state as it is"""
    workers: int = 2
    """Processes that read images which do not lie in memory"""
    threads: int | None = None
    """CPU threads of each process; None: as they are"""
    progress: bool = True
    """Progress bar and a line per validation"""


@dataclass(frozen=True)
class TrainingConfig:
    """The four groups of settings of a training."""

    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimization: OptimizationConfig = field(default_factory=OptimizationConfig)
    run: RunConfig = field(default_factory=RunConfig)

    @classmethod
    def from_flags(cls, flags: Any) -> Self:
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
    ) -> Self:
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

    def replace(self, settings: Mapping[str, Any]) -> Self:
        """The same with some settings changed, each in its group. Raises InputError for an unknown one."""
        groups = {group.name: getattr(self, group.name) for group in fields(self)}
        group_of = {setting.name: name for name, group in groups.items() for setting in fields(group)}
        for setting, value in settings.items():
            if setting not in group_of:
                near = did_you_mean(setting, group_of) or f", expected some of {', '.join(group_of)}"
                raise InputError(f"unknown setting {setting!r}{near}")
            name = group_of[setting]
            groups[name] = replace(groups[name], **{setting: plain(value)})
        return type(self)(**groups)

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
        if self.optimization.max_steps is not None:
            check_int("max_steps", self.optimization.max_steps, 1, MAX_STEPS)

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
