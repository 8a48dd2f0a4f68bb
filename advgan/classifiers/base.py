"""What every built-in target is: a classifier that knows its own name and shapes, with its normalisation inside."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from numbers import Integral
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from advgan.core.errors import InputError
from advgan.core.json_files import check_int

ImageShape = tuple[int, int, int]  # channels, height, width
MAX_SIDE, MAX_CLASSES = 65_536, 1_000_000  # of what a config.json may describe


def check_shape(shape: Any, what: str) -> None:
    """Raise InputError, which begins with `what`, unless `shape` is that of grey or colour images (c, h, w)."""
    whole = (
        isinstance(shape, Sequence)
        and len(shape) == 3
        and all(isinstance(n, Integral) and not isinstance(n, bool) and int(n) > 0 for n in shape)
    )
    if not whole or shape[0] not in (1, 3) or max(shape) > MAX_SIDE:
        raise InputError(f"{what}, got {tuple(shape) if whole else reprlib.repr(shape)}")


class Classifier(nn.Module):
    """Images (n, c, h, w) float32 in [0, 1] -> logits (n, num_classes). Subclasses build layers and write `logits`.

    `name`, `image_shape` and `num_classes` are all it takes to build it again. `classes` are the names of its classes
    in the order of its logits, None: unknown. Raises InputError for shapes it cannot take.
    """

    default_image_shape: ClassVar[ImageShape]  # of the data set the family was made for: the default where nobody says
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
        """What `build_target` needs to build it again: the config.json of a checkpoint."""
        config = {"name": self.name, "image_shape": list(self.image_shape), "num_classes": self.num_classes}
        return config if self.classes is None else {**config, "classes": list(self.classes)}

    @property
    def head(self) -> nn.Linear:
        """The last linear layer, from features to logits; all the rest is the backbone."""
        return [module for module in self.modules() if isinstance(module, nn.Linear)][-1]

    def forward(self, x: Tensor) -> Tensor:
        # Convolutions run channels last, with their weights (see build_target): 1 to 2 times as fast on a CPU. Callers
        # do not notice: they pass an ordinary tensor, and its gradient comes back as one.
        inner = x.contiguous(memory_format=torch.channels_last)
        if inner.requires_grad and inner is not x:
            inner.register_hook(Tensor.contiguous)
        return self.logits(inner)

    def logits(self, x: Tensor) -> Tensor:
        """`x` (n, c, h, w) -> (n, num_classes), unnormalised."""
        raise NotImplementedError
