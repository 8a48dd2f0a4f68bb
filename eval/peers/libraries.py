"""The same attacks in other libraries, set up for the same work: what `eval/speed.py` races against.

Each is called in the cheapest way its public interface has, on a target that is frozen and in eval mode already. Within
the linf ball of radius eps: fgsm; ifgsm, 10 steps of eps/10; pgd, 40 steps of eps/30 from a random start. And deepfool
in l2, at most 50 steps, overshoot 0.02.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module, metadata
from types import ModuleType
from typing import Any

import torch
from torch import nn

from advgan.attacks import Bound
from advgan.evaluation.runner import device_of

Attacks = dict[str, Bound]  # section of the benchmark -> (x, y) -> x_adv
Make = Callable[[nn.Module, float, tuple[int, ...], int], Attacks]  # model, eps, image shape (c, h, w), classes


def foolbox(model: nn.Module, eps: float, image_shape: tuple[int, ...], num_classes: int) -> Attacks:
    library = import_module("foolbox")
    attacks, criterion = import_module("foolbox.attacks"), library.criteria.Misclassification
    lent = library.PyTorchModel(model, bounds=(0, 1), device=device_of(model))

    def run(attack: Any, **radius: float) -> Bound:  # to call the attack itself adds a forward that checks the answer
        return lambda x, y: attack.run(lent, x, criterion(y), **radius)

    return {
        "fgsm": run(attacks.LinfFastGradientAttack(), epsilon=eps),
        "ifgsm": run(attacks.LinfBasicIterativeAttack(rel_stepsize=1 / 10, steps=10), epsilon=eps),
        "pgd": run(attacks.LinfProjectedGradientDescentAttack(rel_stepsize=1 / 30, steps=40), epsilon=eps),
        "deepfool": run(attacks.L2DeepFoolAttack(steps=50, candidates=10, overshoot=0.02)),
    }


def torchattacks(model: nn.Module, eps: float, image_shape: tuple[int, ...], num_classes: int) -> Attacks:
    library = import_module("torchattacks")
    return {
        "fgsm": library.FGSM(model, eps=eps),
        "ifgsm": library.BIM(model, eps=eps, alpha=eps / 10, steps=10),
        "pgd": library.PGD(model, eps=eps, alpha=eps / 30, steps=40, random_start=True),
        "deepfool": library.DeepFool(model, steps=50, overshoot=0.02),
    }


def art(model: nn.Module, eps: float, image_shape: tuple[int, ...], num_classes: int) -> Attacks:
    evasion = import_module("art.attacks.evasion")
    lent = import_module("art.estimators.classification").PyTorchClassifier(
        model=model,
        loss=nn.CrossEntropyLoss(),
        input_shape=image_shape,
        nb_classes=num_classes,
        clip_values=(0, 1),
        device_type="gpu" if device_of(model).type == "cuda" else "cpu",
    )

    def run(attack: Any) -> Bound:  # it takes and gives arrays
        return lambda x, y: torch.as_tensor(attack.generate(x=x.cpu().numpy(), y=y.cpu().numpy())).to(x)

    whole: dict[str, Any] = {"batch_size": 10**6}  # as many as it is given
    quiet = whole | {"verbose": False}
    return {
        "fgsm": run(evasion.FastGradientMethod(lent, eps=eps, **whole)),
        "ifgsm": run(evasion.BasicIterativeMethod(lent, eps=eps, eps_step=eps / 10, max_iter=10, **quiet)),
        "pgd": run(
            evasion.ProjectedGradientDescent(lent, eps=eps, eps_step=eps / 30, max_iter=40, num_random_init=1, **quiet)
        ),
        "deepfool": run(evasion.DeepFool(lent, max_iter=50, epsilon=0.02, nb_grads=10, **quiet)),
    }


def adv_lib(model: nn.Module, eps: float, image_shape: tuple[int, ...], num_classes: int) -> Attacks:
    # To import it takes the plotting client visdom, for a logger that no attack here is given. visdom cannot be built
    # with setuptools 82 or newer: where it is missing, an empty module stands in.
    try:
        import_module("visdom")
    except ImportError:
        sys.modules["visdom"] = ModuleType("visdom")
    pgd = import_module("adv_lib.attacks.projected_gradient_descent").pgd_linf
    deepfool = import_module("adv_lib.attacks.deepfool").df
    return {
        "pgd": lambda x, y: pgd(model, x, y, ε=eps, steps=40, relative_step_size=1 / 30),
        "deepfool": lambda x, y: deepfool(model, x, y, steps=50, overshoot=0.02),
    }


@dataclass(frozen=True)
class Peer:
    """A library: what makes its attacks, its name as a distribution, and how to get it."""

    make: Make
    distribution: str
    command: str = "pip install -e '.[bridges]'"


PEERS: dict[str, Peer] = {
    "foolbox": Peer(foolbox, "foolbox"),
    "torchattacks": Peer(torchattacks, "torchattacks"),
    "art": Peer(art, "adversarial-robustness-toolbox"),
    "adv-lib": Peer(adv_lib, "adv-lib", "pip install --no-deps adv-lib"),
}


def invite(
    names: list[str], model: nn.Module, eps: float, image_shape: tuple[int, ...], num_classes: int
) -> tuple[dict[str, Attacks], dict[str, str]]:
    """The peers that can take part, "name version" -> attacks, and those that cannot, name -> why."""
    present: dict[str, Attacks] = {}
    absent: dict[str, str] = {}
    for name in names:
        peer = PEERS[name]
        try:
            title = f"{name} {metadata.version(peer.distribution)}"
            present[title] = peer.make(model, eps, image_shape, num_classes)
        except metadata.PackageNotFoundError:
            absent[name] = f"not installed: {peer.command}"
        except Exception as error:  # another library may fail at anything
            absent[name] = f"cannot be used: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return present, absent
