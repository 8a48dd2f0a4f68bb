"""What many results say together: worst case, pairs, verdicts on the measurement itself, optimality, cost."""

from advgan.analysis.summary import summary

__all__ = ["summary"]
