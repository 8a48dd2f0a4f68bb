"""Attacks on the same images of the same classifiers."""

from advgan.core.lazy import lazy

__getattr__, __dir__ = lazy(__name__)
