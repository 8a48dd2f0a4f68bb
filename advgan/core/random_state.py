"""The global random states of Python, numpy and torch."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def preserved_random_states() -> Iterator[None]:
    """A block after which all random states, of GPUs too, are what they were."""
    python, arrays, numbers = random.getstate(), np.random.get_state(), torch.get_rng_state()
    on_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)
        torch.set_rng_state(numbers)
        if on_gpus is not None:
            torch.cuda.set_rng_state_all(on_gpus)
