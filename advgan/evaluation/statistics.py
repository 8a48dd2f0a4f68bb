"""Which results may be compared, and how sure a measured figure is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from advgan.attacks.registry import Spec, parse_attack
from advgan.errors import InputError

if TYPE_CHECKING:  # the harness imports this file
    from advgan.evaluation.harness import Result

GROUP = ("target", "norm", "eps", "y_target")  # what must be alike for figures to be compared
ALL_PAIRS = 12  # attacks of a group up to which every pair is tested
Group = tuple[str, str, float, int | None]


def groups(results: Iterable[Result]) -> dict[Group, list[Result]]:
    """The results that have figures, by (target, norm, eps, y_target), in the order in which they came."""
    found: dict[Group, list[Result]] = {}
    for result in results:
        if result.row["status"] == "ok":
            row = result.row
            found.setdefault((row["target"], row["norm"], row["eps"], row["y_target"]), []).append(result)
    return found


def by_attack(results: Iterable[Result]) -> dict[str, list[Result]]:
    """The results of each attack of a group, label -> one per seed."""
    found: dict[str, list[Result]] = {}
    for result in results:
        found.setdefault(result.row["attack"], []).append(result)
    return found


def first_seeds(results: Iterable[Result]) -> list[Result]:
    """One result per attack of a group, that of its first seed: no attack is judged by the best of many runs."""
    return [runs[0] for runs in by_attack(results).values()]


def spec_of(result: Result) -> Spec | None:
    """What a row's label asks for; None for one that the command line does not know, such as a transfer."""
    try:
        return parse_attack(result.row["attack"])
    except InputError:
        return None


def wilson(successes: int, n: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of `successes` out of `n` >= 1 (Wilson 1927): honest near 0 and 1 too."""
    from scipy.stats import binomtest  # a second to import, and only a report asks

    interval = binomtest(successes, n).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def median_interval(values: Any, resamples: int = 1000, seed: int = 0) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of the median (Efron 1979) of `values` (n,), n >= 1; one value is its own.

    Infinite values (an attack's failures) may be among them, and make an end infinite where the resampled medians are.
    """
    from scipy.stats import bootstrap

    values = np.asarray(values, dtype=np.float64)
    if len(values) < 2:
        return float(values[0]), float(values[0])
    # Between two infinite values nothing can be interpolated: a stand-in, larger than all else, takes their place.
    finite = np.abs(values[np.isfinite(values)]).max(initial=1.0)
    interval = bootstrap(
        (np.where(np.isfinite(values), values, finite * 1e15),),
        np.median,
        n_resamples=resamples,
        batch=max(1, 1_000_000 // len(values)),  # memory, not the result
        method="percentile",
        random_state=np.random.default_rng(seed),
    ).confidence_interval
    low, high = (float(end) if end <= finite else float("inf") for end in interval)
    return low, high


def mean_sd(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation of at least one value; one value has no deviation."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def mcnemar(a: Any, b: Any) -> tuple[int, int, float]:
    """Exact McNemar test (1947) of two attacks' success (n,) on the same images: only_a, only_b and the two-sided p.

    If they were equally strong, each image that only one of them fools would be a fair coin's toss; p is 1 without any.
    """
    from scipy.stats import binomtest

    a, b = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    p = float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    return only_a, only_b, p


def mcnemar_pairs(results: Iterable[Result]) -> list[dict[str, Any]]:
    """Pairs of attacks of a group, the first seed of each, on the images that count for both.

    All pairs of up to 12 attacks (66 tests). Of more, in the order of their ASR, each and the next weaker one.
    """
    found = []
    for group, members in groups(results).items():
        attacks = first_seeds(members)
        if len(attacks) > ALL_PAIRS:
            pairs = list(pairwise(sorted(attacks, key=lambda result: -result.row["asr"])))
        else:
            pairs = list(combinations(attacks, 2))
        for a, b in pairs:
            both = a.records["counts"] & b.records["counts"]
            only_a, only_b, p = mcnemar(a.records["success"][both], b.records["success"][both])
            names = {"a": a.row["attack"], "b": b.row["attack"]}
            found.append({**dict(zip(GROUP, group, strict=True)), **names, "only_a": only_a, "only_b": only_b, "p": p})
    return found


def seeds(results: Iterable[Result]) -> list[dict[str, Any]]:
    """Mean and standard deviation of the ASR of each attack that was run with several seeds; `seeds` is how many."""
    found = []
    for group, members in groups(results).items():
        for attack, runs in by_attack(members).items():
            rates = {run.row["seed"]: run.row["asr"] for run in runs}
            if len(rates) > 1:
                mean, sd = mean_sd(list(rates.values()))
                spread = {"attack": attack, "seeds": len(rates), "asr_mean": mean, "asr_sd": sd}
                found.append({**dict(zip(GROUP, group, strict=True)), **spread})
    return found
