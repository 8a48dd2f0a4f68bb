"""Other libraries' attacks as rows of ours: foolbox:LinfPGD:steps=40, torchattacks:AutoAttack, art:DeepFool."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from advgan.attacks.common import check_images, frozen_eval
from advgan.attacks.registry import LIBRARIES, Attack
from advgan.bridges.base import Call, Kind, read_settings
from advgan.core.errors import InputError
from advgan.core.threat_model import Threat


def parse(text: str) -> tuple[str, dict[str, Any]]:
    """ "foolbox:LinfPGD" and its settings, from "foolbox:LinfPGD:steps=40:rel_stepsize=1/30".

    Settings have the library's own names; eps and norm are the threat's. Raises InputError for a library that is not
    installed, an attack that it has not (the nearest are said), or settings that it does not take.
    """
    library, _, rest = text.partition(":")
    name, *words = rest.split(":")
    module = _bridge(library)
    known = module.attacks()
    if name not in known:
        lower = {each.lower(): each for each in known}
        near = [lower[each] for each in get_close_matches(name.lower(), lower, n=3, cutoff=0.5)] or sorted(known)
        raise InputError(f"unknown attack {name!r} of {library}, expected some of {', '.join(near)}")
    settings = read_settings(f"{library}:{name}", known[name], words, module.GIVEN)
    _kind(f"{library}:{name}", settings)
    return f"{library}:{name}", settings


def attack(name: str, settings: dict[str, Any]) -> Attack:
    """What the words that `parse` took apart stand for. It draws from torch's, numpy's and Python's own randomness."""
    kind = _kind(name, settings)
    run = Foreign(name, settings, kind)
    return Attack(run, kind.protocol, kind.norm, kind.targeted, kind.access, random=True, handles_rejection=False)


class Foreign:
    """Called like each of our attacks. The library's own is made at the first images, and kept."""

    def __init__(self, name: str, settings: dict[str, Any], kind: Kind) -> None:
        self.name, self.settings, self.kind = name, settings, kind
        self.made: dict[tuple[Any, ...], Call] = {}

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
        """x_adv like `x`, as the library gives it: whether it is in the ball is for the harness to say."""
        check_images(x)
        seed = int(torch.randint(2**31, (1,), generator=rng, device=rng.device if rng else None))
        with lent(model), seeded(seed, x.device), torch.enable_grad():
            key = (model, x.device, eps, norm, y_target is None)
            if key not in self.made:
                self.made = {key: self._make(model, x, eps, norm, y_target is not None, seed)}
            if not len(x):
                return x.clone()
            x_adv: Tensor = self.made[key](x, y, y_target)
        return x_adv.detach().to(x)

    def _make(self, model: nn.Module, x: Tensor, eps: float, norm: str | None, targeted: bool, seed: int) -> Call:
        library, _, name = self.name.partition(":")
        module, within = _bridge(library), "l2" if self.kind.norm == "l0" else norm or self.kind.norm
        threat = Threat(within, eps, targeted)  # type: ignore[arg-type]
        with _their_words(self.name):
            found: Call = module.build(module.attacks()[name], self.settings, model, x, threat, seed)
        return found


@contextmanager
def lent(model: nn.Module) -> Iterator[None]:
    """`frozen_eval`, and no gradients of its own to be lost: libraries clear them."""
    kept = [(parameter, parameter.grad) for parameter in model.parameters()]
    try:
        for parameter, _ in kept:
            parameter.grad = None
        with frozen_eval(model):
            yield
    finally:
        for parameter, gradient in kept:
            parameter.grad = gradient


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Everybody's global randomness begun anew from `seed`, and afterwards as it was."""
    python, arrays = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            torch.manual_seed(seed)
            np.random.seed(seed)
            random.seed(seed)
            yield
        finally:
            random.setstate(python)
            np.random.set_state(arrays)


@contextmanager
def _their_words(name: str) -> Iterator[None]:
    """What a library says against its settings, as our InputError."""
    try:
        yield
    except Exception as error:  # another library may fail at anything
        reason = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        raise InputError(f"attack {name} cannot be: {reason}") from error


def _kind(name: str, settings: dict[str, Any]) -> Kind:
    library, _, own = name.partition(":")
    module = _bridge(library)
    with _their_words(name):
        found: Kind = module.kind(module.attacks()[own], settings)
    return found


def _bridge(library: str) -> Any:
    return import_module(f"advgan.bridges.{library}")


for _library in ("foolbox", "torchattacks", "art"):
    LIBRARIES[_library] = (parse, attack)
