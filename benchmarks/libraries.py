"""The same attacks in other libraries, with the same settings, for `benchmarks/speed.py`.

Each is called in the cheapest way of its public interface (by advgan/bridges, where there is a bridge). Within
the ball of radius eps: fgsm; ifgsm, 10 steps of eps/10; pgd, 40 steps of eps/30 from a random start. And deepfool in
l2, at most 50 steps, overshoot 0.02. Of one library also pgd10, 10 steps of eps/4.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module, metadata
from types import ModuleType

from torch import nn

from advgan.attacks import AttackFn, make_attack, parse_attack
from advgan.core.errors import InputError
from advgan.core.threat_model import Threat

Attacks = dict[str, AttackFn]  # section of the benchmark -> (x, y) -> x_adv
AttackFactory = Callable[[nn.Module, Threat, int | None], Attacks]  # model, ball, target class


def make_bounded_attacks(model: nn.Module, threat: Threat, y_target: int | None, **specs: str) -> Attacks:
    """The attacks, by section, that support the ball and the target class."""
    attacks: Attacks = {}
    for section, spec in {section: parse_attack(text) for section, text in specs.items()}.items():
        try:
            attacks[section] = make_attack(spec, model, threat, y_target)
        except InputError:
            continue
    return attacks


def foolbox(model: nn.Module, threat: Threat, y_target: int | None) -> Attacks:
    norm = {"linf": "Linf", "l2": "L2"}[threat.norm]
    return make_bounded_attacks(
        *(model, threat, y_target),
        fgsm=f"foolbox:{norm}FastGradientAttack",
        ifgsm=f"foolbox:{norm}BasicIterativeAttack:rel_stepsize=1/10:steps=10",
        pgd=f"foolbox:{norm}ProjectedGradientDescentAttack:rel_stepsize=1/30:steps=40",
        deepfool="foolbox:L2DeepFoolAttack:steps=50:candidates=10:overshoot=0.02",
    )


def torchattacks(model: nn.Module, threat: Threat, y_target: int | None) -> Attacks:
    return make_bounded_attacks(
        *(model, threat, y_target),
        fgsm="torchattacks:FGSM",
        ifgsm=f"torchattacks:BIM:alpha={threat.eps / 10!r}:steps=10",
        pgd=f"torchattacks:PGD:alpha={threat.eps / 30!r}:steps=40:random_start=true",
        pgd10=f"torchattacks:PGD:alpha={threat.eps / 4!r}:steps=10:random_start=true",
        deepfool="torchattacks:DeepFool:steps=50:overshoot=0.02",
    )


def art(model: nn.Module, threat: Threat, y_target: int | None) -> Attacks:
    return make_bounded_attacks(
        *(model, threat, y_target),
        fgsm="art:FastGradientMethod",
        ifgsm=f"art:BasicIterativeMethod:eps_step={threat.eps / 10!r}:max_iter=10",
        pgd=f"art:ProjectedGradientDescent:eps_step={threat.eps / 30!r}:max_iter=40:num_random_init=1",
        deepfool="art:DeepFool:max_iter=50:epsilon=0.02:nb_grads=10",
    )


def adv_lib(model: nn.Module, threat: Threat, y_target: int | None) -> Attacks:
    # Its import needs the plotting client visdom, for a logger that is not used here. visdom cannot be built with
    # setuptools 82 or newer: an empty module replaces a missing one.
    try:
        import_module("visdom")
    except ImportError:
        sys.modules["visdom"] = ModuleType("visdom")
    pgd = import_module("adv_lib.attacks.projected_gradient_descent").pgd_linf
    deepfool = import_module("adv_lib.attacks.deepfool").df
    attacks: Attacks = {"deepfool": lambda x, y: deepfool(model, x, y, steps=50, overshoot=0.02)}
    if threat.norm == "linf":
        attacks["pgd"] = lambda x, y: pgd(model, x, y, ε=threat.eps, steps=40, relative_step_size=1 / 30)
    return attacks if y_target is None else {}


@dataclass(frozen=True)
class Library:
    """A library: the factory of its attacks, the name of its distribution, and the command that installs it."""

    factory: AttackFactory
    distribution: str
    command: str = "pip install -e '.[bridges]'"


LIBRARIES: dict[str, Library] = {
    "foolbox": Library(foolbox, "foolbox"),
    "torchattacks": Library(torchattacks, "torchattacks"),
    "art": Library(art, "adversarial-robustness-toolbox"),
    "adv-lib": Library(adv_lib, "adv-lib", "pip install --no-deps adv-lib"),
}


def load_attacks(
    names: list[str], section: str, model: nn.Module, threat: Threat, y_target: int | None = None
) -> tuple[Attacks, dict[str, str]]:
    """The attacks of a section by library, "name version" -> attack, and the libraries without one, -> reason."""
    present: Attacks = {}
    absent: dict[str, str] = {}
    for name in names:
        peer = LIBRARIES[name]
        try:
            title = f"{name} {metadata.version(peer.distribution)}"
            attacks = peer.factory(model, threat, y_target)
        except metadata.PackageNotFoundError:
            absent[name] = f"not installed: {peer.command}"
        except Exception as error:  # another library may fail at anything
            absent[name] = f"cannot be used: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        else:
            if section in attacks:
                present[title] = attacks[section]
            else:
                absent[title] = "has no such attack"
    return present, absent
