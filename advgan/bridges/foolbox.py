"""Foolbox (Rauber et al. 2020, JOSS 5(53)): AdvGAN as one of its attacks, its attacks in comparisons."""

import inspect
from typing import Any

from torch import Tensor, nn

from advgan.attacks.registry import AttackerAccess
from advgan.bridges.base import AttackProperties, Call, parameters
from advgan.core.errors import InputError
from advgan.core.optional import require_package
from advgan.core.threat_model import Threat
from advgan.models.generator import Generator

LIBRARY = require_package("foolbox", "bridges")
BASE = require_package("foolbox.attacks.base", "bridges")
DISTANCES = {name: getattr(LIBRARY.distances, name) for name in ("linf", "l2", "l0")}
FixedEpsilon: Any = BASE.FixedEpsilonAttack

# AdvGAN as an attack of the library


class AdvGAN(FixedEpsilon):
    """One pass of a trained `generator`: `raw, clipped, success = AdvGAN(generator)(fmodel, x, labels, epsilons=0.1)`.

    fmodel      a PyTorchModel with bounds (0, 1), queried for the success of the results
    x           torch or eagerpy tensors
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
        foolbox_criterion, kinds = BASE.get_criterion(criterion), LIBRARY.criteria
        if not isinstance(x.raw, Tensor):
            raise InputError(f"a generator takes torch tensors, got {type(x.raw).__name__}")
        if tuple(model.bounds) != (0, 1):
            raise InputError(f"a generator takes images in [0, 1], expected bounds (0, 1), got {tuple(model.bounds)}")
        if not isinstance(foolbox_criterion, (kinds.Misclassification, kinds.TargetedMisclassification)):
            expected = "Misclassification or TargetedMisclassification"
            raise InputError(f"a generator was trained for {expected}, got {type(foolbox_criterion).__name__}")
        targeted = isinstance(foolbox_criterion, kinds.TargetedMisclassification)
        target_classes = foolbox_criterion.target_classes.raw if targeted else None
        labels = foolbox_criterion.labels.raw if self.generator.labels and not targeted else None
        return restore(BASE.ep.astensor(self.generator.perturb(x.raw, labels, y_target=target_classes, eps=epsilon)))


# Attacks of the library

RESERVED = {"distance", "init_attack"}  # the default initialisation is used
EXCLUDED = {"BinarizationRefinementAttack", "DatasetAttack", "PointwiseAttack"}  # need adversarial images
UNTARGETED = {"deepfool", "fast_gradient_method", "newtonfool", "virtual_adversarial_attack"}  # files
ACCESS: dict[str, AttackerAccess] = {
    **dict.fromkeys(("boundary_attack", "hop_skip_jump", "saltandpepper", "blur", "inversion"), "decisions"),
    **dict.fromkeys(("contrast_min", "blended_noise", "additive_noise"), "decisions"),
    **{"contrast": "nothing", "gen_attack": "scores"},
}


def attacks() -> dict[str, Any]:
    """Bounded and minimum-norm attacks from the clean image alone, with their short names."""
    kinds = (FixedEpsilon, BASE.MinimizationAttack)
    classes = {name: make for name, make in vars(LIBRARY.attacks).items() if isinstance(make, type)}
    concrete = {
        name: make for name, make in classes.items() if issubclass(make, kinds) and not inspect.isabstract(make)
    }
    return {name: make for name, make in concrete.items() if make.__name__ not in EXCLUDED}


def kind(make: Any, settings: dict[str, Any]) -> AttackProperties:
    module, known = make.__module__.rpartition(".")[2], parameters(make)
    access = "nothing" if module == "additive_noise" and "repeats" not in known else ACCESS.get(module, "gradients")
    norm = None if "distance" in known else _norm(make(**settings))
    protocol = "bounded" if issubclass(make, FixedEpsilon) else "minimal-norm"
    return AttackProperties(protocol, norm, module not in UNTARGETED, access)  # type: ignore[arg-type]


def build(make: Any, settings: dict[str, Any], model: nn.Module, x: Tensor, threat: Threat, seed: int) -> Call:
    distance = {"distance": DISTANCES[threat.norm]} if "distance" in parameters(make) else {}
    attack, foolbox_model = make(**distance, **settings), LIBRARY.PyTorchModel(model, bounds=(0, 1), device=x.device)
    bound = {"epsilon": threat.eps} if isinstance(attack, FixedEpsilon) else {}

    def call(x: Tensor, y: Tensor, y_target: Tensor | None) -> Any:
        criterion = LIBRARY.criteria.Misclassification(y)
        if y_target is not None:
            criterion = LIBRARY.criteria.TargetedMisclassification(y_target)
        # Calling the attack itself would add a forward that checks the result; it does not clip to the ball.
        x_adv = attack.run(foolbox_model, x, criterion, **bound)
        return attack.distance.clip_perturbation(x, x_adv, threat.eps) if bound else x_adv

    return call


def _norm(attack: Any) -> str:
    norms = [name for name, distance in DISTANCES.items() if attack.distance.p == distance.p]
    if not norms:
        raise InputError(f"its distance is {attack.distance}, expected linf, l2 or l0")
    return norms[0]
