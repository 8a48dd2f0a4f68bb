"""Other people's classifiers, by where they come from. A source joins by a line in `SOURCES` and a file with `load`.

torchvision:NAME[:WEIGHTS]   timm:NAME   hf:REPO   FILE.py:FACTORY   MODEL.onnx[#output=NAME]   http://HOST/PATH
"""

from __future__ import annotations

import os
import re
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from advgan.classifiers.base import ImageShape
from advgan.core.errors import did_you_mean

# What a name looks like -> the file beside this one whose `load(name, weights, image_shape=, num_classes=)` takes it.
SOURCES = {
    r"torchvision:.*": "torchvision",
    r"timm:.*": "timm",
    r"hf:.*": "transformers",
    r".*\.py:\w+": "python_file",
    r".*\.onnx(#.*)?": "onnx",
    r"https?://.*": "endpoint",
}
SPEC_FORMATS = (
    "torchvision:NAME[:WEIGHTS], timm:NAME, hf:REPO, FILE.py:FACTORY, MODEL.onnx[#output=NAME], http://HOST/PATH"
)


def source_of(name: str) -> str | None:
    """The file that loads classifier `name`; None for a built-in one, a directory, or nothing known."""
    return next((source for pattern, source in SOURCES.items() if re.fullmatch(pattern, name)), None)


def load_external(
    name: str,
    weights: Path | str | None = None,
    *,
    image_shape: ImageShape | None = None,
    num_classes: int | None = None,
) -> nn.Module:
    """The classifier `name` of some source, with its own weights or with those in the file `weights`: images in
    [0, 1] -> logits, in eval mode, frozen, with `name`, `image_shape`, `num_classes`, `classes` and `config`.

    Shape and number of classes are what the data have; None takes the model's own. A model with trained weights keeps
    its own number of classes whatever the data have: `advgan.data.relabel` brings the two together. Raises InputError
    for what cannot be loaded or does not take such images, and for a package that is not installed.
    """
    module: Any = import_module(f"advgan.classifiers.external.{source_of(name)}")
    found: nn.Module = module.load(name, weights, image_shape=image_shape, num_classes=num_classes)
    return found


def suggest(name: str, known: tuple[str, ...]) -> str:
    """The end of a message about a classifier `name` that is none of the `known` ones and of no source."""
    word, colon, rest = name.partition(":")
    if colon:
        return did_you_mean(f"{word}:", ("torchvision:", "timm:", "hf:", "https:")).replace(":?", f":{rest}?")
    if name.endswith(".py"):
        return f"; did you mean {name}:FACTORY, a function in it?"
    if name.endswith(".pt2"):
        return "; a .pt2 file: FILE.py:FACTORY, a function that returns torch.export.unflatten(torch.export.load(...))"
    if os.path.isfile(name):  # unlike Path.is_file, also of a name that is too long
        return "; a file of weights goes to --target-weights, beside the name of what it is for"
    if "/" in name:
        return f"; there is no directory {name}"
    from torchvision import models

    theirs = models.list_models(module=models)
    if name.lower() in theirs:
        return f"; did you mean torchvision:{name.lower()}:DEFAULT?"
    return did_you_mean(name, [*known, *(f"torchvision:{each}:DEFAULT" for each in theirs)])
