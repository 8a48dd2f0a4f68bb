"""The images an attack works on: a batch of the fastest size, refilled as images finish."""

import torch
from torch import Tensor

# Batch size on a CPU. Where malloc returns freed memory to the system, 100 cost a quarter more than 34 or 50 (page
# faults in every layer); where it does not, 50 cost 3 % less than 34, and 100 another 3 % less.
CHUNK = 50


class ActiveSet:
    """Indices (k,) of the images in the current batch, out of `n`; attacks index their state per image by them.

    active = ActiveSet(len(x), x.device)
    while len(active.indices):
        i = active.indices
        ...                     # one step of x_adv[i]
        active.drop(done)       # (k,) bool: these are removed, waiting images added

    The batch stays full until the end, so that finished images cost nothing. `size`: the largest batch; None: the
    fastest for one forward and backward on a CPU, all images on other devices.
    """

    def __init__(self, n: int, device: torch.device, size: int | None = None) -> None:
        size = max(CHUNK, 8 * torch.get_num_threads()) if size is None else size
        size = size if device.type == "cpu" else max(n, 1)
        batches = max(-(-n // size), 1)
        self._size = -(-n // batches)  # equal batches: 120 images are three times 40, not 50, 50 and 20
        self._next, self._n = min(self._size, n), n
        self.indices = torch.arange(self._next, device=device)

    def drop(self, done: Tensor) -> None:
        """Remove the images where `done` (k,) bool is set and take in as many waiting ones."""
        kept = self.indices[~done]
        end = min(self._next + self._size - len(kept), self._n)
        entering = torch.arange(self._next, end, device=kept.device)
        self.indices, self._next = torch.cat([kept, entering]), end
