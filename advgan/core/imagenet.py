"""The 1,000 classes of ImageNet (ILSVRC 2012): WordNet's synsets, and names."""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

SYNSET = re.compile(r"n\d{8}")  # of WordNet


@cache
def synset_numbers() -> dict[str, int]:
    """The class number of each of the 1,000 synsets, which are sorted."""
    text = Path(__file__).with_name("imagenet_synsets.txt").read_text()
    return {synset: i for i, synset in enumerate(text.split())}


@cache
def class_names() -> Sequence[str]:
    """torchvision's names of the classes, in their order ("crane bird", "crane")."""
    from torchvision.models import ResNet18_Weights  # slow to import

    return ResNet18_Weights.DEFAULT.meta["categories"]
