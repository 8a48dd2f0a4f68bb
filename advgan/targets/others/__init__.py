"""Other people's classifiers, by where they come from. A source joins by a line in `SOURCES` and a file with `load`.

torchvision:NAME[:WEIGHTS]   timm:NAME   hf:REPO   FILE.py:FACTORY   MODEL.pt2   MODEL.onnx   http://HOST/PATH
"""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from advgan.targets.base import ImageShape

# What a name looks like -> the file beside this one whose `load(name, weights, image_shape=, num_classes=)` takes it.
SOURCES = {
    r"torchvision:.*": "torchvision",
    r"timm:.*": "timm",
    r"hf:.*": "transformers",
    r".*\.py:\w+": "python_file",
    r".*\.pt2": "exported",
    r".*\.onnx": "onnx",
    r"https?://.*": "endpoint",
}


def source_of(name: str) -> str | None:
    """The file that loads classifier `name`; None for a built-in one, a directory, or nothing known."""
    return next((source for pattern, source in SOURCES.items() if re.fullmatch(pattern, name)), None)


def load_other(
    name: str,
    weights: Path | str | None = None,
    *,
    image_shape: ImageShape | None = None,
    num_classes: int | None = None,
) -> nn.Module:
    """The classifier `name` of some source, with its own weights or with those in the file `weights`: images in
    [0, 1] -> logits, in eval mode, frozen, with `name`, `image_shape`, `num_classes`, `classes` and `config`.

    Shape and number of classes are what the data have; None takes the model's own. Raises InputError for what cannot
    be loaded or does not fit them, and for a package that is not installed.
    """
    module: Any = import_module(f"advgan.targets.others.{source_of(name)}")
    found: nn.Module = module.load(name, weights, image_shape=image_shape, num_classes=num_classes)
    return found
