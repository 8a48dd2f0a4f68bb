"""Attacks timed in turn on the same images, and what each of them found."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from advgan.attacks import AttackFn
from advgan.core.threat_model import Threat, delta_norms
from advgan.evaluation import predict
from advgan.evaluation.metrics import clean_records
from advgan.evaluation.runner import timed

Row = dict[str, Any]
WARM_UP = 8  # images


@dataclass(frozen=True)
class Bench:
    """What all sides share.

    model         the target, frozen, in eval mode
    x, y, logits  images (n, c, h, w) and labels (n,) beside it, and its logits (n, k) of them on the CPU
    batch_sizes   how many images an attack is given at once; each of them is tried
    rounds        how often a side passes over the images with each batch size, at most
    budget        seconds for a race, shared among sides and batch sizes
    advance       told of each pass
    """

    model: nn.Module
    x: Tensor
    y: Tensor
    logits: Tensor
    batch_sizes: list[int]
    rounds: int
    budget: float
    advance: Callable[[], None] = lambda: None


@dataclass
class Race:
    """By side and batch size: seconds per pass, one per round, and the last answers. By side: why it dropped out."""

    seconds: dict[tuple[str, int], list[float]] = field(default_factory=dict)
    answers: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


def race(bench: Bench, sides: dict[str, AttackFn]) -> Race:
    """Each side passes over all images once per round and batch size, in turn. Who has used up its time has one round.

    Before the first round each attacks a few images, and a batch of each size if those say that it is quick.
    """
    found, share = Race(), bench.budget / len(sides) / len(bench.batch_sizes)
    found.seconds = {(side, size): [] for size in bench.batch_sizes for side in sides}

    def attempt(side: str, n: int, size: int) -> float:
        def run() -> Tensor:
            parts = zip(bench.x[:n].split(size), bench.y[:n].split(size), strict=True)
            return torch.cat([sides[side](*part) for part in parts])

        try:
            answer, seconds = timed(bench.x.device, run)
        except Exception as error:  # another library may fail at anything
            found.failures[side] = f"failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
            return 0.0
        if n == len(bench.x):
            found.answers[side, size] = answer.detach()
        return seconds

    for side in sides:
        few = attempt(side, WARM_UP, WARM_UP)
        for size in bench.batch_sizes:
            if few * size / WARM_UP < share / 10 and side not in found.failures:
                attempt(side, size, size)
    for _ in range(bench.rounds):
        for (side, size), seconds in found.seconds.items():
            if side not in found.failures and (not seconds or sum(seconds) < share):
                seconds.append(attempt(side, len(bench.x), size))
                bench.advance()
    return found


def compete(
    bench: Bench,
    sides: dict[str, AttackFn],
    heroes: list[str],
    threat: Threat,
    *,
    y_target: int | None = None,
    minimal: bool = False,
) -> list[Row]:
    """Race the sides, and say of each how fast it was, how much faster each of the `heroes` is, and what it answered.

    threat     the ball that the answers must lie in, unless `minimal`: those of minimal-norm attacks
    y_target   the class that all aim at
    """
    found = race(bench, sides)
    best = {
        side: min(bench.batch_sizes, key=lambda size: statistics.median(found.seconds[side, size]))
        for side in sides
        if side not in found.failures
    }
    rows: list[Row] = []
    for side in sides:
        if side in found.failures:
            rows.append({"side": side, "status": found.failures[side]})
            continue
        own = found.seconds[side, best[side]]
        rivals = {hero: found.seconds[hero, best[hero]] for hero in heroes if hero in best}
        rows.append(
            {
                **{"side": side, "status": "ok", "batch_size": best[side], "rounds": len(own)},
                "seconds": {size: found.seconds[side, size] for size in bench.batch_sizes},
                "images_per_second": {
                    size: len(bench.x) / statistics.median(found.seconds[side, size]) for size in bench.batch_sizes
                },
                "times": {
                    hero: median_and_range([slow / fast for slow, fast in zip(own, hers, strict=False)])
                    for hero, hers in rivals.items()
                },
                **judged(bench, found.answers[side, best[side]], threat, y_target, minimal),
            }
        )
    return rows


def judged(bench: Bench, x_adv: Tensor, threat: Threat, y_target: int | None, minimal: bool) -> Row:
    """ASR over the images that count, and mean norms over those (of a minimal-norm attack, over those it fooled).

    Empty for what is no image: the target's own forward is timed too.
    """
    if x_adv.shape != bench.x.shape:
        return {}
    clean = clean_records(bench.logits, bench.y.cpu(), y_target)
    prediction, counts = predict(bench.model, x_adv).argmax(1), clean["counts"]
    fooled = counts & (prediction != clean["label"] if y_target is None else prediction == y_target)
    norms = {name: value.cpu()[fooled if minimal else counts] for name, value in delta_norms(x_adv - bench.x).items()}
    limits = Threat("linf", 1.0) if minimal else threat
    return {
        "asr": (fooled.sum() / counts.sum()).item(),
        "l2_mean": norms["l2"].mean().item() if len(norms["l2"]) else None,
        "linf_mean": norms["linf"].mean().item() if len(norms["linf"]) else None,
        "violations": limits.violations(x_adv, bench.x),
    }


def median_and_range(values: list[float]) -> list[float]:
    return [statistics.median(values), min(values), max(values)]
