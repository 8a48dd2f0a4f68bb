"""Global states of the process: random ones of Python, numpy and torch, and torch's default dtype."""

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


@contextmanager
def float32_default() -> Iterator[None]:
    """A block, or as a decorator a function, in which new tensors are float32, whatever the default dtype is."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
