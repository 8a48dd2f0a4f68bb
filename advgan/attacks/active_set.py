"""Which images an attack works on now: as many as the target likes best, and a finished one makes room for the next."""

from __future__ import annotations

import torch
from torch import Tensor

# Images at a time on a CPU. Where malloc gives freed memory back to the system, 100 cost a quarter more than 34 or 50
# (a page fault for every page, layer by layer); where it keeps it, 50 cost 3 % less than 34, and 100 another 3 % less.
CHUNK = 50


class ActiveSet:
    """Numbers `live` (k,) of the images in work, out of `n`. All attacks keep their state per image, and index it so.

    pool = ActiveSet(len(x), x.device)
    while len(pool.live):
        i = pool.live
        ...                     # one step of x_adv[i]
        pool.retire(done)       # (k,) bool: these leave, and the next in line take their places

    A batch of the target stays full until the very end, so finished images cost nothing and stragglers are never few.
    `size` is the largest batch; None is what one forward and backward like best on a CPU, all elsewhere.
    """

    def __init__(self, n: int, device: torch.device, size: int | None = None) -> None:
        size = max(CHUNK, 8 * torch.get_num_threads()) if size is None else size
        size = size if device.type == "cpu" else max(n, 1)
        rounds = max(-(-n // size), 1)
        self._size = -(-n // rounds)  # equal rounds: 120 images are three times 40, not 50, 50 and 20
        self._next, self._n = min(self._size, n), n
        self.live = torch.arange(self._next, device=device)

    def retire(self, done: Tensor) -> None:
        """Drop the images where `done` (k,) bool is set, and take in as many of those that wait."""
        staying = self.live[~done]
        last = min(self._next + self._size - len(staying), self._n)
        entering = torch.arange(self._next, last, device=staying.device)
        self.live, self._next = torch.cat([staying, entering]), last
