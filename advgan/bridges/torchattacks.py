"""torchattacks (Kim 2020, arXiv:2010.01950): AdvGAN as one of its attacks, its attacks in comparisons."""

import contextlib
import io
import re
from typing import Any

from torch import Tensor, nn

from advgan.attacks.registry import AttackerAccess
from advgan.bridges.base import AttackProperties, Call, num_classes, parameters
from advgan.core.errors import InputError
from advgan.core.optional import require_package
from advgan.core.threat_model import Threat
from advgan.models.generator import Generator

LIBRARY = require_package("torchattacks", "bridges")
Base: Any = LIBRARY.attack.Attack

# AdvGAN as an attack of the library


class AdvGAN(Base):
    """One pass of a trained `generator`: `AdvGAN(model, generator)(images, labels)` is `generator.perturb(images)`,
    with the labels where they are an input of the generator.

    model   the classifier, queried only in the modes least likely and random, for the target classes
    eps     a radius up to the generator's; None: the generator's

    The modes `set_mode_targeted_*` take a generator of any class (`classes`), or of the requested one; others raise
    InputError, at once or when called.
    """

    def __init__(self, model: nn.Module, generator: Generator, eps: float | None = None) -> None:
        super().__init__("AdvGAN", model)
        self.generator, self.eps = generator, eps
        self.supported_mode = ["default", "targeted"]

    def _set_mode_targeted(self, *arguments: Any) -> None:
        if not self.generator.classes and self.generator.y_target is None:
            raise InputError("this generator was trained untargeted, expected one with classes or a y_target")
        super()._set_mode_targeted(*arguments)

    def set_mode_targeted_by_label(self, quiet: bool = False) -> None:
        """The labels are the targets. (torchattacks has this from 3.4 on.)"""
        self.set_mode_targeted_by_function(lambda images, labels: labels)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        target_classes = self.get_target_label(images, labels) if self.targeted else None
        known = labels if self.generator.labels and not self.targeted else None
        return self.generator.perturb(images.to(self.device), known, y_target=target_classes, eps=self.eps)


# Attacks of the library

RESERVED = {"model", "eps", "norm", "n_classes", "seed"}
ACCESS: dict[str, AttackerAccess] = {"Square": "scores", "OnePixel": "scores", "Pixle": "scores"}


def attacks() -> dict[str, Any]:
    """The attacks with a distance in their documentation."""
    classes = {name: make for name, make in vars(LIBRARY).items() if isinstance(make, type) and issubclass(make, Base)}
    return {name: make for name, make in classes.items() if _distance(make)}


def kind(make: Any, settings: dict[str, Any]) -> AttackProperties:
    modes = make(nn.PReLU(), **settings).supported_mode  # an attribute of instances
    known, access = parameters(make), ACCESS.get(make.__name__, "gradients")
    protocol, norm = "bounded" if "eps" in known else "minimal-norm", None if "norm" in known else _distance(make)
    return AttackProperties(protocol, norm, "targeted" in modes, access)  # type: ignore[arg-type]


def build(make: Any, settings: dict[str, Any], model: nn.Module, x: Tensor, threat: Threat, seed: int) -> Call:
    if next(model.parameters(), None) is None:
        raise InputError("torchattacks takes the device of a model from its parameters, and this model has none")
    accepted = parameters(make)
    arguments: dict[str, Any] = {"eps": threat.eps, "norm": threat.norm.capitalize(), "seed": seed}
    if "n_classes" in accepted:
        arguments["n_classes"] = num_classes(model, x)
    attack = make(model, **{key: arguments[key] for key in arguments.keys() & accepted}, **settings)
    target_classes: list[Tensor] = []
    if threat.targeted:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints the mode
            attack.set_mode_targeted_by_function(lambda images, labels: target_classes[0])

    def call(x: Tensor, y: Tensor, y_target: Tensor | None) -> Any:
        target_classes[:] = [] if y_target is None else [y_target]
        return attack(x, y)

    return call


def _distance(make: Any) -> str | None:
    """The norm in its documentation, "Distance Measure : Linf"; the first, where there are several."""
    match = re.search(r"Distance Measure : *(\w+)", make.__doc__ or "")
    return match and match[1].lower()
