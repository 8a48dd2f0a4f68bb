"""The networks that are trained: generators, discriminators, their losses and exports."""

from advgan.core.lazy import lazy

__getattr__, __dir__ = lazy(__name__)
