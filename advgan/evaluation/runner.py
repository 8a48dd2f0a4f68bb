"""One pass of an attack over the images, timed, with model calls counted and changes detected; and the time of attacks
in units of another one on the same images: what a budget is measured in."""

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from advgan.attacks.registry import AttackFn
from advgan.core.errors import InputError
from advgan.core.threat_model import Threat
from advgan.core.weights import device_of
from advgan.defenses import Transforms, unwrap
from advgan.evaluation.instrumentation import CallCounter, ModelSnapshot
from advgan.evaluation.verify import ThreatModelViolation, verify_examples

T = TypeVar("T")
MadeBatches = dict[int, tuple[Tensor, float]]  # index of a batch's first image -> x_adv, seconds
MOST_CALLS = 20  # of a fast attack between two calls of the reference
WARM_UP = 8  # images; memory, kernels and threads are in place after them


def run_attack(
    attack: AttackFn,
    target: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat | None,
    *,
    batch_size: int,
    keep: int,
    progress: Callable[[int], None],
    transforms: Transforms | None = None,
    made: MadeBatches | None = None,
) -> tuple[dict[str, Tensor], Tensor, dict[str, float]]:
    """Attack all images `x` (n, c, h, w), n >= 1, in batches, and verify each adversarial example against `threat`
    (None: the box alone). Returns the columns per image (n,) of `verify_examples`, and `queries`, forwards per image of
    its batch; the first adversarial examples (k, c, h, w); and time and model calls, behind a defense those of the
    classifier.

    made   batches that were made before are not made again, others are added

    The time is the median over batches of equal size. Of three or more, the first is the warm-up and left out; where
    there are fewer, the first few images are attacked once before. Raises ThreatModelViolation at the first one,
    and whatever the attack raises; the target is as before either way.
    """
    n_equal = max(len(x) // batch_size, 1)
    if transforms:
        transforms.reseed(0)
    counter, snapshot = CallCounter(unwrap(target)), ModelSnapshot(target)
    measured: list[dict[str, Tensor]] = []
    x_adv_parts: list[Tensor] = []
    seconds: list[float] = []
    try:
        for start in range(0, len(x), batch_size):
            x_clean, label = (part[start : start + batch_size].to(device_of(target)) for part in (x, y))
            before = counter.forwards
            if made and start in made:
                x_adv, duration = made[start][0].to(x_clean.device), made[start][1]
            else:
                if start == 0 and n_equal <= 2:
                    attack(x_clean[:WARM_UP].clone(), label[:WARM_UP].clone())
                with counter:
                    x_adv, duration = _call_timed(attack, x_clean, label)
            columns = verify_examples(target, x_clean, x_adv, threat, transforms)
            queries = (counter.forwards - before) / len(x_clean)
            if made is not None:
                made[start] = x_adv.cpu().clone(), duration
            seconds.append(duration / len(x_clean))
            measured.append(columns | {"queries": torch.full((len(x_clean),), queries)})
            if start < keep:
                x_adv_parts.append(x_adv[: keep - start].cpu().clone())  # the attack may reuse its buffer
            progress(len(x_clean))
    finally:
        changes = snapshot.changes()
        snapshot.restore()
    if changes:
        raise ThreatModelViolation(changes)

    first = 1 if n_equal > 2 else 0
    seconds_per_image = median(seconds[first:n_equal])
    cost = {
        "seconds_per_image": seconds_per_image,
        "images_per_second": 1 / seconds_per_image,
        "forwards_per_image": counter.forwards / len(x),
        "backwards_per_image": counter.backwards / len(x),
    }
    joined = {name: torch.cat([batch[name] for batch in measured]) for name in measured[0]}
    return joined, torch.cat(x_adv_parts)[:keep] if x_adv_parts else x[:0], cost


def _call_timed(attack: AttackFn, x: Tensor, y: Tensor) -> tuple[Any, float]:
    """x_adv of one batch, and its time in seconds. Raises ThreatModelViolation if the attack changes its input."""
    x_copy, y_copy = x.clone(), y.clone()
    x_adv, duration = timed(x.device, attack, x_copy, y_copy)
    if not (torch.equal(x_copy, x) and torch.equal(y_copy, y)):
        raise ThreatModelViolation(["the input was changed in place"])
    return x_adv, duration


def timed(device: torch.device, call: Callable[..., T], *arguments: Any) -> tuple[T, float]:
    """Result of `call`, and the seconds until the device has finished."""
    _synchronise(device)
    began = time.perf_counter()
    result = call(*arguments)
    _synchronise(device)
    return result, time.perf_counter() - began


def _synchronise(device: torch.device) -> None:
    """Wait for asynchronous calls of the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


@torch.no_grad()
def relative_time(model: nn.Module, base: nn.Module, x: Tensor, rounds: int = 20) -> float:
    """Time of `model` for images `x` (n, c, h, w) over that of `base`: minima over `rounds`, in alternation, because
    other load of the machine only adds to a time."""
    x = x.to(device_of(base))
    times = [[timed(x.device, network, x)[1] for network in (model, base)] for _ in range(rounds + 1)]
    model_times, base_times = (min(network) for network in zip(*times[1:], strict=True))  # the first warms up
    return model_times / base_times


def time_ratios(
    attacks: Mapping[str, AttackFn],
    reference: AttackFn,
    x: Tensor,
    y: Tensor,
    *,
    batch_size: int,
    repeats: int = 5,
    progress: Callable[[int], None] = lambda measured: None,
) -> dict[str, list[float]]:
    """Time of each attack over that of `reference` on the same batch, once for each of `repeats` rounds.

    x, y   images (n, c, h, w) and labels (n,), on the device of the attacks; a round takes one batch of `batch_size`,
           the next round the next one
    progress   called with 1 after each attack of each round, the first one included
    A round runs the reference right before each attack, so that a load of the machine that changes slowly is in both
    times; an attack that is much faster is run several times. A round before them warms up. Raises InputError for no
    rounds.
    """
    if repeats < 1:
        raise InputError(f"repeats must be at least 1, got {repeats}")
    size = min(batch_size, len(x))
    starts = range(0, len(x) - size + 1, size)
    ratios: dict[str, list[float]] = {name: [] for name in attacks}
    for i in range(repeats + 1):
        first = starts[max(i - 1, 0) % len(starts)]
        images, labels = x[first : first + size], y[first : first + size]
        for name, attack in attacks.items():
            _, unit = timed(x.device, reference, images, labels)
            _, once = timed(x.device, attack, images, labels)
            progress(1)
            if i == 0:
                continue
            calls = min(max(round(unit / max(once, 1e-9)), 1), MOST_CALLS)
            seconds = [once, *(timed(x.device, attack, images, labels)[1] for _ in range(calls - 1))]
            ratios[name].append(sum(seconds) / len(seconds) / unit)
    return ratios


def time_columns(ratios: Sequence[float] | None) -> dict[str, float | None]:
    """The median of ratios of times, and their range, as columns of a row; None: not timed."""
    values = (median(ratios), min(ratios), max(ratios)) if ratios else (None,) * 3
    return dict(zip(("time", "time_low", "time_high"), values, strict=True))
