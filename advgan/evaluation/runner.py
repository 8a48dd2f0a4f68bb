"""One pass of an attack over the images, on the clock and under watch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from advgan.attacks.registry import Bound
from advgan.evaluation.certify import measure, violations
from advgan.evaluation.witness import Counter, Snapshot
from advgan.threat import Threat


class Broken(Exception):
    """An attack broke a rule: `violations` says which, in words."""

    def __init__(self, violations: list[str]) -> None:
        super().__init__("; ".join(violations))
        self.violations = violations


@dataclass(frozen=True)
class Run:
    """columns: what `measure` finds, per image (n,); x_adv: the first answers (k, c, h, w); cost: time, model calls."""

    columns: dict[str, Tensor]
    x_adv: Tensor
    cost: dict[str, float]


def run_attack(
    attack: Bound,
    target: nn.Module,
    x: Tensor,
    y: Tensor,
    limits: Threat,
    *,
    batch_size: int,
    keep: int,
    progress: Callable[[int], None],
) -> Run:
    """Attack all images `x` (n, c, h, w), n >= 1, in batches, and certify each answer against `limits`.

    Raises Broken at the first rule that is broken, and whatever the attack raises; the target is as before either way.
    """
    counter, snapshot = Counter(target), Snapshot(target)
    measured: list[dict[str, Tensor]] = []
    kept: list[Tensor] = []
    seconds: list[float] = []
    try:
        for start in range(0, len(x), batch_size):
            x_clean, label = (part[start : start + batch_size].to(device_of(target)) for part in (x, y))
            if start == 0:
                attack(x_clean.clone(), label.clone())  # a warm-up: memory, kernels and threads are in place after it
            with counter:
                x_adv, duration = _timed(attack, x_clean, label)
            if broken := violations(x_adv, x_clean, limits):
                raise Broken(broken)
            seconds.append(duration / len(x_clean))
            measured.append(measure(target, x_clean, x_adv))
            if start < keep:
                kept.append(x_adv.cpu())
            progress(len(x_clean))
    finally:
        changes = snapshot.changes()
        snapshot.restore()
    if changes:
        raise Broken(changes)

    typical = float(np.median(seconds[: max(len(x) // batch_size, 1)]))  # over batches of equal size
    cost = {
        "seconds_per_image": typical,
        "images_per_second": 1 / typical,
        "forwards_per_image": counter.forwards / len(x),
        "backwards_per_image": counter.backwards / len(x),
    }
    columns = {name: torch.cat([batch[name] for batch in measured]) for name in measured[0]}
    return Run(columns, torch.cat(kept)[:keep] if kept else x[:0], cost)


def _timed(attack: Bound, x: Tensor, y: Tensor) -> tuple[Any, float]:
    """What the attack answers to one batch, and the seconds it took; it gets copies, and must leave them alone."""
    x_lent, y_lent = x.clone(), y.clone()
    _synchronise(x.device)
    start = time.perf_counter()
    x_adv = attack(x_lent, y_lent)
    _synchronise(x.device)
    duration = time.perf_counter() - start
    if not (torch.equal(x_lent, x) and torch.equal(y_lent, y)):
        raise Broken(["the input was changed in place"])
    return x_adv, duration


def _synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was told: its calls return before."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def device_of(model: nn.Module) -> torch.device:
    """Where a model lives; one without parameters is taken to run on the CPU."""
    return next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
