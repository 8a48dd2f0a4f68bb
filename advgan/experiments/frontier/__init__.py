"""Success against time: our attacks and the baselines at every time budget."""

from advgan.core.lazy import lazy

__getattr__, __dir__ = lazy(__name__)
