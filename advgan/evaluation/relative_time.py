"""What a defense costs at every answer: its time beside another classifier's, taken in turn."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from advgan.evaluation.runner import device_of, timed

ROUNDS = 20


@torch.no_grad()
def relative_time(model: nn.Module, base: nn.Module, x: Tensor, rounds: int = ROUNDS) -> float:
    """Seconds that `model` takes to answer images `x` (n, c, h, w), over those of `base`: the shortest of `rounds` in
    which they take turns, because whatever else the machine does only adds to a time."""
    x = x.to(device_of(base))
    times = [[timed(x.device, each, x)[1] for each in (model, base)] for _ in range(rounds + 1)]
    ours, theirs = (min(each) for each in zip(*times[1:], strict=True))  # the first warms up
    return ours / theirs
