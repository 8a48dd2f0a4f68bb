"""External classifiers with a new head: the last linear layer replaced, trained alone, saved, loaded again.

A saved one is config.json, with the name of the classifier and of its head, and all weights. A Python file is run only
where its name is given, as `--target FILE.py:FACTORY --target-weights DIR`.
"""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from advgan.classifiers.base import MAX_CLASSES, ImageShape, check_shape
from advgan.classifiers.external.base import ExternalClassifier, blank_output
from advgan.classifiers.state_dicts import load_weights_into, match_weights, read_file, weights_file
from advgan.core.errors import InputError, listing, one_line
from advgan.core.json_files import check_int, check_keys, read_object

SOURCES_WITH_HEADS = ("torchvision", "timm", "python_file")  # those that build a module of ours to change


def find_head(model: nn.Module, num_classes: int, name: str | None = None) -> str:
    """The name of the last linear layer of `num_classes` outputs, or `name`. Raises InputError where there is none."""
    linear = {path: module for path, module in model.named_modules() if isinstance(module, nn.Linear)}
    fitting = [path for path, module in linear.items() if module.out_features == num_classes]
    if name is None and fitting:
        return fitting[-1]
    if name is not None and name in linear:
        return name
    expected = f"one of its linear layers, {listing(list(linear), 6)}" if linear else "a model with a linear layer"
    got = f"of {num_classes} outputs found" if name is None else f"{name!r} is a linear layer"
    raise InputError(f"no head {got}: expected --head with {expected}")


def replace_head(classifier: ExternalClassifier, num_classes: int, head: str | None = None) -> ExternalClassifier:
    """`classifier` itself with a new last layer for `num_classes` (torch's seed), which alone is trainable.

    head   the name of the layer in its model; None: `find_head`

    Raises InputError where there is no such layer, and where the output is not that of the layer's classes.
    """
    name = find_head(classifier.model, classifier.num_classes, head)
    parent, _, child = name.rpartition(".")
    old: Any = classifier.model.get_submodule(name)
    new = nn.Linear(old.in_features, num_classes, bias=old.bias is not None).to(old.weight.device)
    setattr(classifier.model.get_submodule(parent), child, new)
    classifier.head, classifier.num_classes, classifier.classes = name, num_classes, None
    try:
        shape: object = tuple(blank_output(classifier, classifier.image_shape).shape)
    except Exception as error:  # later layers of other sizes
        shape = one_line(error)
    if shape != (1, num_classes):
        raise InputError(
            f"{name} is not the last layer of {classifier.name}: expected logits (1, {num_classes}), got {shape}"
        )
    return classifier


def read_head_config(weights: Path | str | None) -> dict[str, Any] | None:
    """The config.json beside `weights`, a file or directory, of a classifier with a new head; None: of no such one.

    Raises InputError for an invalid one.
    """
    if weights is None:
        return None
    try:
        path, by_order = weights_file(weights)
    except InputError:  # there are no weights: the loader of the classifier has the message
        return None
    file = path.with_name("config.json")
    config = read_object(file) if file.is_file() and not by_order else {}
    if "head" not in config:
        return None
    check_keys(str(file), config, {"name", "head", "image_shape", "num_classes"}, {"classes"})
    check_shape(config["image_shape"], f"{file}: image_shape")
    check_int(f"{file}: num_classes", config["num_classes"], 2, MAX_CLASSES)
    names = config.get("classes")
    texts = [config["name"], config["head"], *(names if isinstance(names, list) else [])]
    if not all(isinstance(text, str) for text in texts) or (names and len(names) != config["num_classes"]):
        raise InputError(f"{file}: expected names as text, and as many classes as num_classes")
    return config


def load_with_head(
    name: str, source: str | None, config: Mapping[str, Any], weights: Path | str, image_shape: ImageShape | None
) -> ExternalClassifier:
    """The classifier `name` with the saved head of `config` and all its `weights`, in eval mode, frozen."""
    saved = config["name"]  # of a Python file by its own name, wherever it lies
    same = name == saved or (".py:" in name and Path(name).name == Path(saved).name)
    if source not in SOURCES_WITH_HEADS or not same:
        raise InputError(f"{weights} holds a head for {saved}, expected this name, got {name}")
    module: Any = import_module(f"advgan.classifiers.external.{source}")
    shape = tuple(config["image_shape"]) if image_shape is None else image_shape
    classes = config["num_classes"]
    if source == "python_file":  # its function builds the network with its own head
        built = module.load(name, None, image_shape=shape, num_classes=None)
        classifier = replace_head(built, classes, config["head"])
        path, _ = weights_file(weights)
        file = read_file(path, config=config)
        load_weights_into(classifier, match_weights(classifier, file, f"{name} with its head"), file)
    else:
        classifier = module.load(name, weights, image_shape=shape, num_classes=classes)
    classifier.head, classifier.classes = config["head"], tuple(config["classes"]) if config.get("classes") else None
    return classifier.eval().requires_grad_(False)
