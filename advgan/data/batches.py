"""The order of training: the images of a step, and their shifts and mirroring, are a function of the seed and the step
alone, equal after a resume and for any number of processes.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from advgan.core.errors import InputError
from advgan.data.split import Split
from advgan.data.stream import Stream, stream_batches


def training_batches(
    split: Split,
    batch_size: int,
    *,
    seed: int,
    first: int = 0,
    last: int,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    random_crops: bool = False,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled batches for the steps first, ..., last - 1.

    An epoch is a fresh permutation of the split, drawn from (seed, epoch) and cut into len(split) // batch_size batches
    (the rest of it is dropped). So a run resumes at any step with the same images, and any number of processes
    has the same global batch, of which rank r gets the r-th equal part. Global random state is not used. A `Stream` has
    another order with the same properties; at a resume earlier examples are read again, at most two passes, without
    decoding.

    Args:
        batch_size: images of a step over all processes.
        workers: processes that decode in advance a split that is in files; unused for one in memory.
        random_crops: of the split's `photos`: another crop of an image in each epoch, drawn from (seed, epoch, image).

    Yields:
        x float32 `(batch_size / world, c, h, w)` in [0, 1] and y int64 `(batch_size / world,)`.

    Raises:
        InputError: at once, for a batch that is larger than the split or not divisible by `world`, and for other values
            out of range; later, for image files that cannot be decoded.
    """
    if isinstance(split, Stream):
        if batch_size < 1:
            raise InputError(f"batch size must be at least 1, got {batch_size}")
    else:
        steps_per_epoch(split, batch_size)
    if world < 1 or not 0 <= rank < world:
        raise InputError(f"rank must be in 0..world-1, got rank {rank} of world {world}")
    if batch_size % world:
        raise InputError(f"batch size must be divisible by the number of processes {world}, got {batch_size}")
    if random_crops and split.photos is None:
        raise InputError("random crops need photos larger than the image size, in a folder or hf:, got others")
    for name, value in (("seed", seed), ("first", first), ("workers", workers)):
        if value < 0:
            raise InputError(f"{name} must be at least 0, got {value}")
    part, steps = batch_size // world, range(first, last)
    places = range(rank * part, (rank + 1) * part)  # of this process's images in a batch
    if isinstance(split, Stream):
        return stream_batches(split, batch_size, seed, steps, places, workers)
    batches: Any = _batch_indices(len(split), batch_size, seed, steps, places)
    loader: DataLoader[Any] = DataLoader(
        _BatchDataset(split, seed if random_crops else None),
        batch_sampler=batches,
        num_workers=0 if split.in_memory and not random_crops else workers,
        collate_fn=_identity,
        generator=torch.Generator(),  # otherwise the loader draws from the global one
    )
    return _raise_errors(loader)


def steps_per_epoch(split: Split, batch_size: int) -> int:
    """Whole batches in one pass over `split`. Raises InputError for a batch that is larger than the split."""
    if not 1 <= batch_size <= len(split):
        raise InputError(f"batch size must be in 1..{len(split)}, the number of training images, got {batch_size}")
    return len(split) // batch_size


def _batch_indices(n: int, batch_size: int, seed: int, steps: range, places: range) -> Iterator[tuple[int, list[int]]]:
    """For each step, the epoch and the indices of the images at `places` of the global batch."""
    per_epoch = n // batch_size
    epoch, order = -1, np.empty(0, int)
    for step in steps:
        if step // per_epoch != epoch:
            epoch = step // per_epoch
            order = np.random.default_rng((seed, epoch)).permutation(n)
        batch = order[step % per_epoch * batch_size :]
        yield epoch, batch[places.start : places.stop].tolist()


class _BatchDataset(Dataset[Any]):
    """The split for a worker: returns a whole batch, or the error. `crop_seed`: of random crops; None: no crops.

    An error raised in a worker would contain the worker's traceback in its message, and arrive seconds later.
    """

    def __init__(self, split: Split, crop_seed: int | None) -> None:
        self.split, self.crop_seed = split, crop_seed

    def __getitems__(self, batch: tuple[int, list[int]]) -> tuple[Tensor, Tensor] | InputError:
        epoch, indices = batch
        try:
            if self.crop_seed is not None:
                return self.split.random_crops(indices, (self.crop_seed, epoch))
            return self.split.__getitems__(indices)
        except InputError as error:
            return error


def _identity(batch: Any) -> Any:
    return batch


def _raise_errors(loader: DataLoader[Any]) -> Iterator[tuple[Tensor, Tensor]]:
    for batch in loader:
        if isinstance(batch, InputError):
            raise batch
        yield batch


def check_shift(shift: int, image_shape: tuple[int, int, int]) -> None:
    """Raise InputError for a `shift` that would move an image (c, h, w) out of its frame."""
    side = min(image_shape[1:])
    if shift >= side:
        raise InputError(f"shift must be below the image's side, {side} pixels, got {shift}")


def augment(x: Tensor, *, shift: int, flip: bool, seed: int, step: int, rank: int = 0, world: int = 1) -> Tensor:
    """Images `x` (n, c, h, w), each moved by up to `shift` pixels each way (zeros come in at the border) and, with
    `flip`, mirrored or not.

    `x` is the part of process `rank` of a batch split over `world` processes. The moves are a function of seed and
    step, drawn for the whole batch.
    """
    if not shift and not flip:
        return x
    rng = np.random.default_rng((seed, step))
    n, _, height, width = x.shape
    part = slice(rank * n, (rank + 1) * n)
    down, right = torch.from_numpy(rng.integers(0, 2 * shift + 1, (2, n * world)))[:, part]
    flipped = torch.from_numpy(rng.random(n * world) < 0.5)[part]
    rows = down[:, None] + torch.arange(height)
    columns = right[:, None] + torch.arange(width)
    if flip:
        columns = torch.where(flipped[:, None], columns.flip(1), columns)
    padded = F.pad(x, [shift] * 4).movedim(1, -1)
    return padded[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]].movedim(-1, 1)
