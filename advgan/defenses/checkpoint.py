"""A classifier from disk, with the defences that were saved with it and those that are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from advgan.defenses.base import Defended, adaptive
from advgan.defenses.registry import DEFENSES, defend
from advgan.errors import InputError
from advgan.targets import TARGETS, ImageShape, Target, build_target
from advgan.targets.checkpoint import fill, read_target, shapes
from advgan.targets.others import load_other, source_of


def load_classifier(
    name: str,
    weights: Path | str | None = None,
    defense: str | None = None,
    *,
    image_shape: ImageShape | None = None,
    num_classes: int | None = None,
) -> Any:
    """`load_target`, with the defences that `save_target` wrote down and, around them, `defense` (as in `defend`).

    In place of a name and weights, the directory of a saved classifier says both, and a name of another source
    (`advgan.targets.others`) needs no weights. In eval mode, frozen. Raises InputError as all of them.
    """
    if source_of(name):
        other = load_other(name, weights, image_shape=image_shape, num_classes=num_classes)
        return defend(other, defense).requires_grad_(False)
    config, state, file = read_target(None, name) if is_directory(name, weights) else read_target(name, weights)
    model = fill(rebuild(config, image_shape, num_classes), state, file)
    return defend(model, defense).requires_grad_(False)


def rebuild(
    config: dict[str, Any], image_shape: ImageShape | None = None, num_classes: int | None = None
) -> Target | Defended:
    """The classifier and its defences that `config` describes, with other weights than it had."""
    model: Target | Defended = build_target(config["name"], *shapes(config, image_shape, num_classes))
    for saved in config.get("defenses", []):
        model = DEFENSES[saved["name"]].restore(model, saved["settings"])
    return model


def weights_of(target: str, weights: Path | None, shipped: Path) -> Path | None:
    """The weights of a program's `target`: as given, else the `shipped` ones; None for one that has its own."""
    own = is_directory(target, weights) or source_of(target)
    return weights if own else weights or shipped


def needs_weights(name: str) -> bool:
    """Whether a classifier's name says nothing of its weights: it is no directory, and of no other source."""
    return not is_directory(name, None) and not source_of(name)


def is_directory(name: str, weights: Path | str | None) -> bool:
    """Whether `name` is where a classifier lies, not what it is called. Raises InputError for weights beside that."""
    if name in TARGETS or source_of(name) or not Path(name).is_dir():
        return False
    if weights is not None:
        raise InputError(f"the directory {name} holds its own weights, expected no others, got {weights}")
    return True


def load_members(
    paths: Sequence[str], image_shape: ImageShape, num_classes: int, device: torch.device
) -> list[nn.Module]:
    """The trained classifiers in the directories `paths`, frozen: members of an ensemble.

    Raises InputError for what is no such directory, and for classifiers of other images or classes.
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
        found.append(adaptive(member).to(device).eval())
    return found
