"""How sure a measured rate is."""

from __future__ import annotations


def wilson(successes: int, n: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of `successes` out of `n` >= 1 (Wilson 1927): honest near 0 and 1 too."""
    from scipy.stats import binomtest  # a second to import, and only a report asks

    interval = binomtest(successes, n).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)
