"""Attacks by their names in commands and reports, with settings: pgd:steps=100."""

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
from advgan.attacks.losses import DLR_CLASSES
from advgan.attacks.mifgsm import mifgsm
from advgan.attacks.noise import noise_gaussian, noise_sign, noise_uniform
from advgan.attacks.pgd import pgd
from advgan.attacks.square import square
from advgan.core.errors import InputError
from advgan.core.spec_strings import parse_spec
from advgan.core.threat_model import DefenseKnowledge, Threat
from advgan.models.generator import Generator

AttackKind = Literal["bounded", "minimal-norm"]
AttackerAccess = Literal["nothing", "gradients", "scores", "decisions", "generator", "transfer"]
MINIMAL: AttackKind = "minimal-norm"
AttackFn = Callable[[Tensor, Tensor], Tensor]  # (x, y) -> x_adv
# Library -> its parser "foolbox:LinfPGD:steps=40" -> (name, settings), and its maker (name, settings) -> Attack;
# `advgan.bridges` registers them.
LIBRARIES: dict[str, tuple[Callable[[str], tuple[str, dict[str, Any]]], Callable[[str, dict[str, Any]], Attack]]] = {}
RESERVED_ARGS = {"model", "x", "y", "eps", "norm", "y_target", "rng", "generator"}  # no settings


@dataclass(frozen=True)
class Attack:
    """An attack by name.

    run        (model, x, y, **arguments) -> x_adv; `eps` if bounded, `y_target` if targeted, `rng` if random, `norm` if
               it has none of its own
    kind       "bounded": maximises a loss inside the ball; "minimal-norm": minimises the norm of delta
    norm       the only norm that it supports; None: any
    targeted   whether it supports target classes
    access     of the attacker to the target: "nothing" (noise), "gradients", "scores" (logits), "decisions", a
               "generator" trained on it, or "transfer" from another model
    random     whether it draws from `rng`
    handles_rejection   whether it also lowers the rejection score of a target that can reject
    """

    run: Callable[..., Tensor]
    kind: AttackKind = "bounded"
    norm: str | None = None
    targeted: bool = True
    access: AttackerAccess = "gradients"
    random: bool = False
    handles_rejection: bool = True


ATTACKS: dict[str, Attack] = {
    "noise-uniform": Attack(noise_uniform, access="nothing", random=True, handles_rejection=False),
    "noise-gaussian": Attack(noise_gaussian, access="nothing", random=True, handles_rejection=False),
    "noise-sign": Attack(noise_sign, access="nothing", random=True, handles_rejection=False),
    "fgsm": Attack(fgsm),
    "ifgsm": Attack(ifgsm),
    "ifgsm-projected": Attack(ifgsm_projected),
    "ifgsm-corner": Attack(ifgsm_corner),
    "mifgsm": Attack(mifgsm),
    "pgd": Attack(pgd, random=True),
    "apgd-ce": Attack(partial(apgd, loss="cross-entropy"), random=True),
    "apgd-dlr": Attack(partial(apgd, loss="dlr"), random=True),
    "square": Attack(square, access="scores", random=True),
    "deepfool": Attack(deepfool, MINIMAL, "l2", targeted=False, handles_rejection=False),
    "deepfool-linf": Attack(partial(deepfool, norm="linf"), MINIMAL, "linf", targeted=False, handles_rejection=False),
    "carlini-wagner": Attack(carlini_wagner, MINIMAL, "l2"),
    "carlini-wagner-clipped": Attack(carlini_wagner_clipped),
    "lbfgs": Attack(lbfgs, MINIMAL, "l2", handles_rejection=False),
    "jsma": Attack(jsma, MINIMAL, "l0", handles_rejection=False),
    "hopskipjump": Attack(hopskipjump, MINIMAL, "l2", access="decisions", random=True),
    "hopskipjump-linf": Attack(partial(hopskipjump, norm="linf"), MINIMAL, "linf", access="decisions", random=True),
    "advgan": Attack(advgan, access="generator"),
}


@dataclass(frozen=True)
class AttackSpec:
    """An attack with settings: `label` "pgd:steps=100", `name` (with the library, if another's), `settings`.

    view   the model that a gradient attack differentiates in place of a defended target: BPDA and EOT approximations
           ("adaptive"), the defense itself ("naive"), or the classifier without it ("oblivious"). All other attacks
           query the defense itself
    """

    label: str
    name: str
    settings: dict[str, Any]
    view: DefenseKnowledge = "naive"

    @property
    def attack(self) -> Attack:
        if self.name in ATTACKS:
            return ATTACKS[self.name]
        _, make = LIBRARIES[self.name.partition(":")[0]]
        return make(self.name, self.settings)

    @property
    def access(self) -> AttackerAccess:
        """As `Attack.access`, with gradient steps after a generator's pass and with queries of several noise draws."""
        if self.name == "advgan" and self.settings.get("steps"):
            return "gradients"
        return "decisions" if self.settings.get("draws", 1) > 1 else self.attack.access

    @property
    def least_classes(self) -> int:
        """The classes that a classifier needs to have for its untargeted form."""
        fixed = self.attack.run.keywords if isinstance(self.attack.run, partial) else {}
        return DLR_CLASSES if self.settings.get("loss", fixed.get("loss")) == "dlr" else 2


def parse_attack(text: str) -> AttackSpec:
    """`name` or `name:setting=value:setting=value`, like "pgd:steps=100:loss=dlr" or "noise-sign:magnitude=8/255".

    An attack of another library has its name in front, and that library's settings: "foolbox:LinfPGD:steps=100".
    "@naive" or "@oblivious" after the name or at the end, "pgd:steps=100@naive", is its `DefenseKnowledge`. Raises
    InputError for an unknown name, an unknown setting, or a value of another type than the setting has.
    """
    call, at, view = text.partition("@")
    view, colon, settings_after = view.partition(":")
    if colon:
        call = f"{call}:{settings_after}"
        text = f"{call}@{view}"
    if call.partition(":")[0] == "transfer":
        raise InputError("attack 'transfer' is run by --surrogate CLASSIFIER, expected another attack")
    if library := LIBRARIES.get(call.partition(":")[0]):
        parse, _ = library
        name, settings = parse(call)
    elif call.partition(":")[0] in ("foolbox", "torchattacks", "art"):
        raise InputError(f"attack {text!r} of another library: expected `import advgan.bridges` first")
    else:
        name, settings = parse_spec(
            call, {name: attack.run for name, attack in ATTACKS.items()}, RESERVED_ARGS, "attack"
        )
    spec = AttackSpec(text, name, settings)
    if at and (view not in get_args(DefenseKnowledge) or spec.access != "gradients"):
        expected = f"@ and one of {', '.join(get_args(DefenseKnowledge))} after an attack by gradients"
        raise InputError(f"attack {text!r} has no such view, expected {expected}")
    if spec.access == "gradients":
        spec = replace(spec, view=view if at else "adaptive")  # type: ignore[arg-type]
    return spec


def make_attack(
    attack: str | AttackSpec,
    model: nn.Module,
    threat: Threat,
    y_target: int | None = None,
    rng: torch.Generator | None = None,
    generator: Generator | None = None,
) -> AttackFn:
    """An attack on `model` under `threat`, as a function (x, y) -> x_adv. Raises InputError for an invalid combination.

    attack      an `AttackSpec`, or text that `parse_attack` reads
    generator   of attack advgan, which needs one
    """
    spec = parse_attack(attack) if isinstance(attack, str) else attack
    definition = spec.attack
    if y_target is not None and not definition.targeted:
        raise InputError(f"attack {spec.name} has no targeted form, expected no y_target, got {y_target}")
    if definition.kind == "bounded" and definition.norm not in (None, threat.norm):
        raise InputError(f"attack {spec.name} is for norm {definition.norm}, expected no other, got {threat.norm}")
    # Those of other libraries are inside their attack.
    fixed: dict[str, Any] = dict(spec.settings) if spec.name in ATTACKS else {}
    if definition.kind == "bounded":
        fixed["eps"] = threat.eps
    if definition.norm is None:
        fixed["norm"] = threat.norm
    if definition.random or spec.name == "advgan":
        fixed["rng"] = rng
    if spec.name == "advgan":
        if generator is None:
            expected = "expected --generator DIR, or in Python one Generator among the attacks"
            raise InputError(f"attack advgan needs a trained generator, {expected}, got none")
        fixed["generator"] = generator

    def run(x: Tensor, y: Tensor) -> Tensor:
        targets = {} if y_target is None else {"y_target": torch.full_like(y, y_target)}
        return definition.run(model, x, y, **targets, **fixed)

    return run
