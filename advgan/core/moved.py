"""Former names of modules: importing one gives the module in its new place, with a DeprecationWarning that names it."""

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from types import ModuleType

MOVED = {
    "advgan.classifiers.external.signature": "advgan.classifiers.external.base",
    "advgan.data.augment": "advgan.data.batches",
    "advgan.data.digits": "advgan.data.vision",
    "advgan.defenses.rejection": "advgan.defenses.detection",
    "advgan.discriminator": "advgan.models.discriminator",
    "advgan.errors": "advgan.core.errors",
    "advgan.export": "advgan.models.export",
    "advgan.generator": "advgan.models.generator",
    "advgan.losses": "advgan.models.losses",
    "advgan.networks": "advgan.models.networks",
    "advgan.settings": "advgan.core.config",
    "advgan.storage": "advgan.core.files",
    "advgan.targets": "advgan.classifiers",
    "advgan.targets.others": "advgan.classifiers.external",
    "advgan.threat": "advgan.core.threat_model",
    "advgan.training.collapse": "advgan.training.validation",
    "advgan.training.detector_program": "advgan.training.detector",
    "advgan.training.fgsm_comparison": "advgan.training.trial",
    "advgan.training.substitute_config": "advgan.training.substitute_training",
    "advgan.training.substitute_program": "advgan.training.substitute",
    "advgan.training.validation_log": "advgan.training.validation",
    "advgan.weights": "advgan.core.weights",
}


class MovedModules(MetaPathFinder, Loader):
    """Import hook for the former names in `MOVED`."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return spec_from_loader(fullname, self) if fullname in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        new = MOVED[module.__name__]
        warnings.warn(f"{module.__name__} has moved to {new}", DeprecationWarning, stacklevel=2)
        sys.modules[module.__name__] = import_module(new)


def install() -> None:
    """Register the import hook, once."""
    if not any(isinstance(finder, MovedModules) for finder in sys.meta_path):
        sys.meta_path.insert(0, MovedModules())  # before a leftover folder of that name
