"""Analysis of many results: worst case, pairwise tests, checks of the evaluation, local optimality, cost."""

from advgan.analysis.summary import summary

__all__ = ["summary"]
