"""The 1,000 classes of ImageNet (ILSVRC 2012): names."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache


@cache
def class_names() -> Sequence[str]:
    """torchvision's names of the classes, in their order; two names are of two classes each."""
    from torchvision.models import ResNet18_Weights  # slow to import

    names: Sequence[str] = ResNet18_Weights.DEFAULT.meta["categories"]
    return names
