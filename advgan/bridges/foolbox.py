"""Foolbox (Rauber et al. 2020, JOSS 5(53)): our generator as one of its attacks, its attacks as rows of ours."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn

from advgan.attacks.registry import AttackerAccess
from advgan.bridges.base import Call, Kind, parameters
from advgan.core.errors import InputError
from advgan.core.optional import require_package
from advgan.core.threat_model import Threat
from advgan.models.generator import Generator

LIBRARY = require_package("foolbox", "bridges")
BASE = require_package("foolbox.attacks.base", "bridges")
DISTANCES = {name: getattr(LIBRARY.distances, name) for name in ("linf", "l2", "l0")}
FixedEpsilon: Any = BASE.FixedEpsilonAttack

# Ours as theirs


class AdvGAN(FixedEpsilon):
    """One pass of a trained `generator`: `raw, clipped, success = AdvGAN(generator)(fmodel, x, labels, epsilons=0.1)`.

    fmodel      a PyTorchModel with bounds (0, 1), which is asked whether the answers fool it
    x           torch's tensors, or eagerpy's of them
    criterion   labels, Misclassification, or, for a generator of any class or of that one, TargetedMisclassification
    epsilons    one or more, up to the generator's, in its norm

    Raises InputError for anything else.
    """

    def __init__(self, generator: Generator) -> None:
        self.generator = generator

    @property
    def distance(self) -> Any:
        return DISTANCES[self.generator.threat.norm]

    def run(self, model: Any, inputs: Any, criterion: Any, *, epsilon: float, **kwargs: Any) -> Any:
        BASE.raise_if_kwargs(kwargs)
        x, restore = BASE.ep.astensor_(inputs)
        goal, kinds = BASE.get_criterion(criterion), LIBRARY.criteria
        if not isinstance(x.raw, Tensor):
            raise InputError(f"a generator takes torch tensors, got {type(x.raw).__name__}")
        if tuple(model.bounds) != (0, 1):
            raise InputError(f"a generator takes images in [0, 1], expected bounds (0, 1), got {tuple(model.bounds)}")
        if not isinstance(goal, (kinds.Misclassification, kinds.TargetedMisclassification)):
            expected = "Misclassification or TargetedMisclassification"
            raise InputError(f"a generator was trained for {expected}, got {type(goal).__name__}")
        aims = goal.target_classes.raw if isinstance(goal, kinds.TargetedMisclassification) else None
        return restore(BASE.ep.astensor(self.generator.perturb(x.raw, aims, epsilon)))


# Theirs as ours

GIVEN = {"distance", "init_attack"}  # it takes its own first guess
WITHOUT = {"BinarizationRefinementAttack", "DatasetAttack", "PointwiseAttack"}  # want images that fool already
UNTARGETED = {"deepfool", "fast_gradient_method", "newtonfool", "virtual_adversarial_attack"}  # files
ACCESS: dict[str, AttackerAccess] = {
    **dict.fromkeys(("boundary_attack", "hop_skip_jump", "saltandpepper", "blur", "inversion"), "decisions"),
    **dict.fromkeys(("contrast_min", "blended_noise", "additive_noise"), "decisions"),
    **{"contrast": "nothing", "gen_attack": "scores"},
}


def attacks() -> dict[str, Any]:
    """Those that keep to a distance, or look for the smallest, from the clean image alone; with their short names."""
    kinds = (FixedEpsilon, BASE.MinimizationAttack)
    found = {name: make for name, make in vars(LIBRARY.attacks).items() if isinstance(make, type)}
    able = {name: make for name, make in found.items() if issubclass(make, kinds) and not inspect.isabstract(make)}
    return {name: make for name, make in able.items() if make.__name__ not in WITHOUT}


def kind(make: Any, settings: dict[str, Any]) -> Kind:
    file, known = make.__module__.rpartition(".")[2], parameters(make)
    access = "nothing" if file == "additive_noise" and "repeats" not in known else ACCESS.get(file, "gradients")
    norm = None if "distance" in known else _norm(make(**settings))
    protocol = "bounded" if issubclass(make, FixedEpsilon) else "minimal-norm"
    return Kind(protocol, norm, file not in UNTARGETED, access)  # type: ignore[arg-type]


def build(make: Any, settings: dict[str, Any], model: nn.Module, x: Tensor, threat: Threat, seed: int) -> Call:
    own = {"distance": DISTANCES[threat.norm]} if "distance" in parameters(make) else {}
    attack, lent = make(**own, **settings), LIBRARY.PyTorchModel(model, bounds=(0, 1), device=x.device)
    radius = {"epsilon": threat.eps} if isinstance(attack, FixedEpsilon) else {}

    def call(x: Tensor, y: Tensor, y_target: Tensor | None) -> Any:
        goal = LIBRARY.criteria.Misclassification(y)
        if y_target is not None:
            goal = LIBRARY.criteria.TargetedMisclassification(y_target)
        # To call the attack itself would add a forward that checks the answer; the cut into the ball it leaves to us.
        x_adv = attack.run(lent, x, goal, **radius)
        return attack.distance.clip_perturbation(x, x_adv, threat.eps) if radius else x_adv

    return call


def _norm(attack: Any) -> str:
    found = [name for name, distance in DISTANCES.items() if attack.distance.p == distance.p]
    if not found:
        raise InputError(f"it keeps to {attack.distance}, expected linf, l2 or l0")
    return found[0]
