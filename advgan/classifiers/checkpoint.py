"""A target on disk: `config.json` (name and shapes), `model.safetensors`, and a card `README.md`."""

import hashlib
import json
import re
import reprlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from advgan.classifiers.base import MAX_CLASSES, Classifier, ImageShape, check_shape
from advgan.classifiers.external import load_external, source_of
from advgan.classifiers.registry import TARGETS, build_target, target_family
from advgan.classifiers.state_dicts import WeightsFile, load_weights_into, match_weights, read_file, weights_file
from advgan.core.config import BY_ORDER
from advgan.core.errors import InputError
from advgan.core.files import atomic_write_dir, folder_path
from advgan.core.json_files import check_int, check_keys, read_object, sealed
from advgan.core.random_state import float32_default
from advgan.core.training_record import warn_unfinished
from advgan.core.weights import M, dense, write_checkpoint


def save_target(model: nn.Module, directory: Path | str, card: str, run: dict[str, Any] | None = None) -> None:
    """Write `model`, a target with or without defenses or a detector, its `card` (Markdown) and the record `run` of its
    training (training.json) to `directory`, atomically, replacing an earlier one.
    """

    config: Any = model.config

    def write(folder: Path) -> None:
        write_checkpoint(folder, config, model.state_dict())
        (folder / "README.md").write_text(card)
        if run is not None:
            (folder / "training.json").write_text(sealed(run))

    atomic_write_dir(folder_path(directory), write)


def load_target(
    name: str,
    weights: Path | str | None = None,
    *,
    image_shape: ImageShape | None = None,
    num_classes: int | None = None,
    by_order: bool = False,
) -> Any:
    """Classifier `name` with trained `weights`: float32, in eval mode, frozen. A name of another source
    (`advgan.classifiers.external`), like "timm:resnet18", needs none.

    `weights` is what `save_target` wrote, a run directory with it in `classifier/`, or a file of weights: .safetensors,
    or anything else that torch.load reads with weights_only=True. Shape and number of classes default to those of the
    config.json beside the weights, else to those of the data set the target was made for. For keys and prefixes of the
    weights see `advgan.classifiers.state_dicts`. With `by_order`, or as "FILE:by-order", tensors of the same
    shapes in the same order are loaded, whatever their names. Raises InputError for missing or damaged weights, and for
    those of another model.
    """
    if by_order and weights is not None and not str(weights).endswith(BY_ORDER):
        weights = f"{weights}{BY_ORDER}"
    if source_of(name):
        return load_external(name, weights, image_shape=image_shape, num_classes=num_classes)
    config, file, ordered = read_target(name, weights)
    if config.get("defenses"):
        raise InputError(f"{file.path} holds a classifier behind a defense: advgan.defenses.load_classifier loads it")
    return build_and_fill(partial(build_configured, config, image_shape, num_classes), file, by_order=ordered)


def build_configured(
    config: Mapping[str, Any], image_shape: ImageShape | None = None, num_classes: int | None = None
) -> Classifier:
    """The target of a `config`, with random weights; `image_shape` and `num_classes` override those of the config."""
    shape = config.get("image_shape") if image_shape is None else image_shape
    count = config.get("num_classes") if num_classes is None else num_classes
    model = build_target(config["name"], None if shape is None else tuple(shape), count)
    classes = config.get("classes")
    model.classes = tuple(classes) if classes is not None and len(classes) == model.num_classes else None
    return model


@float32_default()
def build_and_fill(build: Callable[[], M], file: WeightsFile, *, by_order: bool = False) -> M:
    """The classifier from `build` with its weights from `file`, in eval mode, frozen. Names and shapes are
    compared before any memory is taken for it. Raises InputError as `match_weights` and `load_weights_into`.
    """
    with torch.device("meta"):
        expected: Any = build()
    shape = "x".join(map(str, expected.image_shape))
    about = f"{expected.name} for {shape} images and {expected.num_classes} classes"
    match = match_weights(expected, file, about, by_order=by_order)
    return load_weights_into(build(), match, file)


def read_target(name: str | None, weights: Path | str | None) -> tuple[dict[str, Any], WeightsFile, bool]:
    """The config.json of target `name` (None: its own name) in `weights`, with its name at least; the file of its
    weights; and whether they are loaded by order.
    """
    if name is not None:
        target_family(name)
    if weights is None:
        raise InputError(
            f"{name} needs trained weights, expected a directory or a file: train them with "
            f"`python train/classifier.py --target {name} --output-dir DIR`, then give DIR"
        )
    path, by_order = weights_file(weights)
    warn_unfinished(path.parent)
    config_file = path.with_name("config.json")
    saved = read_object(config_file) if config_file.exists() else None
    config = {} if saved is None or "name" not in saved else saved
    if name is None and not config:
        raise InputError(f"{weights} holds no name of a classifier: expected a config.json beside the weights")
    if name is not None and config.get("name", name) != name:
        raise InputError(f"{weights} holds target {_short(config['name'])}, expected {name}")
    if config:
        check_config(config, str(config_file))
    return {"name": name, **config}, read_file(path, config=saved), by_order


def finetune_target(
    name: str, weights: Path | str, image_shape: ImageShape, num_classes: int, *, freeze_backbone: bool = False
) -> Classifier:
    """Classifier `name` to finetune: the backbone from `weights` (as in `load_target`), the head new (torch's seed).

    The weights may be those of a classifier of other classes. With `freeze_backbone` only the head is trainable.
    Raises InputError as `load_target`.
    """
    trained = load_target(name, weights, image_shape=image_shape)
    model = build_target(name, image_shape, num_classes)
    head = next(name for name, module in model.named_modules() if module is model.head)
    backbone = {key: value for key, value in trained.state_dict().items() if not key.startswith(f"{head}.")}
    model.load_state_dict(backbone, strict=False)
    model.requires_grad_(not freeze_backbone)
    model.head.requires_grad_(True)
    return model


def fingerprint(model: nn.Module) -> str:
    """SHA-256 of all that a model's output depends on: its weights, its defenses with their settings, and constants
    outside of both (a generator's ball and iterations; buffers outside of the state dict; the `identity` of a file or
    an address). Equal for two runs that attacked the same classifier.
    """
    digest = hashlib.sha256()
    layers: list[dict[str, Any]] = []
    layer: Any = model
    while hasattr(type(layer), "spec_name"):  # a defense, around any module
        layers.insert(0, {"name": layer.spec_name, "settings": layer.settings})
        layer = layer.inner
    if layers:
        digest.update(json.dumps(layers, sort_keys=True).encode())
    for module in model.modules():
        digest.update((_identity(module) or "").encode())  # beside the weights
    tensors = dict(model.state_dict())
    if not isinstance(layer, Classifier):  # whose constants follow from its name and images
        tensors |= {  # buffers outside of the state dict, except those that an `identity` of their module covers
            f"{path}.{name}": buffer
            for path, module in model.named_modules()
            for name, buffer in module.named_buffers(recurse=False)
            if name in module._non_persistent_buffers_set and _identity(module) is None
        }
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(_bytes_of(tensor))
    return digest.hexdigest()


def layers_digest(*models: nn.Module) -> str:
    """SHA-256 of models' layers as they are printed: with strides, activations and constants that are no weights."""
    return hashlib.sha256(re.sub(r" at 0x[0-9a-f]+", "", "".join(map(repr, models))).encode()).hexdigest()


def _identity(module: nn.Module) -> str | None:
    """The text that distinguishes a module beside its weights; a layer of this name, as in residual blocks, is none."""
    identity = getattr(module, "identity", None)
    return identity if isinstance(identity, str) else None


def _bytes_of(value: Any) -> bytes:
    """An entry of a state_dict as bytes: a tensor's values, of an int8 model also its scales, dtypes and tuples."""
    if isinstance(value, (tuple, list)):
        return b";".join(_bytes_of(part) for part in value)
    if not isinstance(value, torch.Tensor):
        return repr(value).encode()
    if value.is_quantized:
        per_tensor = value.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric)
        zero_point = value.q_zero_point() if per_tensor else value.q_per_channel_zero_points()
        scale = value.q_scale() if per_tensor else value.q_per_channel_scales()
        return b";".join(_bytes_of(part) for part in (value.int_repr(), scale, zero_point))
    return dense(value.detach()).cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def check_config(config: Any, where: str) -> None:
    """Raise InputError, before anything is built, unless `config` is that of a built-in classifier.

    where   the file it comes from, for the message
    """
    name = config.get("name") if isinstance(config, dict) else config
    if not isinstance(name, str) or name not in TARGETS:
        raise InputError(f"{where} names the classifier {_short(name)}, expected one of {', '.join(TARGETS)}")
    check_keys(where, config, {"name"}, {"image_shape", "num_classes", "defenses", "classes"})
    count = config.get("num_classes")
    if "image_shape" in config:
        check_shape(config["image_shape"], f"{where}: image_shape")
    if "num_classes" in config:
        check_int(f"{where}: num_classes", count, 2, MAX_CLASSES)
    if (classes := config.get("classes")) is not None and not (
        isinstance(classes, list) and all(isinstance(name, str) for name in classes) and len(classes) == count
    ):
        raise InputError(f"{where}: classes must be {count} names, got {_short(classes)}")
    if not isinstance(config.get("defenses", []), list):
        raise InputError(f"{where}: defenses must be a list, got {_short(config['defenses'])}")


def _short(value: Any) -> str:
    return value if isinstance(value, str) and len(value) <= 60 else reprlib.repr(value)[:60]
