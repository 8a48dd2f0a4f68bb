"""The Adversarial Robustness Toolbox (Nicolae et al. 2018, arXiv:1807.01069): AdvGAN as one of its attacks,
its attacks in comparisons."""

import contextlib
import io
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from advgan.bridges.base import AttackProperties, Call, num_classes, parameters
from advgan.core.errors import InputError
from advgan.core.optional import require_package
from advgan.core.threat_model import Threat
from advgan.models.generator import Generator

LIBRARY = require_package("art.attacks.evasion", "bridges")
ESTIMATORS = require_package("art.estimators", "bridges")
CLASSIFICATION = require_package("art.estimators.classification", "bridges")
Base: Any = require_package("art.attacks", "bridges").EvasionAttack

# AdvGAN as an attack of the library


class AdvGAN(Base):
    """One pass of a trained `generator`: `AdvGAN(classifier, generator).generate(x)`, arrays (n, c, h, w) in [0, 1].

    estimator   a classifier with clip_values (0, 1), not queried by the pass
    eps         a radius up to the generator's; None: the generator's
    targeted    the classes `y` of `generate(x, y)`, (n,) or one-hot (n, k), are target classes, for a generator of any
                class (`classes`), or of that one

    Raises InputError for anything else.
    """

    attack_params = [*Base.attack_params, "generator", "eps", "targeted"]  # noqa: RUF012, as in the library
    _estimator_requirements = (ESTIMATORS.BaseEstimator, CLASSIFICATION.ClassifierMixin)

    def __init__(self, estimator: Any, generator: Generator, eps: float | None = None, targeted: bool = False) -> None:
        super().__init__(estimator=estimator)
        self.generator, self.eps, self._targeted = generator, eps, targeted
        self._check_params()

    def _check_params(self) -> None:
        bounds = self.estimator.clip_values
        if bounds is None or np.min(bounds[0]) != 0 or np.max(bounds[1]) != 1:
            raise InputError(f"a generator takes images in [0, 1], expected clip_values (0, 1), got {bounds}")
        if self.targeted and not self.generator.classes and self.generator.y_target is None:
            raise InputError("this generator was trained untargeted, expected one with classes or a y_target")

    def generate(self, x: NDArray[Any], y: NDArray[Any] | None = None, **kwargs: Any) -> NDArray[np.float32]:
        if kwargs:
            raise InputError(f"one pass of a generator takes x and y alone, got {', '.join(kwargs)}")
        if self.targeted and y is None:
            raise InputError("a targeted attack needs target classes, expected y, got None")
        if y is None and self.generator.labels:  # as ART's own attacks: the predictions are the labels
            y = self.estimator.predict(x)
        classes = None if y is None else _classes(y)
        target_classes = classes if self.targeted else None
        labels = classes if self.generator.labels and not self.targeted else None
        images = torch.from_numpy(np.asarray(x, dtype=np.float32))
        return np.asarray(self.generator.perturb(images, labels, y_target=target_classes, eps=self.eps).numpy())


def _classes(y: Any) -> Tensor:
    """Classes (n,) of numbers (n,) or (n, 1), or of one-hot rows (n, k)."""
    y = np.asarray(y)
    return torch.as_tensor(y.argmax(1) if y.ndim == 2 and y.shape[1] > 1 else y.reshape(-1))


# Attacks of the library

RESERVED = {"estimator", "classifier", "eps", "norm", "targeted"}
NORMS = {"linf": np.inf, "l2": 2}
GRADIENTS = ("FastGradientMethod", "ProjectedGradientDescent", "MomentumIterativeMethod")
KINDS: dict[str, AttackProperties] = {  # not declared by the library
    **dict.fromkeys(GRADIENTS, AttackProperties("bounded", None)),
    **dict.fromkeys(("AutoProjectedGradientDescent", "AutoConjugateGradient"), AttackProperties("bounded", None)),
    "RescalingAutoConjugateGradient": AttackProperties("bounded", None),
    "AutoAttack": AttackProperties("bounded", None, targeted=False),
    "BasicIterativeMethod": AttackProperties("bounded", "linf"),
    "SquareAttack": AttackProperties("bounded", None, targeted=False, access="scores"),
    **dict.fromkeys(("DeepFool", "NewtonFool"), AttackProperties("minimal-norm", "l2", targeted=False)),
    "CarliniL2Method": AttackProperties("minimal-norm", "l2"),
    "CarliniLInfMethod": AttackProperties("minimal-norm", "linf"),
    "CarliniL0Method": AttackProperties("minimal-norm", "l0"),
    "ZooAttack": AttackProperties("minimal-norm", "l2", access="scores"),
    **dict.fromkeys(("BoundaryAttack", "HopSkipJump"), AttackProperties("minimal-norm", "l2", access="decisions")),
}


class ModelWrapper(nn.Module):
    """A model as one module: the toolbox calls the layers of a Sequential separately, without the counting hooks."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.float())  # some of its attacks pass float64


def attacks() -> dict[str, Any]:
    return {name: getattr(LIBRARY, name) for name in KINDS if hasattr(LIBRARY, name)}


def kind(make: Any, settings: dict[str, Any]) -> AttackProperties:
    return KINDS[make.__name__]


def build(make: Any, settings: dict[str, Any], model: nn.Module, x: Tensor, threat: Threat, seed: int) -> Call:
    classifier = CLASSIFICATION.PyTorchClassifier(
        model=ModelWrapper(model),
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(x.shape[1:]),
        nb_classes=num_classes(model, x),
        clip_values=(0, 1),
        device_type="gpu" if x.device.type == "cuda" else "cpu",
    )
    arguments = {"eps": threat.eps, "norm": NORMS[threat.norm], "targeted": threat.targeted}
    arguments |= {"batch_size": 10**6, "verbose": False} | settings  # all images in one batch
    attack = make(classifier, **{key: value for key, value in arguments.items() if key in parameters(make)})

    def call(x: Tensor, y: Tensor, y_target: Tensor | None) -> Any:
        labels = y if y_target is None else y_target
        with contextlib.redirect_stderr(io.StringIO()):  # inner attacks print progress bars
            return torch.as_tensor(attack.generate(x=x.cpu().numpy(), y=labels.cpu().numpy()))

    return call
