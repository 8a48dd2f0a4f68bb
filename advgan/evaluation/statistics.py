"""Intervals, tests and ROC curves."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np


def wilson(successes: int, n: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of `successes` out of `n` >= 1 (Wilson 1927), also valid near 0 and 1."""
    from scipy.stats import binomtest  # takes a second to import, and only reports need it

    interval = binomtest(successes, n).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def rate(name: str, hits: int, n: int) -> dict[str, Any]:
    """`hits` of `n` as columns of a row: the rate `name` and its interval, NAME_low and NAME_high; None for n = 0."""
    values = (hits / n, *wilson(hits, n)) if n else (None,) * 3
    return dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))


def median_interval(values: Any, resamples: int = 1000, seed: int = 0) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of the median (Efron 1979) of `values` (n,), n >= 1.

    Infinite values (an attack's failures) may be among them, and make an end infinite where the resampled medians are.
    """
    values = np.asarray(values, dtype=np.float64)
    if len(values) < 2:
        return float(values[0]), float(values[0])
    # Nothing can be interpolated between infinite values: a number larger than all others replaces them.
    finite = np.abs(values[np.isfinite(values)]).max(initial=1.0)
    bounded = np.where(np.isfinite(values), values, finite * 1e15)
    interval = _bootstrap((bounded,), np.median, resamples, seed)
    low, high = (float(end) if end <= finite else float("inf") for end in interval)
    return low, high


def mean_sd(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (None for a single value) of at least one value."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def mcnemar(a: Any, b: Any) -> tuple[int, int, float]:
    """Exact McNemar test (1947) of two attacks' success (n,) on the same images: only_a, only_b and the two-sided p.

    Under the null hypothesis each image on which only one of them succeeds is a fair coin toss; p is 1 without such.
    """
    from scipy.stats import binomtest

    a, b = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    p = float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    return only_a, only_b, p


def paired_ratio(a: Any, b: Any) -> tuple[float | None, float | None, float | None]:
    """Rate of `a` over rate of `b`, both success (n,) on the same images, with its 95 % paired percentile bootstrap.

    Images are resampled with both outcomes, which keeps their correlation. An end is None where resamples without any
    success of b leave it undefined; all are None without a success of b.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    undefined = 1e15  # larger than any ratio: with infinity scipy warns

    def ratio(a: Any, b: Any, axis: int = -1) -> Any:
        above, below = a.sum(axis), b.sum(axis)
        return np.divide(above, below, out=np.full(np.shape(below), undefined), where=below > 0)

    if not b.any():
        return None, None, None
    if len(b) < 2:
        return float(ratio(a, b)), None, None
    interval = _bootstrap((a, b), ratio, 2000, paired=True, vectorized=True)
    low, high = (float(end) if end <= len(a) else None for end in interval)
    return float(ratio(a, b)), low, high


def _bootstrap(data: tuple[Any, ...], statistic: Any, resamples: int, seed: int = 0, **settings: Any) -> Any:
    """The ends of the 95 % percentile bootstrap interval of a `statistic`."""
    from scipy.stats import bootstrap

    settings |= {"n_resamples": resamples, "method": "percentile", "random_state": np.random.default_rng(seed)}
    batch = max(1, 1_000_000 // len(data[0]))  # memory, not the result
    return bootstrap(data, statistic, batch=batch, **settings).confidence_interval


def auc(clean: Any, adversarial: Any) -> tuple[float, float, float]:
    """The area under the ROC curve, exactly, with the ends of its 95 % interval (DeLong et al. 1988).

    It is the probability that a score of `adversarial` (m,) is larger than one of `clean` images (n,), ties counted
    half: the Mann-Whitney statistic U / (m n). An interval needs at least two scores of each, the area one.
    """
    clean, adversarial = np.sort(np.asarray(clean, np.float64)), np.sort(np.asarray(adversarial, np.float64))
    above = _below(clean, adversarial)  # (m,): per adversarial score, the fraction of clean scores below it
    under = 1 - _below(adversarial, clean)
    area = float(above.mean())
    if min(len(above), len(under)) < 2:
        return area, 0.0, 1.0
    spread = 1.959964 * math.sqrt(above.var(ddof=1) / len(above) + under.var(ddof=1) / len(under))
    return area, max(area - spread, 0.0), min(area + spread, 1.0)


def roc(clean: Any, adversarial: Any, rates: Sequence[float]) -> list[float]:
    """The true positive rate of the scores `adversarial` (m,) at each of the false positive `rates` of `clean` (n,)."""
    clean, adversarial = np.sort(np.asarray(clean, np.float64))[::-1], np.asarray(adversarial, np.float64)
    allowed = [math.floor(rate * len(clean) + 1e-9) for rate in rates]
    return [float((adversarial > clean[k]).mean()) if k < len(clean) else 1.0 for k in allowed]


def _below(values: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The fraction of the sorted `values` below each of the `points`, ties counted half."""
    ranks = np.searchsorted(values, points, "left") + np.searchsorted(values, points, "right")
    return ranks / (2 * len(values))
