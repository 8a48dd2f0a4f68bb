"""Metrics of the frontier: the amortisation gap, success of one pass of a generator relative to an attack that
optimises each image, and the diversity of the draws of a generator with noise."""

from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise
from typing import Any

import torch
from torch import Tensor

from advgan.analysis.worst_case import any_success
from advgan.evaluation.evaluate import Result
from advgan.evaluation.statistics import paired_ratio, rate, wilson

ComparisonRow = dict[str, Any]
FRACTIONS = (0.90, 0.95, 0.99)  # of the reference's success
MAX_RATIO = 0.5  # a warm start or an unrolled network "pays" with at most this fraction of PGD's evaluations
DRAWS = (1, 4, 16)  # of a generator with noise
METHODS, BASELINES = ("unrolled", "warm start"), ("PGD", "APGD")


def any_attack_success(results: Sequence[Result], first: int | None = None) -> Tensor | None:
    """Per image that counts (m,) bool: success of any of the attacks. None if one of them has no metrics.

    first   look only at the first so many images
    """
    if not results or not all(result.records for result in results):
        return None
    return any_success(results)[:first][results[0].records["counts"][:first]]


def compare_success(success: Tensor | None, reference: Tensor | None = None) -> dict[str, Any]:
    """Success (m,) bool of an attack and the reference's on the same images, as plain values; None: not measured.

    n, fooled, asr with its Wilson interval; ratio of both rates with its paired bootstrap interval; and how many images
    only_here (not the reference) and only_reference fool.
    """
    ratio = ("ratio", "ratio_low", "ratio_high")
    row = dict.fromkeys(("n", "fooled", "asr", "asr_low", "asr_high", *ratio, "only_here", "only_reference"))
    if success is None or not len(success):
        return row
    row |= {"n": len(success), "fooled": int(success.sum())} | rate("asr", int(success.sum()), len(success))
    if reference is not None:
        row |= zip(ratio, paired_ratio(success, reference), strict=True)
        row |= {"only_here": int((success & ~reference).sum()), "only_reference": int((reference & ~success).sum())}
    return row


def evals_to_level(curve: Mapping[int, float], level: float) -> float | None:
    """Number of evaluations at which a curve (evaluations -> success) reaches `level`; None if it does not.

    The curve is interpolated linearly between the measured points, and made monotone (best so far).
    """
    best, points = 0.0, []
    for steps in sorted(curve):
        best = max(best, curve[steps])
        points.append((steps, best))
    if points and points[0][1] >= level:
        return float(points[0][0])
    for (k, low), (then, high) in pairwise(points):
        if high >= level:
            return k + (then - k) * (level - low) / (high - low)
    return None


def evals_to_fraction(
    curves: Mapping[str, Mapping[int, float]], reference: float, shares: Sequence[float] = FRACTIONS
) -> list[ComparisonRow]:
    """For each share of the `reference`'s success: the evaluations that each curve needs, and the ratios of those of
    `METHODS` to those of `BASELINES`.

    curves   "unrolled", "warm start", "PGD" and "APGD" -> its curve; one that was not measured is left out
    A ratio is None where one of its two curves does not reach the level, or where the level is 0.
    """
    rows = []
    for fraction in shares:
        evaluations = {
            name: evals_to_level(curves[name], fraction * reference) if reference and name in curves else None
            for name in METHODS + BASELINES
        }
        ratios = {
            f"{name_ours} of {name}": quotient(evaluations[name_ours], evaluations[name])
            for name_ours in METHODS
            for name in BASELINES
        }
        rows.append({"share": fraction, "level": fraction * reference, **evaluations, **ratios})
    return rows


def quotient(a: float | None, b: float | None) -> float | None:
    return a / b if a is not None and b else None


def is_cheaper(row: Mapping[str, Any], ours: str = "warm start") -> bool:
    """Whether one of `METHODS` needs at most half of PGD's evaluations, or reaches the level and PGD does not."""
    if row[ours] is None:
        return False
    return row["PGD"] is None or (row["PGD"] > 0 and row[ours] <= MAX_RATIO * row["PGD"])


def finding(rows: Sequence[Mapping[str, Any]], ours: str = "warm start") -> str:
    """A sentence about one of `METHODS`, from the rows of `evals_to_fraction` at one eps."""
    if not any(row["level"] for row in rows):
        return "is not compared: PGD-40 has no success here, or no metrics"
    cheap, expensive = ([row for row in rows if is_cheaper(row, ours) == expected] for expected in (True, False))
    if not expensive:
        return f"pays: at most half of PGD's evaluations for {_fractions(cheap)} of PGD-40's success"
    if not cheap:
        return (
            f"does not pay: more than half of PGD's evaluations, or never, for {_fractions(expensive)} of its success"
        )
    text = (
        f"{_fractions(cheap)} of PGD-40's success (at most half of PGD's evaluations), not for {_fractions(expensive)}"
    )
    return f"pays for {text}"


def _fractions(rows: Sequence[Mapping[str, Any]]) -> str:
    percentages = [f"{100 * row['share']:.0f}" for row in rows]
    return " and ".join(filter(None, [", ".join(percentages[:-1]), percentages[-1]])) + " %"


def diversity(x_adv: Tensor, success: Tensor, prediction: Tensor, noise: Tensor) -> dict[str, Any]:
    """Of k draws for each of n >= 1 images, as plain values.

    x_adv        (k, n, c, h, w) the draws
    success      (k, n) bool, is it misclassified?; prediction (k, n) of the target
    noise        (2, n, c, h, w) two independent sign noises of the same eps on the same images: the measure of distance

    union        draws -> ASR with its Wilson interval, an image counting where any of its first so many draws fools
    distance     mean l2 distance between two draws of an image, over the same of the two noises (both cut at the box,
                 so that 1 is as different as independent noise, and 0 is one attack many times)
    classes      mean number of different classes that the draws of an image are taken for; class_share over the k draws
    """
    k, n = success.shape
    pairs = list(combinations(range(k), 2))
    mean_distance = (
        torch.stack([_distance(x_adv[i], x_adv[j]) for i, j in pairs]).mean() if pairs else torch.tensor(0.0)
    )
    noise_distance = _distance(noise[0], noise[1]).mean()
    classes = torch.stack([(prediction == label).any(0) for label in prediction.unique()]).sum(0).double().mean().item()
    union_rates = {}
    for draws in (draws for draws in DRAWS if draws <= k):
        n_success = int(success[:draws].any(0).sum())
        union_rates[str(draws)] = [n_success / n, *wilson(n_success, n)]
    return {
        **{"n": n, "draws": k, "union": union_rates},
        "distance": (mean_distance / noise_distance.clamp_min(1e-12)).item(),
        **{"classes": classes, "class_share": classes / k},
    }


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """l2 distance (n,) between images (n, c, h, w)."""
    return (a - b).flatten(1).norm(dim=1)
