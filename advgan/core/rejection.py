"""Classifiers that can reject images: they have `rejection_score`, images (n, c, h, w) -> (n,), differentiable.

An image with a positive one is rejected, for any logits.
"""

from typing import Any

import torch
from torch import Tensor, nn


def can_reject(model: Any) -> bool:
    """Whether the model can reject images."""
    return callable(score := getattr(model, "rejection_score", None)) and not isinstance(score, nn.Module)


def accepts(model: Any, x: Tensor) -> Tensor:
    """Whether the model accepts each of the images `x` (n, c, h, w): (n,) bool; all where it cannot reject."""
    if not can_reject(model):
        return torch.ones(len(x), dtype=torch.bool, device=x.device)
    return model.rejection_score(x) <= 0
