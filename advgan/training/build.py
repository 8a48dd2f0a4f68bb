"""The caller's own parts of a training; its networks with their initial weights, and its batch size."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from advgan.classifiers import fingerprint
from advgan.core.errors import InputError, explained
from advgan.core.threat_model import Threat
from advgan.core.training_record import checkpoint_folder
from advgan.core.weights import check_trainable
from advgan.data import Split, Stream
from advgan.models.discriminator import Discriminator
from advgan.models.generator import Generator
from advgan.models.generator_settings import Architecture
from advgan.training.defaults import size_defaults
from advgan.training.gan import LossFunction
from advgan.training.options import GeneratorConfig, TrainingConfig
from advgan.training.trainer import OptimizerFactory


@dataclass(frozen=True)
class Modules:
    """The caller's own parts of a training; None: the default ones."""

    generator: Any = None  # a Generator, the settings of one, or its network
    discriminator: nn.Module | None = None
    guide: nn.Module | bool | None = None
    loss: LossFunction | None = None
    optimizer: OptimizerFactory | None = None
    init: Generator | str | Path | None = None
    allowed_guides: tuple[str, ...] = ()  # of `init`: see Generator.from_pretrained
    initial: Generator | None = None  # that of `init`, loaded; None in a resumed run
    guide_of_init: bool = False  # whether `guide` is that of the initial weights, and no argument

    def __post_init__(self) -> None:
        """Raise InputError for a part of another type."""
        for name, types, expected in (
            ("generator", (nn.Module, GeneratorConfig), "a GeneratorConfig, a Generator or its network, an nn.Module"),
            ("discriminator", nn.Module, "an nn.Module"),
            ("guide", (nn.Module, bool), "an nn.Module, or True for the model itself"),
            ("init", (Generator, str, Path), "a Generator, or the folder of one"),
        ):
            value = getattr(self, name)
            if value is not None and not isinstance(value, types):
                raise InputError(f"{name} must be {expected}, got {type(value).__name__}")
        if self.optimizer is not None and not callable(self.optimizer):
            got = type(self.optimizer).__name__
            raise InputError(f"optimizer must be a function of parameters, like torch.optim.Adam, got {got}")

    def load_init(self) -> Generator | None:
        """The generator of `init`, if there is one."""
        if self.init is None or isinstance(self.init, Generator):
            return self.init
        return Generator.from_pretrained(self.init, allowed_guides=self.allowed_guides)


IMAGES_PER_CLASS = 10  # on average, with which a generator learns to use the label


def build_generator(
    config: GeneratorConfig,
    threat: Threat,
    y_target: int | None,
    *,
    image_shape: tuple[int, int, int],
    num_classes: int,
    guide: Any,
    network: nn.Module | None = None,
    images: int | None = None,
) -> Generator:
    """A generator with random weights, but for its guide's, or around the caller's `network`; `images`: how many it is
    trained on, if that is known. Raises InputError for settings that do not go together."""
    labels = config.labels
    if None in (config.architecture, config.width, config.depth, config.levels):
        raise ValueError("settings that are None for the size of the images: expected those of `resolved`")
    if labels is None:
        alone = guide is None and network is None and not config.universal
        enough = images is None or images >= IMAGES_PER_CLASS * num_classes
        labels = alone and enough and config.architecture in ("patch", "unet")
    same = ("architecture", "patch", "width", "depth", "levels", "eps_min", "noise", "universal", "smoothing")
    return Generator(
        channels=image_shape[0],
        eps=threat.eps,
        norm=threat.norm,
        y_target=y_target,
        labels=num_classes if labels else 0,
        classes=num_classes if config.any_class else 0,
        target_classes=tuple(config.target_classes),
        guide=guide,
        image_shape=image_shape,
        network=network,
        **{name: getattr(config, name) for name in same},
    )


def own_architecture(generator: Any) -> Architecture | None:
    """The architecture of the caller's own generator, or patch for one's network; None where there is neither."""
    if isinstance(generator, Generator) and not generator.custom:
        return generator.config["architecture"]
    return "patch" if isinstance(generator, nn.Module) else None


def checked_generator(net: Generator, threat: Threat, y_target: int | None, channels: int) -> Generator:
    """The caller's own generator. Raises InputError unless it was built for this training's ball, class and images."""
    for name, expected, value in (
        ("eps", threat.eps, net.threat.eps),
        ("norm", threat.norm, net.threat.norm),
        ("y_target", y_target, net.y_target),
        ("channels", channels, net.channels),
    ):
        if value != expected:
            raise InputError(f"the generator was built with {name} {value}, expected {expected}")
    return net.train()


def check_network_output(net: Generator, image_shape: tuple[int, int, int]) -> None:
    """Raise InputError for a network of the caller's without trainable parameters, or that cannot take the images."""
    check_trainable(net.network)
    try:
        cannot = f"{type(net.network).__name__} cannot take images of shape {image_shape}: "
        with explained(cannot), torch.random.fork_rng(devices=[]):
            net.eval().perturb(torch.zeros(2, *image_shape))
    finally:
        net.train()


def check_settings_of_own(net: nn.Module, config: GeneratorConfig) -> None:
    """Raise InputError for settings of `config` that the caller's own generator, or network, does not have."""
    values: dict[str, Any] = dict.fromkeys(("architecture", "patch", "width", "depth", "levels"))
    if isinstance(net, Generator):
        values = net.config | {"labels": bool(net.labels), "any_class": bool(net.classes)}
        values["target_classes"] = tuple(values["target_classes"])
    for name, default in asdict(GeneratorConfig()).items():
        chosen = getattr(config, name)
        chosen = tuple(chosen) if isinstance(chosen, list) else chosen
        if name in values and chosen not in (default, values[name]):
            built = "a network of your own" if values[name] is None else f"a generator of your own with {values[name]}"
            raise InputError(f"{name} is of the network that fit builds, expected none beside {built}, got {chosen}")


def settings_of_init(
    config: GeneratorConfig, modules: Modules, saved: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The settings of the network that `config` leaves at their defaults, as the generator of the initial weights has
    them; "guide" with them where it has one (True: the model itself). Of a resumed run those that it has, `saved`."""
    values, guided = saved, False
    if values is None:
        trained = modules.initial
        assert trained is not None
        if trained.custom:
            return {}
        values = trained.config | {"labels": bool(trained.labels), "any_class": bool(trained.classes)}
        guided = trained.guide is not None
    guided = guided or values.get("guide") is True
    defaults = asdict(GeneratorConfig())
    taken = {name: value for name, value in defaults.items() if getattr(config, name) == value and name != "eps_min"}
    same = {name: values[name] for name in taken if name in values}
    same |= {"target_classes": tuple(same["target_classes"])} if "target_classes" in same else {}
    return same | ({"guide": True} if guided and not modules.guide else {})


def initialise(
    net: Generator, discriminator: nn.Module | None, trained: Generator, source: Generator | str | Path
) -> str:
    """Give `net` the weights of a trained generator, but for its guide's, and `discriminator` those of the one saved
    beside it in the folder `source`, if there is one; the SHA-256 of the trained generator.

    Raises InputError unless both networks are of the same kind; eps, eps_min and y_target may differ.
    """
    shown = "" if isinstance(source, Generator) else f" {source}"
    if differences := net.differences(trained):
        raise InputError(f"init{shown} holds a generator of another kind: {differences}")
    weights = {name: value for name, value in trained.state_dict().items() if not name.startswith("guide.")}
    net.load_state_dict(net.state_dict() | weights)
    if not isinstance(source, Generator) and isinstance(discriminator, Discriminator):
        folder = checkpoint_folder(Path(source), "generator").parent / "discriminator"
        if folder.is_dir():
            saved = Discriminator.load(folder)
            if saved.config != discriminator.config:
                raise InputError(f"init {folder} holds a discriminator {saved.config}, expected {discriminator.config}")
            discriminator.load_state_dict(saved.state_dict())
    return fingerprint(trained)


def batch_size_of(config: TrainingConfig, images: Split | Stream, processes: int) -> int:
    """Images a step over all processes: as set, else by the size of the images, or fewer where there are fewer."""
    if config.optimization.batch_size is not None:
        return config.optimization.batch_size
    parts = processes * config.optimization.accumulate * (2 if config.generator.noise else 1)
    most = size_defaults(images.image_shape, config.generator.architecture).batch_size
    most = most if isinstance(images, Stream) else min(most, len(images))
    return max(most // parts, 1) * parts
