"""Optional packages: imported where they are used; the error for a missing one contains the install command."""

from importlib import import_module
from typing import Any

from advgan.core.errors import InputError


def require_package(module: str, group: str) -> Any:
    """The package `module`, installed by `pip install 'advgan[group]'`. Raises InputError where it is not installed."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != module.partition(".")[0]:
            raise  # installed, but broken
        raise InputError(f"{module} is not installed, expected it here: pip install 'advgan[{group}]'") from None
