"""The attacks by the names they have on the command line and in every report, and their settings: pgd:steps=100."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from advgan.attacks.advgan import advgan
from advgan.attacks.apgd import apgd
from advgan.attacks.carlini_wagner import carlini_wagner, carlini_wagner_clipped
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
from advgan.core.errors import InputError
from advgan.core.spec_strings import parse_call
from advgan.core.threat_model import Threat, View
from advgan.models.generator import Generator

Protocol = Literal["bounded", "minimal-norm"]
Access = Literal["nothing", "gradients", "scores", "decisions", "generator", "transfer"]
AttackFn = Callable[[Tensor, Tensor], Tensor]  # (x, y) -> x_adv: all that the harness sees of an attack
# Library -> its parser "foolbox:LinfPGD:steps=40" -> (name, settings), and its maker (name, settings) -> Attack;
# `advgan.bridges` registers them.
LIBRARIES: dict[str, tuple[Callable[[str], tuple[str, dict[str, Any]]], Callable[[str, dict[str, Any]], Attack]]] = {}
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
    evasive    whether it also looks to be answered, where the target can reject
    """

    run: Callable[..., Tensor]
    protocol: Protocol = "bounded"
    norm: str | None = None
    targeted: bool = True
    access: Access = "gradients"
    random: bool = False
    evasive: bool = True


ATTACKS: dict[str, Attack] = {
    "noise-uniform": Attack(noise_uniform, access="nothing", random=True, evasive=False),
    "noise-gaussian": Attack(noise_gaussian, access="nothing", random=True, evasive=False),
    "noise-sign": Attack(noise_sign, access="nothing", random=True, evasive=False),
    "fgsm": Attack(fgsm),
    "ifgsm": Attack(ifgsm),
    "ifgsm-projected": Attack(ifgsm_projected),
    "ifgsm-corner": Attack(ifgsm_corner),
    "mifgsm": Attack(mifgsm),
    "pgd": Attack(pgd, random=True),
    "apgd-ce": Attack(partial(apgd, loss="cross-entropy"), random=True),
    "apgd-dlr": Attack(partial(apgd, loss="dlr"), random=True),
    "square": Attack(square, access="scores", random=True),
    "deepfool": Attack(deepfool, "minimal-norm", "l2", targeted=False, evasive=False),
    "deepfool-linf": Attack(partial(deepfool, norm="linf"), "minimal-norm", "linf", targeted=False, evasive=False),
    "carlini-wagner": Attack(carlini_wagner, "minimal-norm", "l2"),
    "carlini-wagner-clipped": Attack(carlini_wagner_clipped),
    "lbfgs": Attack(lbfgs, "minimal-norm", "l2", evasive=False),
    "jsma": Attack(jsma, "minimal-norm", "l0", evasive=False),
    "hopskipjump": Attack(hopskipjump, "minimal-norm", "l2", access="decisions", random=True),
    "hopskipjump-linf": Attack(
        partial(hopskipjump, norm="linf"), "minimal-norm", "linf", access="decisions", random=True
    ),
    "advgan": Attack(advgan, access="generator"),
}


@dataclass(frozen=True)
class Spec:
    """An attack as it was asked for: `label` "pgd:steps=100", its `name` (with the library, if not ours), its settings.

    view   what an attack by gradients differentiates where the target is defended: a smooth stand-in of what hides or
           randomises gradients ("adaptive"), the defense as it is ("naive"), or the classifier behind it ("oblivious").
           All other attacks ask the defense as it is
    """

    label: str
    name: str
    settings: dict[str, Any]
    view: View = "naive"

    @property
    def attack(self) -> Attack:
        if self.name in ATTACKS:
            return ATTACKS[self.name]
        _, make = LIBRARIES[self.name.partition(":")[0]]
        return make(self.name, self.settings)

    @property
    def access(self) -> Access:
        """What it uses of the target: gradient steps after a generator's pass do, and draws until one fools it do."""
        if self.name == "advgan" and self.settings.get("steps"):
            return "gradients"
        return "decisions" if self.settings.get("draws", 1) > 1 else self.attack.access


def parse_attack(text: str) -> Spec:
    """`name` or `name:setting=value:setting=value`, like "pgd:steps=100:loss=dlr" or "noise-sign:magnitude=8/255".

    One of another library has that before it, and that library's settings: "foolbox:LinfPGD:steps=100".
    "@naive" or "@oblivious" says what a gradient attack sees of a defended target, see `View`: after the name or at the
    end, "pgd:steps=100@naive", its label. Raises InputError for an unknown name, an unknown setting, or a value
    of another type than the setting has.
    """
    call, at, view = text.partition("@")
    view, colon, settings_after = view.partition(":")
    if colon:
        call = f"{call}:{settings_after}"
        text = f"{call}@{view}"
    if call.partition(":")[0] == "transfer":
        raise InputError("attack 'transfer' is run by --surrogate CLASSIFIER, expected no such name among the attacks")
    if library := LIBRARIES.get(call.partition(":")[0]):
        parse, _ = library
        name, settings = parse(call)
    elif call.partition(":")[0] in ("foolbox", "torchattacks", "art"):
        raise InputError(f"attack {text!r} of another library: expected `import advgan.bridges` first")
    else:
        name, settings = parse_call(call, {name: attack.run for name, attack in ATTACKS.items()}, CALL, "attack")
    spec = Spec(text, name, settings)
    if at and (view not in get_args(View) or spec.access != "gradients"):
        wanted = f"@ and one of {', '.join(get_args(View))} after an attack by gradients"
        raise InputError(f"attack {text!r} has no such view, expected {wanted}")
    if spec.access == "gradients":
        spec = replace(spec, view=view if at else "adaptive")  # type: ignore[arg-type]
    return spec


def make_attack(
    attack: str | Spec,
    model: nn.Module,
    threat: Threat,
    y_target: int | None = None,
    rng: torch.Generator | None = None,
    generator: Generator | None = None,
) -> AttackFn:
    """An attack on `model` under `threat`, as a function (x, y) -> x_adv. Raises InputError if it cannot be.

    attack      a `Spec`, or text that `parse_attack` reads
    generator   of attack advgan, which needs one
    """
    spec = parse_attack(attack) if isinstance(attack, str) else attack
    own = spec.attack
    if y_target is not None and not own.targeted:
        raise InputError(f"attack {spec.name} cannot aim at a class, expected no y_target, got {y_target}")
    if own.protocol == "bounded" and own.norm not in (None, threat.norm):
        raise InputError(f"attack {spec.name} keeps to a ball of {own.norm}, expected no other, got {threat.norm}")
    fixed: dict[str, Any] = dict(spec.settings) if spec.name in ATTACKS else {}  # a library's has its own inside
    if own.norm is None:
        fixed["norm"] = threat.norm
    if spec.name == "advgan":
        if generator is None:
            raise InputError("attack advgan needs a trained generator, expected --generator DIR, got none")
        fixed["generator"] = generator

    def run(x: Tensor, y: Tensor) -> Tensor:
        aim = None if y_target is None else torch.full_like(y, y_target)
        return own.run(model, x, y, eps=threat.eps, y_target=aim, rng=rng, **fixed)

    return run
