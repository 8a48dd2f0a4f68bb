"""Base class of defenses, which are classifiers too, and the models that attackers differentiate."""

import inspect
from collections.abc import Mapping
from typing import Any, ClassVar, Self, get_type_hints

import torch
from torch import Tensor, nn

from advgan.core.errors import InputError
from advgan.core.json_files import check_int, check_keys, check_real
from advgan.core.rejection import can_reject
from advgan.core.threat_model import DefenseKnowledge


class Defended(nn.Module):
    """Images (n, c, h, w) float32 in [0, 1] -> logits (n, num_classes), by a classifier `inner` behind a defense.

    A subclass implements `forward`, passes its settings to `__init__`, and, where its own gradients are zero, random or
    misleading, implements `adaptive`. Its name is registered in `advgan/defenses/registry.py`.

    `inner` is put into eval mode.

    spec_name  its name in `DEFENSES`
    settings   arguments of `__init__`
    random     two forwards of the same images may differ; draws from `rng`, see `reseed`
    random_gradients   two gradients at the same images may differ, though the logits do not
    """

    spec_name: ClassVar[str]
    random: ClassVar[bool] = False
    random_gradients: ClassVar[bool] = False

    def __init__(self, inner: nn.Module, **settings: Any) -> None:
        super().__init__()
        if can_reject(inner):
            raise InputError(f"{self.spec_name} cannot wrap a defense that rejects, expected the rejecting one last")
        self.inner: Any = inner  # any classifier
        self.settings, self.rng = settings, torch.Generator().manual_seed(0)
        self.eval()

    @property
    def name(self) -> str:
        return str(getattr(self.inner, "name", type(self.inner).__name__))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.inner.image_shape

    @property
    def num_classes(self) -> int:
        return int(self.inner.num_classes)

    @property
    def classes(self) -> tuple[str, ...] | None:
        return getattr(self.inner, "classes", None)

    @property
    def config(self) -> dict[str, Any]:
        """The config.json for `load_classifier`: that of the classifier, with its defenses from the inside out."""
        inner: dict[str, Any] = self.inner.config
        defense = {"name": self.spec_name, "settings": self.settings}
        return {**inner, "defenses": [*inner.get("defenses", []), defense]}

    @classmethod
    def check_settings(cls, settings: Mapping[str, Any]) -> None:
        """Raise InputError unless `settings`, from a config.json, are those of this defense, each of its type."""
        hints = get_type_hints(cls.__init__)
        names = inspect.signature(cls.__init__).parameters.keys() - {"self", "inner", "settings"}
        check_keys(f"the settings of {cls.spec_name}", settings, names)
        for name, value in settings.items():
            if hints[name] is float:
                check_real(f"{cls.spec_name}:{name}", value)
            elif hints[name] is int:
                check_int(f"{cls.spec_name}:{name}", value, 0, 1_000_000)

    @classmethod
    def restore(cls, inner: nn.Module, settings: dict[str, Any]) -> Self:
        """The defense of a `config` around `inner`, without its weights."""
        return cls(inner, **settings)

    def adaptive(self) -> nn.Module:
        """The model that an adaptive attacker differentiates: itself, if its gradients are useful."""
        return self

    # A rejecting defense has a `rejection_score`, see `advgan.core.rejection`.


def checked_share(name: str, share: float, of: str) -> float:
    """A setting "DEFENSE:share", a share `of` something. Raises InputError unless it is between 0 and 1."""
    if not 0 < share < 1:
        raise InputError(f"{name} must be between 0 and 1, {of}, got {share}")
    return share


def checked_positive(name: str, value: float, meaning: str = "") -> float:
    """A setting "DEFENSE:scale". Raises InputError unless it is positive and finite."""
    if not 0 < value < float("inf"):
        raise InputError(f"{name} must be positive{meaning}, got {value}")
    return value


class EOT(nn.Module):
    """The mean logits of a random `model` over `draws` forwards: expectation over transformation (Athalye et al. 2018,
    "Synthesizing robust adversarial examples", eq. 1, of the logits)."""

    def __init__(self, model: nn.Module, draws: int) -> None:
        super().__init__()
        if draws < 1:
            raise InputError(f"draws must be at least 1, got {draws}")
        self.model, self.draws = model, draws

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x.repeat_interleave(self.draws, dim=0))
        return logits.unflatten(0, (len(x), self.draws)).mean(1)


def is_random(model: nn.Module) -> bool:
    """Whether a defense is random: two forwards of the same images may differ."""
    return any(isinstance(module, Defended) and module.random for module in model.modules())


def reseed(model: nn.Module, seed: int) -> None:
    """Seed every random defense in `model`."""
    for i, module in enumerate(module for module in model.modules() if isinstance(module, Defended)):
        module.rng.manual_seed(seed + i)


def unwrap(model: nn.Module) -> Any:
    """The classifier behind all defenses; the model itself if there is none."""
    while isinstance(model, Defended):
        model = model.inner
    return model


def adaptive(model: nn.Module) -> nn.Module:
    """The model that an adaptive attacker differentiates in place of `model`."""
    return model.adaptive() if isinstance(model, Defended) else model


def attack_view(model: nn.Module, view: DefenseKnowledge) -> nn.Module:
    """The model that a gradient attack with `view` differentiates instead of `model`, see `AttackSpec`."""
    return {"adaptive": adaptive, "naive": lambda m: m, "oblivious": unwrap}[view](model)
