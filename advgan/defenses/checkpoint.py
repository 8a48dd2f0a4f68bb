"""A classifier from disk, with the defences that were saved with it and those that are asked for."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from advgan.classifiers import TARGETS, ImageShape, Target
from advgan.classifiers.checkpoint import build_and_fill, build_configured, check_config, read_target
from advgan.classifiers.external import load_external, source_of
from advgan.core.config import BY_ORDER
from advgan.core.errors import InputError, listing
from advgan.core.shipped import CLASSIFIER
from advgan.core.spec_strings import parse_call
from advgan.defenses.base import Defended, adaptive
from advgan.defenses.ensemble import Ensemble
from advgan.defenses.registry import DEFENSES

M = TypeVar("M", bound=nn.Module)
MAX_PARTS = 100  # classifiers and defences that one config.json may hold


def defend(model: M, words: str | None) -> M | Defended:
    """`model` behind the defences that `words` name, each with settings after colons, from the inside out: in "a+b" b
    stands around a, and sees the image first. None is none.

    Raises InputError for an unknown name, an unknown setting, or a value that a defence cannot take.
    """
    found: M | Defended = model
    for word in words.split("+") if words else ():
        name, settings = parse_call(word, DEFENSES, {"inner"}, "defense")
        if issubclass(DEFENSES[name], Ensemble):
            settings = {"members": _read_members(name, settings.get("members", ""))}
        found = DEFENSES[name](found, **settings)
    found.eval()
    return found


def _read_members(defense: str, directories: str) -> list[nn.Module]:
    """The saved classifiers of "DIR,DIR". Raises InputError for what is no directory."""
    paths = [path.strip() for path in directories.split(",") if path.strip()]
    for path in paths:
        if not os.path.isdir(path):
            raise InputError(f"{defense}:members must be directories of saved classifiers, got {path!r}")
    return [load_classifier(path) for path in paths]


def load_classifier(
    name: str,
    weights: Path | str | None = None,
    defense: str | None = None,
    *,
    image_shape: ImageShape | None = None,
    num_classes: int | None = None,
    by_order: bool = False,
) -> Any:
    """`load_target`, with the defences that `save_target` wrote down and, around them, `defense` (as in `defend`).

    In place of a name and weights, the directory of a saved classifier says both, and a name of another source
    (`advgan.classifiers.external`) needs no weights. In eval mode, frozen. Raises InputError as all of them.
    """
    if by_order and weights is not None and not str(weights).endswith(BY_ORDER):
        weights = f"{weights}{BY_ORDER}"
    if source_of(name):
        other = load_external(name, weights, image_shape=image_shape, num_classes=num_classes)
        return defend(other, defense).requires_grad_(False)
    where = (None, name) if is_directory(name, weights) else (name, weights)
    config, file, ordered = read_target(*where)
    model = build_and_fill(partial(rebuild, config, image_shape, num_classes), file, by_order=ordered)
    return defend(model, defense).requires_grad_(False)


def rebuild(
    config: Mapping[str, Any], image_shape: ImageShape | None = None, num_classes: int | None = None
) -> Target | Defended:
    """The classifier and its defences that `config` describes, with other weights than it had. Raises InputError for
    what describes none, before anything is built.
    """
    check_defenses(config)
    model: Target | Defended = build_configured(config, image_shape, num_classes)
    for saved in config.get("defenses", []):
        kind, settings = DEFENSES[saved["name"]], saved["settings"]
        if issubclass(kind, Ensemble):
            model = kind(model, [rebuild(member) for member in settings["members"]])
        else:
            model = kind.restore(model, settings)
    return model


def check_defenses(config: Any) -> None:
    """Raise InputError unless `config`, of a classifier, and those of the members of its ensembles have defences that
    there are, with settings that they take; at most MAX_PARTS classifiers and defences in all.
    """
    todo, parts = [config], 0
    while todo:
        member = todo.pop()
        check_config(member, "config.json")
        defenses = member.get("defenses", [])
        parts += 1 + len(defenses)
        if parts > MAX_PARTS:
            raise InputError(f"config.json has more than {MAX_PARTS} classifiers and defences")
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


def default_weights(target: str, weights: Path | None, default: Path = CLASSIFIER) -> Path | None:
    """The weights of a program's `target`: as given, else `default`; None for one that has its own."""
    own = is_directory(target, weights) or source_of(target)
    return weights if own else weights or default


def needs_weights(name: str) -> bool:
    """Whether a classifier's name says nothing of its weights: it is no directory, and of no other source."""
    return not is_directory(name, None) and not source_of(name)


def is_directory(name: str, weights: Path | str | None) -> bool:
    """Whether `name` is where a classifier lies, not what it is called. Raises InputError for weights beside that."""
    if name in TARGETS or source_of(name) or not os.path.isdir(name):
        return False
    if weights is not None:
        raise InputError(f"the directory {name} holds its own weights, expected no others, got {weights}")
    return True


def load_members(
    paths: Sequence[str],
    image_shape: ImageShape,
    num_classes: int,
    device: torch.device,
    classes: Sequence[str] | None = None,
) -> list[nn.Module]:
    """The trained classifiers in the directories `paths`, frozen: members of an ensemble.

    Raises InputError for what is no such directory, and for classifiers of other images or classes: of another number,
    or, where `classes` are given and saved, of other names or in another order.
    """
    found: list[nn.Module] = []
    for path in paths:
        if not is_directory(path, None):
            raise InputError(f"an ensemble needs directories of trained classifiers, got {path}")
        member = load_classifier(path)
        own, wanted = (member.image_shape, member.num_classes), (image_shape, num_classes)
        if own != wanted:
            raise InputError(
                f"{path} takes images {own[0]} of {own[1]} classes, expected {wanted[0]} of {wanted[1]} in the ensemble"
            )
        if None not in (classes, member.classes) and tuple(classes or ()) != member.classes:
            raise InputError(f"{path} has classes {listing(member.classes, 4)}, expected {listing(classes or (), 4)}")
        found.append(adaptive(member).to(device).eval())
    return found
