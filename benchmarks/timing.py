"""Attacks timed in turn on the same images, with their success and norms."""

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

BenchmarkRow = dict[str, Any]
WARM_UP = 8  # images


@dataclass(frozen=True)
class BenchmarkSetup:
    """Model, images and limits of a benchmark.

    model         the target, frozen, in eval mode
    x, y, logits  images (n, c, h, w) and labels (n,) on its device, and its logits (n, k) for them on the CPU
    batch_sizes   batch sizes of each attack
    rounds        largest number of passes over the images with each batch size
    budget        seconds for a section, shared among contenders and batch sizes
    advance       called after each pass
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
class Timings:
    """By contender and batch size: seconds per pass, one per round, and the last outputs. By contender: its failure."""

    seconds: dict[tuple[str, int], list[float]] = field(default_factory=dict)
    outputs: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


def interleave(setup: BenchmarkSetup, contenders: dict[str, AttackFn]) -> Timings:
    """Each contender attacks all images once per round and batch size, in turn; one without time left has one round.

    Before the first round each attacks a few images and, if it is fast, a batch of each size, as a warm-up.
    """
    timings, seconds_each = Timings(), setup.budget / len(contenders) / len(setup.batch_sizes)
    timings.seconds = {(contender, size): [] for size in setup.batch_sizes for contender in contenders}

    def attempt(contender: str, n: int, size: int) -> float:
        def run() -> Tensor:
            parts = zip(setup.x[:n].split(size), setup.y[:n].split(size), strict=True)
            return torch.cat([contenders[contender](*part) for part in parts])

        try:
            output, seconds = timed(setup.x.device, run)
        except Exception as error:  # another library may fail at anything
            timings.failures[contender] = f"failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
            return 0.0
        if n == len(setup.x):
            timings.outputs[contender, size] = output.detach()
        return seconds

    for contender in contenders:
        warm_up_seconds = attempt(contender, WARM_UP, WARM_UP)
        for size in setup.batch_sizes:
            if warm_up_seconds * size / WARM_UP < seconds_each / 10 and contender not in timings.failures:
                attempt(contender, size, size)
    for _ in range(setup.rounds):
        for (contender, size), seconds in timings.seconds.items():
            if contender not in timings.failures and (not seconds or sum(seconds) < seconds_each):
                seconds.append(attempt(contender, len(setup.x), size))
                setup.advance()
    return timings


def compare_attacks(
    setup: BenchmarkSetup,
    contenders: dict[str, AttackFn],
    references: list[str],
    threat: Threat,
    *,
    y_target: int | None = None,
    minimal: bool = False,
) -> list[BenchmarkRow]:
    """Time the contenders in turn: speed, time over that of each of the `references`, success and norms of each.

    threat     the ball of the adversarial examples, unless `minimal`: those of minimum-norm attacks
    y_target   the target class of all
    """
    timings = interleave(setup, contenders)
    best_size = {
        contender: min(setup.batch_sizes, key=lambda size: statistics.median(timings.seconds[contender, size]))
        for contender in contenders
        if contender not in timings.failures
    }
    rows: list[BenchmarkRow] = []
    for contender in contenders:
        if contender in timings.failures:
            rows.append({"side": contender, "status": timings.failures[contender]})
            continue
        seconds = timings.seconds[contender, best_size[contender]]
        reference_seconds = {
            reference: timings.seconds[reference, best_size[reference]]
            for reference in references
            if reference in best_size
        }
        rows.append(
            {
                **{"side": contender, "status": "ok", "batch_size": best_size[contender], "rounds": len(seconds)},
                "seconds": {size: timings.seconds[contender, size] for size in setup.batch_sizes},
                "images_per_second": {
                    size: len(setup.x) / statistics.median(timings.seconds[contender, size])
                    for size in setup.batch_sizes
                },
                "times": {
                    reference: median_and_range(
                        [slow / fast for slow, fast in zip(seconds, reference_times, strict=False)]
                    )
                    for reference, reference_times in reference_seconds.items()
                },
                **success_and_norms(setup, timings.outputs[contender, best_size[contender]], threat, y_target, minimal),
            }
        )
    return rows


def success_and_norms(
    setup: BenchmarkSetup, x_adv: Tensor, threat: Threat, y_target: int | None, minimal: bool
) -> BenchmarkRow:
    """ASR and mean norms over the eligible images (norms of a minimum-norm attack: over its successes).

    Empty for outputs that are no images: those of the target's forward pass.
    """
    if x_adv.shape != setup.x.shape:
        return {}
    clean = clean_records(setup.logits, setup.y.cpu(), y_target)
    prediction, eligible = predict(setup.model, x_adv).argmax(1), clean["counts"]
    success = eligible & (prediction != clean["label"] if y_target is None else prediction == y_target)
    norms = {
        name: value.cpu()[success if minimal else eligible] for name, value in delta_norms(x_adv - setup.x).items()
    }
    ball = Threat("linf", 1.0) if minimal else threat
    return {
        "asr": (success.sum() / eligible.sum()).item(),
        "l2_mean": norms["l2"].mean().item() if len(norms["l2"]) else None,
        "linf_mean": norms["linf"].mean().item() if len(norms["linf"]) else None,
        "violations": ball.violations(x_adv, setup.x),
    }


def median_and_range(values: list[float]) -> list[float]:
    return [statistics.median(values), min(values), max(values)]
