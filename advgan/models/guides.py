"""The guide of a generator: any classifier, as a frozen copy, and how a checkpoint holds it.

A built-in one is its configuration and weights. Of any other a checkpoint holds the weights, the SHA-256 of them, its
logits for two images, and a name: one that loads it again (`timm:NAME`, `FILE.py:FACTORY`), or its class.
"""

import copy
import math
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from advgan.classifiers.adapters import OutputAdapter, Scripted, classes_of, is_recorded
from advgan.classifiers.base import MAX_CLASSES, Classifier, ImageShape, check_shape
from advgan.classifiers.black_box import BlackBox
from advgan.classifiers.checkpoint import build_configured, fingerprint
from advgan.classifiers.external import load_external, source_of
from advgan.classifiers.external.base import ExternalClassifier, wrap_external
from advgan.classifiers.registry import TARGETS, target_family
from advgan.core.errors import InputError, explained, listing
from advgan.core.json_files import check_int, check_keys
from advgan.core.weights import mismatch, write_weights

REBUILT = ("timm", "torchvision", "transformers")  # sources that run no code of a user's; the others are to be named
LOGITS = 16  # that a checkpoint holds of a guide
TOLERANCE = 1e-3  # of the largest of them: another machine's rounding


def guide_from(guide: Any, image_shape: Sequence[int] | None = None) -> Any:
    """A frozen copy of a classifier in eval mode, with `name`, `image_shape`, `num_classes` and `config`.

    guide         a module, images (n, c, h, w) in [0, 1] -> logits, or the configuration of a built-in classifier
    image_shape   (c, h, w) of a module that has none itself

    Raises InputError for what is no classifier that runs here.
    """
    if isinstance(guide, OutputAdapter):
        guide = guide.model  # an external classifier reads its output itself
    guide = getattr(guide, "_orig_mod", guide)  # a graph of torch.compile cannot be differentiated twice
    if isinstance(guide, Mapping):
        check_guide(guide)
        return build_configured(guide).requires_grad_(False).eval()
    if not isinstance(guide, nn.Module) or isinstance(guide, BlackBox):
        raise InputError(f"guide must be a classifier, an nn.Module that runs here, got {type(guide).__name__}")
    if isinstance(guide, Classifier) and type(guide) is TARGETS.get(guide.name):
        built = build_configured(guide.config)
        if not mismatch(built, guide.state_dict()):
            built.load_state_dict(guide.state_dict())
            return built.requires_grad_(False).eval().to(_device(guide))
    # Without gradients: otherwise the weights of a copy of TorchScript are no leaves.
    with explained(f"the guide {type(guide).__name__} cannot be copied (", ")"), torch.no_grad():
        copied: Any = copy.deepcopy(guide)
    dense = {
        name
        for name, value in copied.state_dict().items()
        if isinstance(value, Tensor) and value.layout == torch.strided and not value.is_nested
    }
    if others := [name for name in copied.state_dict() if name not in dense]:
        raise InputError(
            f"the guide {type(guide).__name__} has a state that is no dense tensor ({listing(others, 3)}), which no "
            "checkpoint can hold: expected float weights (a quantised model?)"
        )
    if isinstance(copied, ExternalClassifier):
        return copied.requires_grad_(False).eval()
    shape = getattr(guide, "image_shape", None) if image_shape is None else image_shape
    if shape is None:
        raise InputError(f"the guide {type(guide).__name__} has no image_shape, expected image_shape=(c, h, w)")
    check_shape(shape, "image_shape of the guide must be (1 or 3, h, w)")
    copied = Scripted(copied) if is_recorded(copied) else copied
    return wrap_external(copied.eval(), type(guide).__name__, tuple(shape), classes=classes_of(guide))


def check_guide(guide: Any, *, external: bool = False) -> None:
    """Raise InputError, before anything is built, unless `guide` is the configuration of a built-in classifier, or
    (`external`) what a checkpoint holds of another."""
    if not isinstance(guide, Mapping):
        raise InputError(f"guide must be a classifier or the configuration of one, got {guide!r:.60}")
    external = external and "sha256" in guide
    check_keys(
        "guide", guide, ["name", "image_shape", "num_classes"], ["sha256", "logits"] if external else ["classes"]
    )
    if not external:
        target_family(guide["name"])
    elif not all(isinstance(guide[key], str) for key in ("name", "sha256")):
        raise InputError(f"guide: name and sha256 must be text, got {guide['name']!r:.60} and {guide['sha256']!r:.60}")
    check_shape(guide["image_shape"], "guide: image_shape must be (1 or 3, h, w)")
    check_int("guide: num_classes", guide["num_classes"], 2, MAX_CLASSES)


def guide_config(guide: Any) -> dict[str, Any]:
    """The entry of a generator's config.json."""
    config: dict[str, Any] = guide.config
    if isinstance(guide, Classifier):
        return config
    return config | {"sha256": fingerprint(guide.model), "logits": _logits(guide)}


def rebuild(config: Mapping[str, Any], weights: Mapping[str, Tensor], given: nn.Module | str | None) -> Any:
    """The guide, not built in, that a checkpoint holds as `config` and `weights` (by the names of the guide's).

    given   the classifier itself, or the name of a source that it is from, which allows to run a Python file

    Raises InputError where it is to be given and is not, or another one is.
    """
    check_guide(config, external=True)
    name, shape = config["name"], tuple(config["image_shape"])
    if given is None and source_of(name) not in REBUILT:
        expected = f"from_pretrained(..., guide=MODEL), the {name} that it was made with"
        if source_of(name) == "python_file":
            expected = f"from_pretrained(..., guide={name!r}), which runs that file, or --guide {name}"
        raise InputError(f"its guide is not part of the checkpoint: expected {expected}")
    if isinstance(given, nn.Module):
        guide = guide_from(given, shape)
    else:
        spec = name if given is None else given
        if not source_of(spec):
            raise InputError(
                f"guide must be a classifier or a name like FILE.py:FACTORY or timm:NAME, got {spec!r:.60}"
            )
        guide = _load(spec, weights, shape, config["num_classes"])
    if isinstance(guide, Classifier) or fingerprint(guide.model) != config["sha256"] or not _same_logits(guide, config):
        raise InputError(
            f"the guide given is another classifier than that of the checkpoint, {name}: its weights or logits differ"
        )
    return guide


def allowed_guide(config: Mapping[str, Any], allowed: Collection[str]) -> str | None:
    """The name of the Python file in a generator's config.json that its guide is from, if it is one of the names
    `allowed`: what the user has typed may be run. Else None.
    """
    guide = config.get("guide")
    name = guide.get("name") if isinstance(guide, Mapping) and "sha256" in guide else None
    files = {_absolute(each) for each in allowed if source_of(each) == "python_file"}
    return name if isinstance(name, str) and _absolute(name) in files else None


def _absolute(name: str) -> str:
    path, _, factory = name.rpartition(":")
    return f"{Path(path).resolve()}:{factory}"


def _load(spec: str, weights: Mapping[str, Tensor], shape: ImageShape, num_classes: int) -> Any:
    """The classifier of a source, with these weights instead of its own where it takes any."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.safetensors"
        own = {name.removeprefix("model."): tensor for name, tensor in weights.items()}
        write_weights(own, file)
        takes = source_of(spec) in (*REBUILT, "python_file")
        return load_external(spec, file if takes else None, image_shape=shape, num_classes=num_classes)


@torch.no_grad()
def _logits(guide: Any) -> list[float]:
    """Of two images of noise, to 6 digits: what tells a classifier from one with the same weights and other code."""
    x = torch.rand(2, *guide.image_shape, generator=torch.Generator().manual_seed(0))
    return [float(f"{value:.6g}") for value in guide(x.to(_device(guide))).float().flatten()[:LOGITS].tolist()]


def _same_logits(guide: Any, config: Mapping[str, Any]) -> bool:
    expected, logits = config.get("logits"), _logits(guide)
    if not isinstance(expected, list) or len(expected) != len(logits):
        return False
    scale = max(abs(value) for value in logits)
    return all(
        isinstance(value, int | float)
        and (value == logit or math.isclose(value, logit, rel_tol=0, abs_tol=TOLERANCE * scale))
        for value, logit in zip(expected, logits, strict=True)
    )


def _device(model: nn.Module) -> torch.device:
    return next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))
