"""torchvision's classifiers: `torchvision:NAME:WEIGHTS` with published weights, `torchvision:NAME` with a file.

WEIGHTS is a name of torchvision's (IMAGENET1K_V2, DEFAULT), with its normalisation, image size and class names. With a
file of weights these are its normalisation and, where the file has as many classes, the class names.
"""

from pathlib import Path
from typing import Any

from torch import nn

from advgan.classifiers.base import ImageShape
from advgan.classifiers.external.base import ExternalClassifier, with_weights, wrap_external
from advgan.core.errors import InputError, did_you_mean, explained


def load(
    name: str, weights: Path | str | None, *, image_shape: ImageShape | None, num_classes: int | None
) -> ExternalClassifier:
    """As `load_external`. Raises InputError for an unknown name, and without weights."""
    from torchvision import models  # slow to import

    kind, *weights_names = name.split(":")[1:]
    known = models.list_models(module=models)
    if kind not in known:
        raise InputError(f"torchvision has no classifier {kind!r}{did_you_mean(kind, known)}")
    enum: Any = models.get_model_weights(kind)
    if weights_names and (len(weights_names) > 1 or weights_names[0] not in enum.__members__):
        got = ":".join(weights_names)
        raise InputError(f"torchvision's {kind} has weights {', '.join(enum.__members__)}, got {got!r}")
    if not weights_names:
        if weights is None:
            raise InputError(
                f"{name} needs trained weights: expected those of torchvision, {name}:DEFAULT, or a file of your own "
                "with --target-weights (in Python weights=)"
            )
        model, _ = with_weights(lambda n: _build(kind, n), [num_classes or 1000], weights, name)
        return wrap_external(model, name, (3, 224, 224), image_shape)

    published = enum[weights_names[0]]
    preset, names = published.transforms(), published.meta["categories"]
    if weights is None:
        model, count = _downloaded(kind, published, name), len(names)
    else:
        counts = [len(names), num_classes or len(names)]
        model, count = with_weights(lambda n: _build(kind, n, published), counts, weights, name)
    size, metadata = preset.crop_size[0], {"mean": preset.mean, "std": preset.std, "resize": preset.resize_size[0]}
    classes = names if count == len(names) else None
    return wrap_external(model, name, (3, size, size), image_shape, classes=classes, **metadata)


def _downloaded(kind: str, published: Any, name: str) -> nn.Module:
    """torchvision's published model, downloaded where it is not cached. Raises InputError where that fails."""
    from torchvision import models

    advice = "download the file on another machine, then pass it with --target-weights (in Python weights=)"
    with explained(f"cannot download the weights of {name} from {published.url} (", f"): {advice}"):
        # The builder would unpickle anything.
        published.get_state_dict(progress=True, check_hash=True, weights_only=True)
        return models.get_model(kind, weights=published)


def _build(kind: str, num_classes: int, published: Any = None) -> nn.Module:
    """An untrained model, built as torchvision builds it for its `published` weights."""
    from torchvision import models

    settings: dict[str, Any] = {}
    if kind in ("googlenet", "inception_v3"):
        # Without auxiliary heads for training; a file of weights may contain them.
        settings = {"init_weights": False, "aux_logits": False, "transform_input": published is not None}
    elif published is not None and kind.startswith("vit_"):
        settings = {"image_size": published.meta["min_size"][0]}
    return models.get_model(kind, weights=None, num_classes=num_classes, **settings)
