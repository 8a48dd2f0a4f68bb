"""What the sanity checks find in the results of one target, group by group."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from advgan.analysis.groups import Group, spec_of
from advgan.analysis.worst_case import any_success, worst_case
from advgan.core.threat_model import eps_text
from advgan.evaluation.evaluate import Result
from advgan.evaluation.statistics import mcnemar, wilson

LITTLE = 0.02  # how far ASR may move when the steps are doubled, and still count as settled
STILL = 0.01  # share of the images that may have a gradient of zero


class Measured(NamedTuple):
    """All results of one target, and by group the first seed of each attack with metrics."""

    results: list[Result]
    groups: dict[Group, list[Result]]
    num_classes: int


class Finding(NamedTuple):
    """Whether a rule is broken in one group, by how much, and the numbers in words."""

    violated: bool
    excess: float
    detail: str


def white_box(result: Result) -> bool:
    """It follows the target's gradients, in the threat's own norm: what DeepFool does in l2 says little under linf."""
    row = result.row
    return row["access"] == "gradients" and (row["protocol"] == "bounded" or row["attack_norm"] == row["norm"])


def fgsm(result: Result) -> bool:
    spec = spec_of(result)
    return spec is not None and spec.name == "fgsm"


def access(*kinds: str) -> Callable[[Result], bool]:
    return lambda result: result.row["access"] in kinds


def at_least(strong: Callable[[Result], bool], weak: Callable[[Result], bool]) -> Callable[[Measured], list[Finding]]:
    """In each group the strongest attack of one kind against the strongest of another, which must not beat it."""

    def search(measured: Measured) -> list[Finding]:
        found = []
        for group, members in measured.groups.items():
            ours, theirs = [r for r in members if strong(r)], [r for r in members if weak(r)]
            if ours and theirs:
                a, b = (max(kind, key=lambda result: result.row["asr"]) for kind in (ours, theirs))
                detail = f"{_rate(a)}, {_rate(b)} ({_threat(group)})"
                found.append(Finding(_clear(_success(b), _success(a)), b.row["asr"] - a.row["asr"], detail))
        return found

    return search


def grows(measured: Measured) -> list[Finding]:
    """At neighbouring eps, the worst case over those attacks that were run at both, one of more than one step."""
    ordered = sorted(measured.groups, key=lambda group: (group[1], -1 if group[3] is None else group[3], group[2]))
    found = []
    for small, large in pairwise(ordered):
        both = {r.row["attack"] for r in measured.groups[small]} & {r.row["attack"] for r in measured.groups[large]}
        many_steps = any(white_box(r) and not fgsm(r) for r in measured.groups[small] if r.row["attack"] in both)
        if (small[1], small[3]) != (large[1], large[3]) or not many_steps:
            continue
        narrow, wide = (_success(*(r for r in measured.groups[g] if r.row["attack"] in both)) for g in (small, large))
        fall = _share(*narrow) - _share(*wide)
        words = f"{_share(*narrow):.1%}, at {eps_text(large[2])} {_share(*wide):.1%}"
        detail = f"worst case of {len(both)} attacks at {_threat(small)}: {words}"
        found.append(Finding(_clear(narrow, wide), fall, detail))
    return found


def settled(measured: Measured) -> list[Finding]:
    """Of each gradient attack that was run with some number of steps and its double, the largest such pair."""
    found = []
    for group, members in measured.groups.items():
        ladders: dict[str, dict[int, Result]] = {}
        for result in members:
            spec = spec_of(result)
            if spec is None or spec.name == "advgan" or result.row["access"] != "gradients":
                continue  # a generator's few corrections are not meant to converge
            usual = inspect.signature(spec.attack.run).parameters.get("steps")
            if usual is not None:
                rest = sorted((key, value) for key, value in spec.settings.items() if key != "steps")
                ladders.setdefault(f"{spec.name} {rest}", {})[spec.settings.get("steps", usual.default)] = result
        for ladder in ladders.values():
            if doubled := [steps for steps in ladder if 2 * steps in ladder]:
                k = max(doubled)
                a, b = ladder[k], ladder[2 * k]
                change = abs(b.row["asr"] - a.row["asr"])
                clear = _clear(_success(a), _success(b)) or _clear(_success(b), _success(a))
                detail = f"{_rate(a)} with {k} steps, {b.row['asr']:.1%} with {2 * k} ({_threat(group)})"
                found.append(Finding(change > LITTLE and clear, change, detail))
    return found


def moves(measured: Measured) -> list[Finding]:
    """Images that a bounded white-box attack neither fools nor changes at all: their gradient is zero."""
    found = []
    for group, members in measured.groups.items():
        for result in members:
            if white_box(result) and result.row["protocol"] == "bounded":
                records, n = result.records, result.row["n_attacked"]
                still = int((records["counts"] & ~records["fooled"] & (records["linf"] == 0)).sum())
                detail = f"{result.row['attack']} leaves {still} of {n} images unchanged ({_threat(group)})"
                found.append(Finding(wilson(still, n)[0] > STILL, still / n, detail))
    return found


def unbounded(measured: Measured) -> list[Finding]:
    """At linf eps 0.5 and more, accuracy under the worst case of attacks, one at least white-box and of many steps."""
    found = []
    for group, members in measured.groups.items():
        many_steps = any(white_box(result) and not fgsm(result) for result in members)
        if group[1] != "linf" or group[2] < 0.5 or not many_steps:
            continue
        (worst,), label = worst_case(members), members[0].records["label"]
        n, accuracy = len(label), worst["robust_accuracy"]
        # Images of the class that is aimed at may stay as they are.
        spared = 0 if group[3] is None else (label == group[3]).double().mean().item()
        chance = max(1 / measured.num_classes, spared)
        low, high = wilson(round(accuracy * n), n)
        detail = f"accuracy {accuracy:.1%} [{low:.1%}, {high:.1%}], chance {chance:.1%} ({_threat(group)})"
        found.append(Finding(low > chance, low - chance, detail))
    return found


def completed(measured: Measured) -> list[Finding]:
    """Results without metrics: the attack raised or violated the threat model."""
    failed = [result.row for result in measured.results if result.row["status"] != "ok"]
    reasons = list(dict.fromkeys(f"{row['attack']} {row['status']}" for row in failed))
    shown = "; ".join(reasons[:3]) + (f"; and {len(reasons) - 3} more" if len(reasons) > 3 else "")
    count = f"{len(measured.results) - len(failed)} of {len(measured.results)} results have metrics"
    return [Finding(bool(failed), len(failed), f"{count}: {shown}" if failed else count)]


# Successes of one or several results: who, of those that count


def _success(*results: Result) -> tuple[Tensor, Tensor]:
    """Which images at least one of the results fools within eps, and which count: bools, (n,) each."""
    return any_success(results), results[0].records["counts"]


def _share(success: Tensor, counts: Tensor) -> float:
    return int(success.sum()) / int(counts.sum())


def _clear(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> bool:
    """Whether a has more successes than b, clearly: by McNemar on the same images, else by intervals apart."""
    (success_a, counts_a), (success_b, counts_b) = a, b
    if torch.equal(counts_a, counts_b):
        only_a, only_b, p = mcnemar(success_a, success_b)
        return only_a > only_b and p < 0.05
    return wilson(int(success_a.sum()), int(counts_a.sum()))[0] > wilson(int(success_b.sum()), int(counts_b.sum()))[1]


def _rate(result: Result) -> str:
    return f"{result.row['attack']} {result.row['asr']:.1%}"


def _threat(group: Group) -> str:
    _, norm, eps, y_target = group
    return f"{norm} eps {eps_text(eps)}" + ("" if y_target is None else f", toward class {y_target}")
