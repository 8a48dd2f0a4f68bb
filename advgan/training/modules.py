"""The caller's own parts of a training."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from advgan.core.errors import InputError
from advgan.models.generator import Generator
from advgan.training.gan import LossFunction
from advgan.training.options import GeneratorConfig
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
