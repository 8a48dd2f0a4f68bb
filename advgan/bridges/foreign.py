"""Attacks of other libraries by name: foolbox:LinfPGD:steps=40, torchattacks:AutoAttack, art:DeepFool."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from advgan.attacks.common import check_images, frozen_eval, kept_gradients
from advgan.attacks.registry import LIBRARIES, Attack
from advgan.bridges.base import AttackProperties, Call, read_settings
from advgan.core.errors import InputError
from advgan.core.random_state import preserved_random_states
from advgan.core.threat_model import Threat


def parse(text: str) -> tuple[str, dict[str, Any]]:
    """ "foolbox:LinfPGD" and its settings, from "foolbox:LinfPGD:steps=40:rel_stepsize=1/30".

    Settings have the library's names; eps and norm are the threat's. Raises InputError for a library that is not
    installed, an unknown attack (with similar names), or invalid settings.
    """
    library, _, call = text.partition(":")
    name, *parts = call.split(":")
    module = _bridge(library)
    attacks = module.attacks()
    if name not in attacks:
        by_lower = {attack_name.lower(): attack_name for attack_name in attacks}
        similar = [
            by_lower[attack_name] for attack_name in get_close_matches(name.lower(), by_lower, n=3, cutoff=0.5)
        ] or sorted(attacks)
        raise InputError(f"unknown attack {name!r} of {library}, expected some of {', '.join(similar)}")
    settings = read_settings(f"{library}:{name}", attacks[name], parts, module.RESERVED)
    _kind(f"{library}:{name}", settings)
    return f"{library}:{name}", settings


def attack(name: str, settings: dict[str, Any]) -> Attack:
    """The attack of a parsed name and settings. It uses the global random states of torch, numpy and Python."""
    kind = _kind(name, settings)
    run = ForeignAttack(name, settings, kind)
    return Attack(run, kind.kind, kind.norm, kind.targeted, kind.access, random=True, handles_rejection=False)


class ForeignAttack:
    """An attack function for `Attack.run`; the library's object is built at the first images, and cached."""

    def __init__(self, name: str, settings: dict[str, Any], kind: AttackProperties) -> None:
        self.name, self.settings, self.kind = name, settings, kind
        self.built: dict[tuple[Any, ...], Call] = {}

    def __call__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        eps: float = 1.0,
        norm: str | None = None,
        y_target: Tensor | None = None,
        rng: torch.Generator | None = None,
    ) -> Tensor:
        """x_adv like `x`, as returned by the library; the ball is verified by the evaluation."""
        check_images(x)
        seed = int(torch.randint(2**31, (1,), generator=rng, device=rng.device if rng else None))
        with kept_gradients(model), frozen_eval(model), seeded(seed), torch.enable_grad():  # libraries clear them
            key = (model, x.device, eps, norm, y_target is None)
            if key not in self.built:
                library, _, attack_name = self.name.partition(":")
                module, threat_norm = _bridge(library), "l2" if self.kind.norm == "l0" else norm or self.kind.norm
                threat = Threat(threat_norm, eps, y_target is not None)  # type: ignore[arg-type]
                with _as_input_error(self.name):
                    make = module.attacks()[attack_name]
                    self.built = {key: module.build(make, self.settings, model, x, threat, seed)}
            if not len(x):
                return x.clone()
            x_adv: Tensor = self.built[key](x, y, y_target)
        return x_adv.detach().to(x)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed all global random states with `seed`, and restore them afterwards."""
    with preserved_random_states():
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        yield


@contextmanager
def _as_input_error(name: str) -> Iterator[None]:
    """Exceptions of a library in the block as InputError."""
    try:
        yield
    except Exception as error:  # another library may raise any exception
        reason = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        raise InputError(f"attack {name} cannot be built: {reason}") from error


def _kind(name: str, settings: dict[str, Any]) -> AttackProperties:
    library, _, attack_name = name.partition(":")
    module = _bridge(library)
    with _as_input_error(name):
        kind: AttackProperties = module.kind(module.attacks()[attack_name], settings)
    return kind


def _bridge(library: str) -> Any:
    return import_module(f"advgan.bridges.{library}")


for _library in ("foolbox", "torchattacks", "art"):
    LIBRARIES[_library] = (parse, attack)
