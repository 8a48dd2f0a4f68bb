"""Optional packages: imported where they are used, and named with the line to type where they are missing."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from advgan.core.errors import InputError


def require_package(module: str, group: str) -> Any:
    """The package `module`, which `pip install 'advgan[group]'` brings. Raises InputError where it is not installed."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != module.partition(".")[0]:
            raise  # it is there, and broken
        raise InputError(f"{module} is not installed, expected it here: pip install 'advgan[{group}]'") from None
