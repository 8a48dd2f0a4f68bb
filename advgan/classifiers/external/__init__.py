"""External classifiers by their source. A new source is a line in `SOURCES` and a file with `load`.

torchvision:NAME[:WEIGHTS]   timm:NAME   hf:REPO   FILE.py:FACTORY   MODEL.onnx[#output=NAME]   http://HOST/PATH
"""

import os
import re
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from advgan.classifiers.base import ImageShape
from advgan.classifiers.external.head import load_with_head, read_head_config
from advgan.core.errors import did_you_mean

# Pattern of a name -> module in this folder, whose `load(name, weights, image_shape=, num_classes=)` loads it.
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
    """The module that loads classifier `name`; None for a built-in one, a directory, or an unknown name."""
    return next((source for pattern, source in SOURCES.items() if re.fullmatch(pattern, name)), None)


def load_external(
    name: str,
    weights: Path | str | None = None,
    *,
    image_shape: ImageShape | None = None,
    num_classes: int | None = None,
) -> nn.Module:
    """The external classifier `name`, with its published weights or those in the file `weights`: images in [0, 1] ->
    logits, in eval mode, frozen, with `name`, `image_shape`, `num_classes`, `classes` and `config`.

    `image_shape` and `num_classes` are those of the data; None: the model's. A model with trained weights keeps its
    number of classes; `advgan.data.relabel` maps labels to them. Raises InputError for a classifier that cannot be
    loaded or does not accept such images, and for a package that is not installed.
    """
    source = source_of(name)
    if (config := read_head_config(weights)) is not None:
        assert weights is not None, "the config is beside them"
        return load_with_head(name, source, config, weights, image_shape)
    module: Any = import_module(f"advgan.classifiers.external.{source}")
    return module.load(name, weights, image_shape=image_shape, num_classes=num_classes)


def suggest(name: str, built_in: tuple[str, ...]) -> str:
    """End of the error message for an unknown classifier `name`: similar names, or the missing part of it."""
    prefix, colon, rest = name.partition(":")
    if colon:
        return did_you_mean(f"{prefix}:", ("torchvision:", "timm:", "hf:", "https:")).replace(":?", f":{rest}?")
    if name.endswith(".py"):
        return f"; did you mean {name}:FACTORY, a function in it?"
    if name.endswith(".pt2"):
        return "; a .pt2 file: FILE.py:FACTORY, a function that returns torch.export.unflatten(torch.export.load(...))"
    if os.path.isfile(name):  # unlike Path.is_file, no error for a name that is too long
        script = "; TorchScript: FILE.py:FACTORY, a function that returns torch.jit.load(...)"
        return (
            "; a file of weights is passed as --target-weights (in Python weights=), beside the name of its classifier"
            f"{script if name.endswith(('.pt', '.ts', '.torchscript')) else ''}"
        )
    if "/" in name:
        return f"; there is no directory {name}"
    from torchvision import models

    torchvision_names = models.list_models(module=models)
    if name.lower() in torchvision_names:
        return f"; did you mean torchvision:{name.lower()}:DEFAULT?"
    return did_you_mean(name, [*built_in, *(f"torchvision:{model}:DEFAULT" for model in torchvision_names)])
