"""Image classifiers of the transformers library: `hf:REPO` on the Hugging Face Hub, or `hf:DIRECTORY` on disk.

No code of the repository is run, and weights are read from safetensors alone.
"""

from pathlib import Path
from typing import Any

import torch

from advgan.classifiers.adapters import classes_of
from advgan.classifiers.base import ImageShape
from advgan.classifiers.external.base import ExternalClassifier, with_weights, wrap_external
from advgan.core.errors import InputError, explained
from advgan.core.optional import require_package


def load(
    name: str, weights: Path | str | None, *, image_shape: ImageShape | None, num_classes: int | None
) -> ExternalClassifier:
    """As `load_external`; the number of classes is that of its config.json. Raises InputError for
    a missing model, for one that is no image classifier, and for preprocessing beyond rescaling and normalisation.
    """
    transformers: Any = require_package("transformers", "hf")
    source = name.removeprefix("hf:")
    config = _read(transformers.AutoConfig, source, name)
    if config.model_type == "timm_wrapper":
        raise InputError(f"{name} holds a model of timm, expected timm:hf-hub:{source}")
    processor = _read(transformers.AutoImageProcessor, source, name)
    kind: Any = transformers.AutoModelForImageClassification
    if weights is None:
        model, loading_info = _read(kind, source, name, use_safetensors=True, output_loading_info=True)
        if missing := sorted(loading_info["missing_keys"]):
            raise InputError(f"{name} holds no weights of {missing[0]}, expected a trained classifier, not a backbone")
    else:
        model, _ = with_weights(lambda _: kind.from_config(config), [config.num_labels], weights, name)
    channels, height, width = _default_image_shape(config, processor)
    mean, std = _normalisation(processor, channels, name)
    shape, classes = (channels, height, width), classes_of(model)
    resize = _resize(processor)
    return wrap_external(model, name, shape, image_shape, mean=mean, std=std, classes=classes, resize=resize)


def _read(kind: Any, source: str, name: str, **settings: Any) -> Any:
    """An object of class `kind`, from the repository or directory `source`."""
    with explained(f"transformers cannot load {name}: "):  # no connection, no such files, another kind of model
        return kind.from_pretrained(source, trust_remote_code=False, **settings)


def _default_image_shape(config: Any, processor: Any) -> ImageShape:
    """Shape of the images that the processor returns."""
    size = getattr(processor, "crop_size", None) if getattr(processor, "do_center_crop", False) else None
    size = dict(size or getattr(processor, "size", None) or {})
    side = size.get("shortest_edge", getattr(config, "image_size", 224))
    return getattr(config, "num_channels", 3), size.get("height", side), size.get("width", side)


def _resize(processor: Any) -> int | None:
    """The shorter side to which the processor resizes an image before its crop; None: that of the crop, or no crop."""
    side = dict(getattr(processor, "size", None) or {}).get("shortest_edge")
    if side is None or getattr(processor, "do_center_crop", False):
        return side
    share = getattr(processor, "crop_pct", None)  # of ConvNeXt's, for images below 384 pixels
    return int(side / share) if share and side < 384 else None


def _normalisation(processor: Any, channels: int, name: str) -> tuple[list[float], list[float]]:
    """Mean and std per channel for images in [0, 1]; verified against the processor on a small image."""
    scale = 255 * getattr(processor, "rescale_factor", 1 / 255) if getattr(processor, "do_rescale", True) else 255.0
    means, stds = (getattr(processor, key, None) for key in ("image_mean", "image_std"))
    if not getattr(processor, "do_normalize", False):
        means, stds = None, None
    mean = [value / scale for value in means or [0.0] * channels]
    std = [value / scale for value in stds or [1.0] * channels]
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (channels, 64, 64), dtype=torch.uint8, generator=rng)
    same = {"do_resize": False, "do_center_crop": False, "input_data_format": "channels_first"}
    with explained(f"the image processor of {name} fails on a test image: "):
        expected = processor(images=pixels.numpy(), return_tensors="pt", **same)["pixel_values"][0]
    column = torch.tensor([mean, std])[:, :, None, None]
    if expected.shape != pixels.shape or not torch.allclose(
        expected, (pixels / 255 - column[0]) / column[1], atol=1e-4
    ):
        raise InputError(
            f"the image processor of {name} ({type(processor).__name__}) does more than rescaling and normalisation: "
            "expected a FILE.py:FACTORY that does the same"
        )
    return mean, std
