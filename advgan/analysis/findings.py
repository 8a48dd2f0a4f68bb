"""Findings of the sanity checks in the results of one target, group by group."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple, Self

import torch
from torch import Tensor

from advgan.analysis.groups import Group, Scenario, by_attack, first_seeds, groups, sort_key, spec_of
from advgan.analysis.worst_case import any_success, worst_case
from advgan.core.fraction import eps_text
from advgan.evaluation.evaluate import Result
from advgan.evaluation.metrics import MANY_CLASSES, LargestClass
from advgan.evaluation.statistics import mcnemar, wilson

STEP_TOLERANCE = 0.02  # largest change of the ASR with twice the steps that counts as converged
MAX_ZERO_GRADIENTS = 0.01  # largest fraction of images with a gradient of zero


class ModelResults(NamedTuple):
    """All results of one target, and by group the first seed of each attack with metrics."""

    results: list[Result]
    groups: dict[Group, list[Result]]
    num_classes: int

    @classmethod
    def of_each(cls, results: Sequence[Result], num_classes: int) -> Iterator[tuple[str, Self]]:
        """The targets of `results`, each with its own."""
        for target in dict.fromkeys(result.row["target"] for result in results):
            own = [result for result in results if result.row["target"] == target]
            yield target, cls(own, {group: first_seeds(runs) for group, runs in groups(own).items()}, num_classes)

    def each(self) -> Iterator[tuple[Group, Result]]:
        """The results with metrics, one by one."""
        return ((group, result) for group, members in self.groups.items() for result in members)


class Finding(NamedTuple):
    """Whether a rule is violated in one group, by how much, and the numbers as text."""

    violated: bool
    excess: float
    detail: str


def white_box(result: Result) -> bool:
    """Whether the attack follows the target's gradients in the threat's norm (not DeepFool in l2 under linf)."""
    row = result.row
    return row["access"] == "gradients" and (row["protocol"] == "bounded" or row["attack_norm"] == row["norm"])


def fgsm(result: Result) -> bool:
    spec = spec_of(result)
    return spec is not None and spec.name == "fgsm"


def access(*kinds: str) -> Callable[[Result], bool]:
    return lambda result: result.row["access"] in kinds


def at_least(
    strong: Callable[[Result], bool], weak: Callable[[Result], bool]
) -> Callable[[ModelResults], list[Finding]]:
    """In each group the strongest attack of one kind compared with the strongest of another, which must not beat it."""

    def search(model_results: ModelResults) -> list[Finding]:
        comparisons = []
        for group, members in model_results.groups.items():
            strong_results, weak_results = [r for r in members if strong(r)], [r for r in members if weak(r)]
            if strong_results and weak_results:
                a, b = (max(kind, key=lambda result: result.row["asr"]) for kind in (strong_results, weak_results))
                detail = f"{_rate(a)}, {_rate(b)} ({_threat(group)})"
                comparisons.append(Finding(_significant(_success(b), _success(a)), b.row["asr"] - a.row["asr"], detail))
        return comparisons

    return search


def monotone_in_eps(model_results: ModelResults) -> list[Finding]:
    """The worst case at neighbouring eps, over the attacks that were run at both, one of them of several steps."""
    by_threat: dict[Scenario, list[Group]] = {}
    for group in sorted(model_results.groups, key=sort_key):
        by_threat.setdefault(group.scenario, []).append(group)
    comparisons = []
    for small, large in (pair for ordered in by_threat.values() for pair in pairwise(ordered)):
        attacks = [by_attack(model_results.groups[group]) for group in (small, large)]
        common = attacks[0].keys() & attacks[1].keys()
        if not any(white_box(attacks[0][name][0]) and not fgsm(attacks[0][name][0]) for name in common):
            continue
        narrow, wide = (_success(*(runs[0] for name, runs in of.items() if name in common)) for of in attacks)
        fall = _rate_of(*narrow) - _rate_of(*wide)
        rates = f"{_rate_of(*narrow):.1%}, at {eps_text(large.eps)} {_rate_of(*wide):.1%}"
        detail = f"worst case of {len(common)} attacks at {_threat(small)}: {rates}"
        comparisons.append(Finding(_significant(narrow, wide), fall, detail))
    return comparisons


def steps_converged(model_results: ModelResults) -> list[Finding]:
    """Per gradient attack that was run with k and with 2 k steps, the ASR at the largest such k."""
    comparisons = []
    for group, members in model_results.groups.items():
        ladders: dict[str, dict[int, Result]] = {}
        for result in members:
            spec = spec_of(result)
            if spec is None or spec.name == "advgan" or result.row["access"] != "gradients":
                continue  # the few gradient steps after a generator's pass need not converge
            steps_parameter = inspect.signature(spec.attack.run).parameters.get("steps")
            if steps_parameter is not None:
                other_settings = sorted((key, value) for key, value in spec.settings.items() if key != "steps")
                ladders.setdefault(f"{spec.name} {other_settings}", {})[
                    spec.settings.get("steps", steps_parameter.default)
                ] = result
        for ladder in ladders.values():
            if doubled := [steps for steps in ladder if 2 * steps in ladder]:
                k = max(doubled)
                a, b = ladder[k], ladder[2 * k]
                change = abs(b.row["asr"] - a.row["asr"])
                clear = _significant(_success(a), _success(b)) or _significant(_success(b), _success(a))
                detail = f"{_rate(a)} with {k} steps, {b.row['asr']:.1%} with {2 * k} ({_threat(group)})"
                comparisons.append(Finding(change > STEP_TOLERANCE and clear, change, detail))
    return comparisons


def nonzero_gradients(model_results: ModelResults) -> list[Finding]:
    """Images that a bounded white-box attack leaves unchanged, without success: their gradient is zero."""
    zero_gradients = []
    for group, result in model_results.each():
        if white_box(result) and result.row["protocol"] == "bounded":
            records, n = result.records, result.row["n_attacked"]
            unchanged = int((records["counts"] & ~records["fooled"] & (records["linf"] == 0)).sum())
            detail = f"{result.row['attack']} leaves {unchanged} of {n} images unchanged ({_threat(group)})"
            zero_gradients.append(Finding(wilson(unchanged, n)[0] > MAX_ZERO_GRADIENTS, unchanged / n, detail))
    return zero_gradients


def chance_at_large_eps(model_results: ModelResults) -> list[Finding]:
    """At linf eps 0.5 and more, accuracy under the worst case of attacks, one at least white-box and of many steps."""
    accuracies = []
    for group, members in model_results.groups.items():
        many_steps = any(white_box(result) and not fgsm(result) for result in members)
        if group.norm != "linf" or group.eps < 0.5 or not many_steps:
            continue
        (worst,), label = worst_case(members), members[0].records["label"]
        n, accuracy = len(label), worst["robust_accuracy"]
        # Images of the target class may stay as they are.
        spared = 0 if group.y_target is None else (label == group.y_target).double().mean().item()
        chance = max(1 / model_results.num_classes, spared)
        low, high = wilson(round(accuracy * n), n)
        detail = f"accuracy {accuracy:.1%} [{low:.1%}, {high:.1%}], chance {chance:.1%} ({_threat(group)})"
        accuracies.append(Finding(low > chance, low - chance, detail))
    return accuracies


def spread_over_classes(model_results: ModelResults) -> list[Finding]:
    """The share of the images that an untargeted generator brings into one class, the most frequent one."""
    shares: list[Finding] = []
    if model_results.num_classes < MANY_CLASSES:
        return shares
    for group, result in model_results.each():
        success = result.records["success"]
        if group.y_target is None and result.row["access"] == "generator" and success.any():
            predicted = result.records["prediction"][success].bincount(minlength=model_results.num_classes)
            top = LargestClass.of(predicted, n := result.row["n_attacked"])
            images = f"{top.most} of {n} images into class {top.y}"
            detail = f"{result.row['attack']} brings {images} ({_threat(group)})"
            shares.append(Finding(top.too_many, top.most / n - top.limit, detail))
    return shares


def all_succeeded(model_results: ModelResults) -> list[Finding]:
    """Results without metrics: the attack raised or violated the threat model."""
    failed = [result.row for result in model_results.results if result.row["status"] != "ok"]
    reasons = list(dict.fromkeys(f"{row['attack']} {row['status']}" for row in failed))
    shown = "; ".join(reasons[:3]) + (f"; and {len(reasons) - 3} more" if len(reasons) > 3 else "")
    count = f"{len(model_results.results) - len(failed)} of {len(model_results.results)} results have metrics"
    return [Finding(bool(failed), len(failed), f"{count}: {shown}" if failed else count)]


# Success of one or several results on the eligible images


def _success(*results: Result) -> tuple[Tensor, Tensor]:
    """Whether any of the results succeeds within eps, and whether the image is eligible: bools, (n,) each."""
    return any_success(results), results[0].records["counts"]


def _rate_of(success: Tensor, eligible: Tensor) -> float:
    return int(success.sum()) / int(eligible.sum())


def _significant(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> bool:
    """Whether `a` has significantly more successes than `b`: McNemar on the same images, else disjoint intervals."""
    (success_a, eligible_a), (success_b, eligible_b) = a, b
    if torch.equal(eligible_a, eligible_b):
        only_a, only_b, p = mcnemar(success_a, success_b)
        return only_a > only_b and p < 0.05
    (low_a, _), (_, high_b) = (wilson(int(hits.sum()), int(n.sum())) for hits, n in (a, b))
    return low_a > high_b


def _rate(result: Result) -> str:
    return f"{result.row['attack']} {result.row['asr']:.1%}"


def _threat(group: Group) -> str:
    _, norm, eps, y_target = group
    return f"{norm} eps {eps_text(eps)}" + ("" if y_target is None else f", toward class {y_target}")
