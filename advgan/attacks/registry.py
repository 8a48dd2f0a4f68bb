"""The attacks by the names they have on the command line and in every report, and their settings: pgd:steps=100."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args, get_type_hints

import torch
from torch import Tensor, nn

from advgan.attacks.apgd import apgd
from advgan.attacks.carlini_wagner import carlini_wagner
from advgan.attacks.deepfool import deepfool
from advgan.attacks.fgsm import fgsm
from advgan.attacks.hopskipjump import hopskipjump
from advgan.attacks.ifgsm import ifgsm, ifgsm_corner, ifgsm_projected
from advgan.attacks.jsma import jsma
from advgan.attacks.lbfgs import lbfgs
from advgan.attacks.mifgsm import mifgsm
from advgan.attacks.noise import noise_gaussian, noise_sign, noise_uniform
from advgan.attacks.pgd import pgd
from advgan.attacks.square import square
from advgan.attacks.warmstart import advgan
from advgan.errors import InputError
from advgan.generator import Generator
from advgan.settings import parse_fraction
from advgan.threat import Threat

Protocol = Literal["bounded", "minimal-norm"]
Access = Literal["nothing", "gradients", "scores", "decisions", "generator", "transfer"]
Bound = Callable[[Tensor, Tensor], Tensor]  # (x, y) -> x_adv: all that the harness sees of an attack
CALL = {"model", "x", "y", "eps", "norm", "y_target", "rng", "generator"}  # arguments that are not an attack's settings


@dataclass(frozen=True)
class Attack:
    """What a name stands for.

    protocol   "bounded": does its worst inside the ball; "minimal-norm": looks for the smallest delta, however large
    norm       the one norm it was made for; None: takes the threat's as `norm=`
    targeted   whether it can aim at a class
    access     what it uses of the target while it attacks: "nothing" (noise), its "gradients", "scores" (logits),
               "decisions", or what a trained "generator" has learned of it ("transfer": what another model has)
    random     whether it draws from `rng`
    """

    run: Callable[..., Tensor]
    protocol: Protocol = "bounded"
    norm: str | None = None
    targeted: bool = True
    access: Access = "gradients"
    random: bool = False


ATTACKS: dict[str, Attack] = {
    "noise-uniform": Attack(noise_uniform, access="nothing", random=True),
    "noise-gaussian": Attack(noise_gaussian, access="nothing", random=True),
    "noise-sign": Attack(noise_sign, access="nothing", random=True),
    "fgsm": Attack(fgsm),
    "ifgsm": Attack(ifgsm),
    "ifgsm-projected": Attack(ifgsm_projected),
    "ifgsm-corner": Attack(ifgsm_corner),
    "mifgsm": Attack(mifgsm),
    "pgd": Attack(pgd, random=True),
    "apgd-ce": Attack(partial(apgd, loss="cross-entropy"), random=True),
    "apgd-dlr": Attack(partial(apgd, loss="dlr"), random=True),
    "square": Attack(square, access="scores", random=True),
    "deepfool": Attack(deepfool, "minimal-norm", "l2", targeted=False),
    "deepfool-linf": Attack(partial(deepfool, norm="linf"), "minimal-norm", "linf", targeted=False),
    "carlini-wagner": Attack(carlini_wagner, "minimal-norm", "l2"),
    "lbfgs": Attack(lbfgs, "minimal-norm", "l2"),
    "jsma": Attack(jsma, "minimal-norm", "l0"),
    "hopskipjump": Attack(hopskipjump, "minimal-norm", "l2", access="decisions", random=True),
    "hopskipjump-linf": Attack(
        partial(hopskipjump, norm="linf"), "minimal-norm", "linf", access="decisions", random=True
    ),
    "advgan": Attack(advgan, access="generator"),
}


@dataclass(frozen=True)
class Spec:
    """An attack as it was asked for: `label` "pgd:steps=100", its registered `name` and its settings."""

    label: str
    name: str
    settings: dict[str, Any]

    @property
    def attack(self) -> Attack:
        return ATTACKS[self.name]

    @property
    def access(self) -> Access:
        """What it uses of the target: gradient steps after a generator's pass do, and draws until one fools it do."""
        if self.name == "advgan" and self.settings.get("steps"):
            return "gradients"
        return "decisions" if self.settings.get("draws", 1) > 1 else self.attack.access


def parse_attack(text: str) -> Spec:
    """`name` or `name:setting=value:setting=value`, like "pgd:steps=100:loss=dlr" or "noise-sign:magnitude=8/255".

    Raises InputError for an unknown name, an unknown setting, or a value of another type than the setting has.
    """
    name, *words = text.split(":")
    if name not in ATTACKS:
        raise InputError(f"unknown attack {name!r}, expected some of {', '.join(ATTACKS)}")
    run = ATTACKS[name].run
    function = run.func if isinstance(run, partial) else run
    fixed = run.keywords if isinstance(run, partial) else {}
    hints, known = get_type_hints(function), [k for k in inspect.signature(function).parameters if k not in CALL]
    settings = {}
    for word in words:
        key, equals, value = word.partition("=")
        key = key.replace("-", "_")
        if key not in known or key in fixed or not equals:
            wanted = ", ".join(k for k in known if k not in fixed) or "none"
            raise InputError(f"attack {name} cannot take {word!r}, expected setting=value with settings {wanted}")
        settings[key] = _value(value, hints[key], f"{name}:{key}")
    return Spec(text, name, settings)


def _value(text: str, hint: Any, where: str) -> Any:
    """`text` as the type that an attack's setting declares: a number, a switch, or one of some words."""
    options = [option for option in get_args(hint) if option is not type(None)] or [hint]
    try:
        if bool in options:
            return {"true": True, "false": False}[text.lower()]
        if int in options:
            return int(text)
        if float in options:
            return parse_fraction(text)
    except (ValueError, KeyError):
        kind = next(option.__name__ for option in (bool, int, float) if option in options)
        raise InputError(f"{where} must be of type {kind}, got {text!r}") from None
    if str not in options and text not in options:
        raise InputError(f"{where} must be one of {', '.join(map(str, options))}, got {text!r}")
    return text


def bind(
    attack: str | Spec,
    model: nn.Module,
    threat: Threat,
    y_target: int | None = None,
    rng: torch.Generator | None = None,
    generator: Generator | None = None,
) -> Bound:
    """An attack on `model` under `threat`, as a function (x, y) -> x_adv. Raises InputError if it cannot be.

    attack      a `Spec`, or text that `parse_attack` reads
    generator   of attack advgan, which needs one
    """
    spec = parse_attack(attack) if isinstance(attack, str) else attack
    if y_target is not None and not spec.attack.targeted:
        raise InputError(f"attack {spec.name} cannot aim at a class, expected no y_target, got {y_target}")
    fixed: dict[str, Any] = {**spec.settings} if spec.attack.norm else {**spec.settings, "norm": threat.norm}
    if spec.name == "advgan":
        if generator is None:
            raise InputError("attack advgan needs a trained generator, expected --generator DIR, got none")
        fixed["generator"] = generator

    def run(x: Tensor, y: Tensor) -> Tensor:
        aim = None if y_target is None else torch.full_like(y, y_target)
        return spec.attack.run(model, x, y, eps=threat.eps, y_target=aim, rng=rng, **fixed)

    return run
