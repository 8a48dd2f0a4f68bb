"""Base class of built-in targets: a classifier with its name, shapes and normalisation."""

import reprlib
from collections.abc import Sequence
from numbers import Integral
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from advgan.core.errors import InputError
from advgan.core.json_files import check_int

ImageShape = tuple[int, int, int]  # channels, height, width
MAX_SIDE, MAX_CLASSES = 65_536, 1_000_000  # limits of a config.json


def check_shape(shape: Any, message: str) -> None:
    """Raise InputError, which begins with `message`, unless `shape` is that of grey or colour images (c, h, w)."""
    whole = (
        isinstance(shape, Sequence)
        and len(shape) == 3
        and all(isinstance(n, Integral) and not isinstance(n, bool) and int(n) > 0 for n in shape)
    )
    if not whole or shape[0] not in (1, 3) or max(shape) > MAX_SIDE:
        raise InputError(f"{message}, got {tuple(shape) if whole else reprlib.repr(shape)}")


class Classifier(nn.Module):
    """Images (n, c, h, w) float32 in [0, 1] -> logits (n, num_classes). Subclasses build layers and write `logits`.

    `name`, `image_shape` and `num_classes` define its architecture. `classes` are the names of its classes in the order
    of its logits, None: unknown. Raises InputError for unsupported shapes.
    """

    default_image_shape: ClassVar[ImageShape]  # of the data set that the family was made for
    default_num_classes: ClassVar[int] = 10

    def __init__(self, name: str, image_shape: ImageShape, num_classes: int) -> None:
        super().__init__()
        check_shape(image_shape, f"{name} needs images of shape (1 or 3, h, w)")
        if isinstance(num_classes, int) and num_classes < 2:
            raise InputError(f"{name} needs at least 2 classes, got {num_classes}")
        check_int(f"the number of classes of {name}", num_classes, 2, MAX_CLASSES)
        self.name, self.image_shape, self.num_classes = name, image_shape, num_classes
        self.classes: tuple[str, ...] | None = None

    @property
    def config(self) -> dict[str, Any]:
        """Arguments of `build_target`, the config.json of a checkpoint."""
        config = {"name": self.name, "image_shape": list(self.image_shape), "num_classes": self.num_classes}
        return config if self.classes is None else {**config, "classes": list(self.classes)}

    @property
    def head(self) -> nn.Linear:
        """The last linear layer, from features to logits; all the rest is the backbone."""
        return [module for module in self.modules() if isinstance(module, nn.Linear)][-1]

    def forward(self, x: Tensor) -> Tensor:
        # Convolutions run channels last, with their weights (see build_target): 1 to 2 times as fast on a CPU. The
        # interface is unchanged: input and gradient are contiguous.
        inner = x.contiguous(memory_format=torch.channels_last)
        if inner.requires_grad and inner is not x:
            inner.register_hook(Tensor.contiguous)
        return self.logits(inner)

    def logits(self, x: Tensor) -> Tensor:
        """`x` (n, c, h, w) -> (n, num_classes), unnormalised."""
        raise NotImplementedError
