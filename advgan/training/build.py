"""The networks of a training with their initial weights, and its batch size."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from torch import nn

from advgan.classifiers import fingerprint
from advgan.core.errors import InputError
from advgan.core.threat_model import Threat
from advgan.core.training_record import checkpoint_folder
from advgan.data import Split, Stream
from advgan.models.discriminator import Discriminator
from advgan.models.generator import Generator
from advgan.training.options import GeneratorConfig, TrainingConfig, default_depth, default_width

BATCH_SIZE = 64


def build_generator(
    config: GeneratorConfig,
    threat: Threat,
    y_target: int | None,
    *,
    image_shape: tuple[int, int, int],
    num_classes: int,
    guide: Any,
    network: nn.Module | None = None,
) -> Generator:
    """A generator with random weights, but for its guide's, or around the caller's `network`. Raises InputError for
    settings that do not go together."""
    labels = config.labels
    if labels is None:
        alone = guide is None and network is None and not config.universal
        labels = alone and config.architecture in ("patch", "unet")
    width = default_width(config.architecture) if config.width is None else config.width
    depth = default_depth(config.architecture) if config.depth is None else config.depth
    return Generator(
        channels=image_shape[0],
        eps=threat.eps,
        norm=threat.norm,
        y_target=y_target,
        architecture=config.architecture,
        patch=config.patch,
        width=width,
        depth=depth,
        levels=config.levels,
        labels=num_classes if labels else 0,
        classes=num_classes if config.any_class else 0,
        eps_min=config.eps_min,
        noise=config.noise,
        universal=config.universal,
        smoothing=config.smoothing,
        guide=guide,
        image_shape=image_shape,
        network=network,
    )


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


def initialise(
    net: Generator,
    discriminator: nn.Module | None,
    source: Generator | str | Path,
    allowed_guides: Collection[str] = (),
) -> str:
    """Give `net` the weights of a trained generator, but for its guide's, and `discriminator` those of the one saved
    beside it, if there is one; the SHA-256 of the trained generator.

    allowed_guides   see `Generator.from_pretrained`

    Raises InputError unless both networks are of the same kind; eps, eps_min and y_target may differ.
    """
    trained = (
        source if isinstance(source, Generator) else Generator.from_pretrained(source, allowed_guides=allowed_guides)
    )
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
    """Images a step over all processes: as set, else 64, or fewer where there are fewer images."""
    if config.optimization.batch_size is not None:
        return config.optimization.batch_size
    parts = processes * config.optimization.accumulate * (2 if config.generator.noise else 1)
    most = BATCH_SIZE if isinstance(images, Stream) else min(BATCH_SIZE, len(images))
    return max(most // parts, 1) * parts
