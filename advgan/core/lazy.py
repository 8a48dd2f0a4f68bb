"""Attributes of a package that are imported at their first use (PEP 562)."""

import sys
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from pkgutil import iter_modules
from types import MappingProxyType
from typing import Any

NONE: Mapping[str, str] = MappingProxyType({})


def lazy(
    package: str, homes: Mapping[str, str] = NONE, former: Mapping[str, str] = NONE
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of `package`, whose modules are attributes, also those that are not imported yet.

    homes    name -> the module that defines it
    former   former name -> name: the attribute, with a DeprecationWarning
    """

    def get(name: str) -> Any:
        if name in homes:
            return getattr(import_module(homes[name]), name)
        if name in former:
            new = former[name]
            warnings.warn(f"{package}.{name} has become {package}.{new}", DeprecationWarning, stacklevel=2)
            return getattr(sys.modules[package], new)
        if name.startswith("_") or find_spec(f"{package}.{name}") is None:
            text = f"module {package!r} has no attribute {name!r}"
            raise AttributeError(text, name=name, obj=sys.modules[package])  # for Python's "Did you mean"
        return import_module(f"{package}.{name}")

    def names() -> list[str]:
        module = sys.modules[package]
        return sorted({*vars(module), *homes, *(each.name for each in iter_modules(module.__path__))})

    return get, names
