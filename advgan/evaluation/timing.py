"""The time of attacks in units of another one on the same images: what a budget is measured in."""

from collections.abc import Mapping, Sequence
from statistics import median

from torch import Tensor

from advgan.attacks.registry import AttackFn
from advgan.core.errors import InputError
from advgan.evaluation.runner import timed

MOST_CALLS = 20  # of a fast attack between two calls of the reference


def time_ratios(
    attacks: Mapping[str, AttackFn], reference: AttackFn, x: Tensor, y: Tensor, *, batch_size: int, repeats: int = 5
) -> dict[str, list[float]]:
    """Time of each attack over that of `reference` on the same batch, once for each of `repeats` rounds.

    x, y   images (n, c, h, w) and labels (n,), on the device of the attacks; a round takes one batch of `batch_size`,
           the next round the next one
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
