"""What a defence costs at every answer: its time beside another classifier's, taken in turn."""

from __future__ import annotations

from statistics import median

import torch
from torch import Tensor, nn

from advgan.evaluation.runner import device_of, timed

ROUNDS = 7


@torch.no_grad()
def relative_time(model: nn.Module, base: nn.Module, x: Tensor, rounds: int = ROUNDS) -> float:
    """Seconds that `model` takes to answer images `x` (n, c, h, w), over those of `base`: the median of `rounds` in
    each of which both are timed, so that what slows the machine slows both."""
    x = x.to(device_of(base))
    ratios = []
    for _ in range(rounds + 1):
        (_, ours), (_, theirs) = (timed(x.device, each, x) for each in (model, base))
        ratios.append(ours / theirs)
    return median(ratios[1:])  # the first warms up
