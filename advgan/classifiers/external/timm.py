"""timm's classifiers: `timm:NAME` with their published weights, or with those of a file; `timm:hf-hub:REPO` and
`timm:local-dir:DIR` as timm reads them. Normalisation, size and class names are those of its pretrained_cfg.
"""

import math
from pathlib import Path
from typing import Any

from advgan.classifiers.base import ImageShape
from advgan.classifiers.external.base import ExternalClassifier, with_weights, wrap_external
from advgan.core.errors import InputError, did_you_mean, explained, one_line
from advgan.core.optional import require_package


def load(
    name: str, weights: Path | str | None, *, image_shape: ImageShape | None, num_classes: int | None
) -> ExternalClassifier:
    """As `load_external`. Raises InputError for an unknown name, and for unavailable weights."""
    timm: Any = require_package("timm", "timm")
    kind = name.removeprefix("timm:")
    if ":" not in kind and not timm.is_model(kind.partition(".")[0]):
        raise InputError(f"timm has no classifier {kind!r}{did_you_mean(kind, timm.list_models())}")
    if weights is None:
        model = _published(timm, kind, name)
        count = model.num_classes
    else:
        # Built without weights first, for the published number of classes.
        with explained(f"timm cannot build {kind}: "):
            published_classes = timm.create_model(kind, pretrained=False).num_classes
        counts = [num_classes or published_classes, published_classes]
        model, count = with_weights(lambda n: timm.create_model(kind, num_classes=n), counts, weights, name)
    settings = timm.data.resolve_model_data_config(model)
    metadata = {
        "mean": settings["mean"],
        "std": settings["std"],
        "classes": _classes(timm, model.pretrained_cfg, count),
        "resize": math.floor(min(settings["input_size"][1:]) / settings["crop_pct"]),  # as timm.data.create_transform
    }
    return wrap_external(model, name, tuple(settings["input_size"]), image_shape, **metadata)


def _published(timm: Any, kind: str, name: str) -> Any:
    """The model with its published weights. Raises InputError where they cannot be loaded."""
    try:
        return timm.create_model(kind, pretrained=True)
    except Exception as error:  # an unknown tag, no connection, a damaged file
        similar = did_you_mean(kind, timm.list_models(f"{kind.partition('.')[0]}*", pretrained=True))
        raise InputError(
            f"cannot load the weights of {name} ({one_line(error)}): expected a connection to the Hub, or a file with "
            f"--target-weights (in Python weights=){similar}"
        ) from error


def _classes(timm: Any, published: dict[str, Any], count: int) -> list[str] | None:
    """The names of `count` classes, synonyms after commas, where timm has them: those of a Hub model, or ImageNet's."""
    names = published.get("label_names")
    if names:
        return list(names) if len(names) == count else None
    subset = timm.data.infer_imagenet_subset(dict(published)) if published.get("num_classes") == count else None
    if subset is None:
        return None
    info = timm.data.ImageNetInfo(subset)
    return [f"{info.index_to_description(i)}, {info.index_to_label_name(i)}" for i in range(count)]
