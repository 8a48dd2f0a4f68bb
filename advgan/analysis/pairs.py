"""Pairwise tests of attacks on the same images, and the spread of an attack over seeds."""

from collections.abc import Iterable
from itertools import combinations, pairwise
from typing import Any

from advgan.analysis.groups import by_attack, first_seeds, groups
from advgan.evaluation.evaluate import Result
from advgan.evaluation.statistics import mcnemar, mean_sd

ALL_PAIRS = 12  # attacks of a group up to which every pair is tested


def mcnemar_pairs(results: Iterable[Result]) -> list[dict[str, Any]]:
    """Pairs of attacks of a group, the first seed of each, on the images that are eligible for both.

    All pairs of up to 12 attacks (66 tests); of more, neighbours in the order of the ASR.
    """
    tests = []
    for group, members in groups(results).items():
        attacks = first_seeds(members)
        if len(attacks) > ALL_PAIRS:
            pairs = list(pairwise(sorted(attacks, key=lambda result: -result.row["asr"])))
        else:
            pairs = list(combinations(attacks, 2))
        for a, b in pairs:
            eligible = a.records["counts"] & b.records["counts"]
            only_a, only_b, p = mcnemar(a.records["success"][eligible], b.records["success"][eligible])
            names = {"a": a.row["attack"], "b": b.row["attack"]}
            tests.append({**group._asdict(), **names, "only_a": only_a, "only_b": only_b, "p": p})
    return tests


def seeds(results: Iterable[Result]) -> list[dict[str, Any]]:
    """Mean and standard deviation of the ASR of each attack that was run with several seeds; `seeds`: their number."""
    entries = []
    for group, members in groups(results).items():
        for attack, runs in by_attack(members).items():
            rates = {run.row["seed"]: run.row["asr"] for run in runs}
            if len(rates) > 1:
                mean, sd = mean_sd(list(rates.values()))
                statistics = {"attack": attack, "seeds": len(rates), "asr_mean": mean, "asr_sd": sd}
                entries.append({**group._asdict(), **statistics})
    return entries
