"""A classifier that somebody else made, as a target: its normalisation inside, its answer reduced to logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from advgan.targets.base import ImageShape


class Other(nn.Module):
    """Images (n, c, h, w) float32 in [0, 1] -> logits (n, num_classes) of `model`, in eval mode and frozen.

    name         the words that load it again: "torchvision:resnet50"
    mean, std    of the normalisation that `model` was trained with, one for each channel; None: none
    classes      the names of its classes, in the order of its logits, where it knows them
    identity     what tells it from another one where its weights cannot be seen: a file's SHA-256, an address

    An answer with `.logits` (transformers) is that tensor.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: nn.Module,
        name: str,
        image_shape: ImageShape,
        num_classes: int,
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        classes: Sequence[str] | None = None,
        identity: str | None = None,
    ) -> None:
        super().__init__()
        channels = image_shape[0]
        self.model, self.name, self.image_shape, self.num_classes = model, name, image_shape, num_classes
        self.classes = None if classes is None else tuple(classes)
        self.identity = identity
        for key, values, neutral in (("mean", mean, 0.0), ("std", std, 1.0)):
            column = torch.tensor([neutral] * channels if values is None else list(values), dtype=torch.float32)
            self.register_buffer(key, column.view(-1, 1, 1), persistent=False)
        self.normalises = mean is not None or std is not None
        self.eval().requires_grad_(False)

    @property
    def config(self) -> dict[str, Any]:
        return {"name": self.name, "image_shape": list(self.image_shape), "num_classes": self.num_classes}

    def forward(self, x: Tensor) -> Tensor:
        answer = self.model((x - self.mean) / self.std if self.normalises else x)
        logits: Tensor = getattr(answer, "logits", answer)
        return logits
