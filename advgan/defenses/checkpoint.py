"""Loading a classifier with its saved defenses and further ones."""

import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from advgan.classifiers import Classifier, ImageShape
from advgan.classifiers.checkpoint import build_and_fill, build_configured, check_config, read_target
from advgan.classifiers.external import load_external, source_of
from advgan.classifiers.external.head import read_head_config
from advgan.core.config import BY_ORDER
from advgan.core.errors import InputError, listing
from advgan.core.shipped import CLASSIFIERS
from advgan.core.spec_strings import parse_spec
from advgan.defenses.base import Defended, adaptive
from advgan.defenses.classifier_spec import ClassifierSpec, parse_classifier
from advgan.defenses.ensemble import Ensemble
from advgan.defenses.registry import DEFENSES

M = TypeVar("M", bound=nn.Module)
MAX_PARTS = 100  # classifiers and defenses that one config.json may hold


def defend(model: M, spec: str | None) -> M | Defended:
    """`model` with the defenses of `spec`, each with settings after colons, from the inside out: in "a+b" b wraps a and
    processes the image first. None: no defense.

    Raises InputError for an unknown name, an unknown setting, or an invalid value.
    """
    defended: M | Defended = model
    for part in spec.split("+") if spec else ():
        name, settings = parse_spec(part, DEFENSES, {"inner"}, "defense")
        if issubclass(DEFENSES[name], Ensemble):
            paths = [path.strip() for path in settings.get("members", "").split(",") if path.strip()]
            for path in paths:
                if not ClassifierSpec(path).is_directory:
                    raise InputError(f"{name}:members must be directories of saved classifiers, got {path!r}")
            settings = {"members": [load_classifier(path) for path in paths]}
        defended = DEFENSES[name](defended, **settings)
    defended.eval()
    return defended


def load_classifier(
    classifier: str | ClassifierSpec,
    weights: Path | str | None = None,
    defense: str | None = None,
    *,
    image_shape: ImageShape | None = None,
    num_classes: int | None = None,
    by_order: bool = False,
) -> Any:
    """A trained classifier, images (n, c, h, w) float32 in [0, 1] -> logits (n, num_classes): in eval mode, frozen.

        advgan.load_classifier("mnist-c@checkpoints/mnist5k-classifier+jpeg:quality=75")

    classifier    `NAME[@WEIGHTS][+DEFENSE]...`, see `parse_classifier`; saved defenses are inside the given ones
    weights, defense   where the string has none; of "mnist-c" alone the shipped weights
    image_shape, num_classes   of the data; None: the classifier's own
    by_order      as in `load_target`

    Raises InputError for a classifier that cannot be loaded.
    """
    spec = classifier
    if isinstance(spec, str):
        spec = parse_classifier(spec, weights, defense, default=CLASSIFIERS)
    if spec.is_directory and (saved := read_head_config(spec.name)) is not None:
        if source_of(saved["name"]) == "python_file":
            raise InputError(
                f"{spec.name} holds a head for {saved['name']}, a file that would be run: expected its name, "
                f"{saved['name']}@{spec.name} or --target {saved['name']} --target-weights {spec.name}"
            )
        spec = replace(spec, name=saved["name"], weights=Path(spec.name))
    source = spec.weights
    if by_order and source is not None and not str(source).endswith(BY_ORDER):
        source = Path(f"{source}{BY_ORDER}")
    if source_of(spec.name):
        external = load_external(spec.name, source, image_shape=image_shape, num_classes=num_classes)
        return defend(external, spec.defense).requires_grad_(False)
    config, file, ordered = read_target(*((None, spec.name) if spec.is_directory else (spec.name, source)))
    model = build_and_fill(partial(from_config, config, image_shape, num_classes), file, by_order=ordered)
    return defend(model, spec.defense).requires_grad_(False)


def from_config(
    config: Mapping[str, Any], image_shape: ImageShape | None = None, num_classes: int | None = None
) -> Classifier | Defended:
    """The classifier and the defenses of a `config`, with random weights. Raises InputError for an invalid config,
    before anything is built.
    """
    check_defenses(config)
    model: Classifier | Defended = build_configured(config, image_shape, num_classes)
    for saved in config.get("defenses", []):
        kind, settings = DEFENSES[saved["name"]], saved["settings"]
        if issubclass(kind, Ensemble):
            model = kind(model, [from_config(member) for member in settings["members"]])
        else:
            model = kind.restore(model, settings)
    return model


def check_defenses(config: Any) -> None:
    """Raise InputError unless the defenses in the `config` of a classifier, and of the members of its ensembles, exist
    and have valid settings; at most MAX_PARTS classifiers and defenses in all.
    """
    todo, parts = [config], 0
    while todo:
        member = todo.pop()
        check_config(member, "config.json")
        defenses = member.get("defenses", [])
        parts += 1 + len(defenses)
        if parts > MAX_PARTS:
            raise InputError(f"config.json has more than {MAX_PARTS} classifiers and defenses")
        for saved in defenses:
            if not isinstance(saved, dict) or saved.keys() != {"name", "settings"}:
                raise InputError(f"a defense in config.json must have a name and settings, got {reprlib.repr(saved)}")
            name, settings = saved["name"], saved["settings"]
            if not isinstance(name, str) or name not in DEFENSES:
                raise InputError(f"config.json has an unknown defense {reprlib.repr(name)}")
            if not isinstance(settings, dict):
                raise InputError(f"settings of {name} must be an object, got {reprlib.repr(settings)}")
            DEFENSES[name].check_settings(settings)
            if issubclass(DEFENSES[name], Ensemble):
                todo += settings["members"]


def load_members(
    paths: Sequence[str],
    image_shape: ImageShape,
    num_classes: int,
    device: torch.device,
    classes: Sequence[str] | None = None,
) -> list[nn.Module]:
    """The trained classifiers in the directories `paths`, frozen: members of an ensemble.

    Raises InputError for other paths, and for classifiers of other image shapes or classes: another number, or, where
    `classes` are given and saved, other names or another order.
    """
    members: list[nn.Module] = []
    for path in paths:
        if not ClassifierSpec(path).is_directory:
            raise InputError(f"an ensemble needs directories of trained classifiers, got {path}")
        member = load_classifier(path)
        actual, expected = (member.image_shape, member.num_classes), (image_shape, num_classes)
        if actual != expected:
            raise InputError(
                f"{path} takes images {actual[0]} of {actual[1]} classes, expected {expected[0]} of {expected[1]} "
                "in the ensemble"
            )
        if None not in (classes, member.classes) and tuple(classes or ()) != member.classes:
            raise InputError(f"{path} has classes {listing(member.classes, 4)}, expected {listing(classes or (), 4)}")
        members.append(adaptive(member).to(device).eval())
    return members
