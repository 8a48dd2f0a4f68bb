"""The attacks by the names they have on the command line and in every report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from advgan.attacks.deepfool import deepfool
from advgan.attacks.fgsm import fgsm
from advgan.attacks.ifgsm import ifgsm, ifgsm_projected
from advgan.attacks.noise import noise_sign, noise_uniform
from advgan.errors import InputError
from advgan.threat import Threat

Protocol = Literal["bounded", "minimal-norm"]
Bound = Callable[[Tensor, Tensor], Tensor]  # (x, y) -> x_adv: all that the harness sees of an attack


@dataclass(frozen=True)
class Attack:
    """What a name stands for.

    protocol   "bounded": does its worst inside the ball; "minimal-norm": looks for the smallest delta, however large
    norm       the one norm it was made for; None: takes the threat's as `norm=`
    targeted   whether it can aim at a class
    """

    run: Callable[..., Tensor]
    protocol: Protocol = "bounded"
    norm: str | None = None
    targeted: bool = True


ATTACKS: dict[str, Attack] = {
    "noise-uniform": Attack(noise_uniform),
    "noise-sign": Attack(noise_sign),
    "fgsm": Attack(fgsm),
    "ifgsm": Attack(ifgsm),
    "ifgsm-projected": Attack(ifgsm_projected),
    "deepfool": Attack(deepfool, "minimal-norm", "l2", targeted=False),
    "deepfool-linf": Attack(partial(deepfool, norm="linf"), "minimal-norm", "linf", targeted=False),
}


def bind(
    name: str, model: nn.Module, threat: Threat, y_target: int | None = None, rng: torch.Generator | None = None
) -> Bound:
    """Attack `name` on `model` under `threat`, as a function (x, y) -> x_adv. Raises InputError if it cannot be."""
    if name not in ATTACKS:
        raise InputError(f"unknown attack {name!r}, expected some of {', '.join(ATTACKS)}")
    attack = ATTACKS[name]
    if y_target is not None and not attack.targeted:
        raise InputError(f"attack {name} cannot aim at a class, expected no y_target, got {y_target}")
    norm = {} if attack.norm else {"norm": threat.norm}

    def run(x: Tensor, y: Tensor) -> Tensor:
        aim = None if y_target is None else torch.full_like(y, y_target)
        return attack.run(model, x, y, eps=threat.eps, y_target=aim, rng=rng, **norm)

    return run
