"""Analysis of many results: worst case, pairwise tests, checks of the evaluation, local optimality, cost."""

from advgan.analysis.summary import summary
from advgan.core.lazy import lazy

__all__ = ["summary"]

__getattr__, __dir__ = lazy(__name__)
