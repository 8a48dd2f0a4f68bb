"""One pass of an attack over the images, on the clock and under watch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from advgan.attacks.registry import AttackFn
from advgan.core.threat_model import Threat
from advgan.defenses import unwrap
from advgan.evaluation.instrumentation import Counter, ModelSnapshot
from advgan.evaluation.verify import ThreatModelViolation, verify_examples

T = TypeVar("T")
WARM_UP = 8  # images; memory, kernels and threads are in place after them


@dataclass(frozen=True)
class Run:
    """What came of one pass.

    columns   per image (n,): what `verify_examples` measures, and `queries`, forwards per image of its batch
    x_adv     the first answers (k, c, h, w)
    cost      time and model calls; behind a defense, those of the classifier
    """

    columns: dict[str, Tensor]
    x_adv: Tensor
    cost: dict[str, float]


def run_attack(
    attack: AttackFn,
    target: nn.Module,
    x: Tensor,
    y: Tensor,
    limits: Threat,
    *,
    batch_size: int,
    keep: int,
    progress: Callable[[int], None],
) -> Run:
    """Attack all images `x` (n, c, h, w), n >= 1, in batches, and verify each adversarial example against `limits`.

    The time is the median over batches of equal size. Of three or more, the first is the warm-up and left out; where
    there are fewer, the first few images are attacked once before. Raises ThreatModelViolation at the first one,
    and whatever the attack raises; the target is as before either way.
    """
    equal = max(len(x) // batch_size, 1)
    counter, snapshot = Counter(unwrap(target)), ModelSnapshot(target)
    measured: list[dict[str, Tensor]] = []
    kept: list[Tensor] = []
    seconds: list[float] = []
    try:
        for start in range(0, len(x), batch_size):
            x_clean, label = (part[start : start + batch_size].to(device_of(target)) for part in (x, y))
            if start == 0 and equal <= 2:
                attack(x_clean[:WARM_UP].clone(), label[:WARM_UP].clone())
            before = counter.forwards
            with counter:
                x_adv, duration = _lent(attack, x_clean, label)
            columns = verify_examples(target, x_clean, x_adv, limits)
            queries = (counter.forwards - before) / len(x_clean)
            seconds.append(duration / len(x_clean))
            measured.append(columns | {"queries": torch.full((len(x_clean),), queries)})
            if start < keep:
                kept.append(x_adv[: keep - start].cpu().clone())  # its buffer may be used again
            progress(len(x_clean))
    finally:
        changes = snapshot.changes()
        snapshot.restore()
    if changes:
        raise ThreatModelViolation(changes)

    first = 1 if equal > 2 else 0
    typical = float(np.median(seconds[first:equal]))
    cost = {
        "seconds_per_image": typical,
        "images_per_second": 1 / typical,
        "forwards_per_image": counter.forwards / len(x),
        "backwards_per_image": counter.backwards / len(x),
    }
    joined = {name: torch.cat([batch[name] for batch in measured]) for name in measured[0]}
    return Run(joined, torch.cat(kept)[:keep] if kept else x[:0], cost)


def _lent(attack: AttackFn, x: Tensor, y: Tensor) -> tuple[Any, float]:
    """What the attack answers to one batch, and the seconds it took; it gets copies, and must leave them alone."""
    x_lent, y_lent = x.clone(), y.clone()
    x_adv, duration = timed(x.device, attack, x_lent, y_lent)
    if not (torch.equal(x_lent, x) and torch.equal(y_lent, y)):
        raise ThreatModelViolation(["the input was changed in place"])
    return x_adv, duration


def timed(device: torch.device, call: Callable[..., T], *given: Any) -> tuple[T, float]:
    """What `call` returns, and the seconds until the device has done it."""
    _synchronise(device)
    began = time.perf_counter()
    answer = call(*given)
    _synchronise(device)
    return answer, time.perf_counter() - began


def _synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was told: its calls return before."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def device_of(model: nn.Module) -> torch.device:
    """Where a model lives; one without parameters is taken to run on the CPU."""
    return next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
