"""The Adversarial Robustness Toolbox (Nicolae et al. 2018, arXiv:1807.01069): our generator as one of its attacks, its
attacks as rows of ours."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from advgan.bridges.base import Call, Kind, num_classes, parameters
from advgan.core.errors import InputError
from advgan.core.optional import require_package
from advgan.core.threat_model import Threat
from advgan.models.generator import Generator

LIBRARY = require_package("art.attacks.evasion", "bridges")
ESTIMATORS = require_package("art.estimators", "bridges")
CLASSIFICATION = require_package("art.estimators.classification", "bridges")
Base: Any = require_package("art.attacks", "bridges").EvasionAttack

# Ours as theirs


class AdvGAN(Base):
    """One pass of a trained `generator`: `AdvGAN(classifier, generator).generate(x)`, arrays (n, c, h, w) in [0, 1].

    estimator   a classifier with clip_values (0, 1); the pass does not ask it
    eps         a radius up to the generator's; None: the generator's
    targeted    `generate(x, y)` pulls toward the classes `y`, (n,) or one-hot (n, k), with a generator of any class
                (`classes`), or of that one

    Raises InputError for anything else.
    """

    attack_params = [*Base.attack_params, "generator", "eps", "targeted"]  # noqa: RUF012, as the library has it
    _estimator_requirements = (ESTIMATORS.BaseEstimator, CLASSIFICATION.ClassifierMixin)

    def __init__(self, estimator: Any, generator: Generator, eps: float | None = None, targeted: bool = False) -> None:
        super().__init__(estimator=estimator)
        self.generator, self.eps, self._targeted = generator, eps, targeted
        self._check_params()

    def _check_params(self) -> None:
        limits = self.estimator.clip_values
        if limits is None or np.min(limits[0]) != 0 or np.max(limits[1]) != 1:
            raise InputError(f"a generator takes images in [0, 1], expected clip_values (0, 1), got {limits}")
        if self.targeted and not self.generator.classes and self.generator.y_target is None:
            raise InputError("this generator was trained untargeted, expected one with classes or a y_target")

    def generate(self, x: NDArray[Any], y: NDArray[Any] | None = None, **kwargs: Any) -> NDArray[np.float32]:
        if kwargs:
            raise InputError(f"one pass of a generator takes x and y alone, got {', '.join(kwargs)}")
        aims = None
        if self.targeted:
            if y is None:
                raise InputError("a targeted attack needs the classes to aim at, expected y, got None")
            aims = torch.as_tensor(y.argmax(1) if y.ndim == 2 else y)
        images = torch.from_numpy(np.asarray(x, dtype=np.float32))
        return np.asarray(self.generator.perturb(images, aims, self.eps).numpy())


# Theirs as ours

GIVEN = {"estimator", "classifier", "eps", "norm", "targeted"}
NORMS = {"linf": np.inf, "l2": 2}
GRADIENTS = ("FastGradientMethod", "ProjectedGradientDescent", "MomentumIterativeMethod")
KINDS: dict[str, Kind] = {  # it does not say these itself
    **dict.fromkeys(GRADIENTS, Kind("bounded", None)),
    **dict.fromkeys(("AutoProjectedGradientDescent", "AutoConjugateGradient"), Kind("bounded", None)),
    "RescalingAutoConjugateGradient": Kind("bounded", None),
    "AutoAttack": Kind("bounded", None, targeted=False),
    "BasicIterativeMethod": Kind("bounded", "linf"),
    "SquareAttack": Kind("bounded", None, targeted=False, access="scores"),
    **dict.fromkeys(("DeepFool", "NewtonFool"), Kind("minimal-norm", "l2", targeted=False)),
    "CarliniL2Method": Kind("minimal-norm", "l2"),
    "CarliniLInfMethod": Kind("minimal-norm", "linf"),
    "CarliniL0Method": Kind("minimal-norm", "l0"),
    "ZooAttack": Kind("minimal-norm", "l2", access="scores"),
    **dict.fromkeys(("BoundaryAttack", "HopSkipJump"), Kind("minimal-norm", "l2", access="decisions")),
}


class Whole(nn.Module):
    """A model in one piece: the toolbox takes a Sequential apart and calls its layers, past the hooks that count."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x.float())  # some of its attacks come with doubles
        return logits


def attacks() -> dict[str, Any]:
    return {name: getattr(LIBRARY, name) for name in KINDS if hasattr(LIBRARY, name)}


def kind(make: Any, settings: dict[str, Any]) -> Kind:
    return KINDS[make.__name__]


def build(make: Any, settings: dict[str, Any], model: nn.Module, x: Tensor, threat: Threat, seed: int) -> Call:
    lent = CLASSIFICATION.PyTorchClassifier(
        model=Whole(model),
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(x.shape[1:]),
        nb_classes=num_classes(model, x),
        clip_values=(0, 1),
        device_type="gpu" if x.device.type == "cuda" else "cpu",
    )
    given = {"eps": threat.eps, "norm": NORMS[threat.norm], "targeted": threat.targeted}
    given |= {"batch_size": 10**6, "verbose": False} | settings  # as many images at once as it is given
    attack = make(lent, **{key: each for key, each in given.items() if key in parameters(make)})

    def call(x: Tensor, y: Tensor, y_target: Tensor | None) -> Any:
        wanted = y if y_target is None else y_target
        with contextlib.redirect_stderr(io.StringIO()):  # what an attack runs inside draws bars, asked or not
            return torch.as_tensor(attack.generate(x=x.cpu().numpy(), y=wanted.cpu().numpy()))

    return call
