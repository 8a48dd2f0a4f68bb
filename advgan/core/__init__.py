"""Shared foundations: threat model, settings from flags and YAML, files, errors. Imports no other part."""

from advgan.core.lazy import lazy

__getattr__, __dir__ = lazy(__name__)
