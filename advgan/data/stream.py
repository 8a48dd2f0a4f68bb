"""Streams of labelled images from shards, for data sets that are too large or too remote for random access.

The order is a function of the seed and the step alone. The shards are distributed over *lanes*. Each lane contributes
the same number of images to every global batch: its shards in a new random order each epoch, through a shuffle buffer.
The number of lanes depends on the data set and the global batch, not on the number of processes and workers, so that
any number of them has the same batches. With at least as many lanes, each reads its own shards only; otherwise several
read the same shards and decode different parts.
"""

import hashlib
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import replace
from itertools import chain, islice
from math import gcd
from typing import Any, NoReturn, Protocol, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from advgan.core.errors import InputError, listing, note
from advgan.data.image_file import ImageSource, size_of
from advgan.data.image_io import StoredImages
from advgan.data.split import Data, Split

LANES = 64  # maximum, of open shards and of processes with separate shards
BUFFER = 2048  # encoded images in the shuffle buffers of all lanes
HOLDOUT_MODULUS = 10  # one of 10 images is held out for validation or test, if missing
Example = tuple[ImageSource, int]  # and its label


class Shards(Protocol):
    """Labelled images in a number of files."""

    name: str

    def __len__(self) -> int: ...

    def read(self, shard: int) -> Iterator[Example]:
        """The examples of one shard, always in the same order. Raises InputError for one that is damaged."""


class Stream(Split):
    """A split without a length: `first(n)` loads its first images, `training_batches` iterates over it.

    Args:
        crop, resize: as in `StoredImages`.
        num_classes: number of classes, for the note of `first`; None: unknown.
        kept: the indices of examples in a shard, modulo `HOLDOUT_MODULUS`, that are of this split.
        buffer: size of the shuffle buffers of encoded images, in all lanes together.
    """

    def __init__(
        self,
        shards: Shards,
        image_shape: tuple[int, int, int],
        *,
        crop: bool,
        resize: int | None = None,
        num_classes: int | None = None,
        kept: frozenset[int] = frozenset(range(HOLDOUT_MODULUS)),
        buffer: int = BUFFER,
    ) -> None:
        self.shards, self.shape, self.crop, self.kept, self.buffer = shards, image_shape, crop, kept, buffer
        self.num_classes, self.resize = num_classes, resize
        self.numbers: Tensor | None = None  # class numbers for those of the shards; None: the same

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.shape

    def read(self, shard: int) -> Iterator[Example]:
        """The examples of one shard that are of this split."""
        return (example for i, example in enumerate(self.shards.read(shard)) if i % HOLDOUT_MODULUS in self.kept)

    def decode(self, examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
        """Images `(n, c, h, w)` uint8 and labels `(n,)`. Raises InputError for images that cannot be read."""
        sources, labels = [source for source, _ in examples], [label for _, label in examples]
        images = StoredImages(sources, self.shape, self.crop, range(len(sources)), self.resize)
        y = torch.tensor(labels, dtype=torch.long)
        return images[range(len(sources))], y if self.numbers is None else self.numbers[y]

    def remap_labels(self, numbers: Tensor) -> Self:
        stream = copy(self)
        stream.numbers = numbers if self.numbers is None else numbers[self.numbers]
        return stream

    def first(self, n: int) -> Split:
        """The first n images, or all if there are fewer, in memory: one of each shard in turn, of `LANES` at a time.

        A note on stderr if many classes are missing, as in shards sorted by class.
        """
        if n < 1:
            raise InputError(f"the number of images must be at least 1, got {n}")
        examples, parts = islice(self._in_turn(), n), []
        while chunk := list(islice(examples, 1024)):  # in chunks, to limit the memory of encoded images
            parts.append(self.decode(chunk))
        if not parts:
            raise InputError(f"{self.shards.name} has no examples for this split")
        images, labels = (torch.cat(part) for part in zip(*parts, strict=True))
        present = len(labels.unique())
        if self.num_classes and present < min(self.num_classes, len(labels) / 5):
            note(
                f"{self.shards.name}: the first {len(labels)} images of its shards have only {present} of "
                f"{self.num_classes} classes: not a fair sample, the shards are sorted by class (docs/data.md)"
            )
        return Split(images, labels)

    def fingerprint(self) -> str:
        """SHA-256 of the labels and sizes in bytes of one image of each shard, of `LANES` at most."""
        examples = islice(self._in_turn(), min(len(self.shards), LANES))
        return hashlib.sha256(repr([(size_of(source), label) for source, label in examples]).encode()).hexdigest()

    def _in_turn(self) -> Iterator[Example]:
        steps = -(-len(self.shards) // LANES)
        for start in range(steps):
            open_shards = [self.read(shard) for shard in range(start, len(self.shards), steps)]
            while open_shards:
                for shard in [*open_shards]:
                    example = next(shard, None)
                    if example is None:
                        open_shards.remove(shard)
                    else:
                        yield example

    def lane(self, lane: int, lanes: int, seed: int, skip: int) -> Iterator[Example]:
        """The endless examples of a lane, without the first `skip`, which are read at most twice and not decoded."""
        lane_shards = np.arange(lane, len(self.shards), lanes)
        epoch = 0
        while True:
            rng = np.random.default_rng((seed, lane, epoch))
            ordered = chain.from_iterable(map(self.read, rng.permutation(lane_shards).tolist()))
            n = 0
            for n, example in enumerate(shuffled(ordered, max(1, self.buffer // lanes), rng), 1):
                if n > skip:
                    yield example
            if n == 0:
                raise InputError(
                    f"{self.shards.name} has no training images in shards {listing(lane_shards.tolist(), 8)}"
                )
            epochs = max(1, skip // n)  # its length is known now: skip whole epochs
            epoch, skip = epoch + epochs, max(0, skip - epochs * n)

    # Interface of a split with a length.

    def __len__(self) -> int:  # noqa: PLE0303
        self._raise_no_length()

    @property
    def images(self) -> NoReturn:  # type: ignore[override]
        self._raise_no_length()

    @property
    def labels(self) -> NoReturn:  # type: ignore[override]
        self._raise_no_length()

    @property
    def in_memory(self) -> bool:
        return False

    def batches(self, batch_size: int) -> NoReturn:
        self._raise_no_length()

    def _raise_no_length(self) -> NoReturn:
        raise InputError(
            f"{self.shards.name} is a stream, which has no length: expected --max-steps to train on it, --max-samples "
            "to evaluate on it, or hf: in place of hf-stream:, for a copy on disk"
        )


def shuffled(examples: Iterator[Example], size: int, rng: np.random.Generator) -> Iterator[Example]:
    """Examples through a shuffle buffer of `size`; its rest, at the end, in a random order."""
    buffer = list(islice(examples, size))
    for example in examples:
        i = int(rng.integers(size))
        sampled, buffer[i] = buffer[i], example
        yield sampled
    yield from (buffer[i] for i in rng.permutation(len(buffer)))


def lanes_of(split: Stream, batch_size: int) -> int:
    """Number of lanes: the largest common divisor of shards and batch size up to `LANES`."""
    common = gcd(len(split.shards), batch_size)
    return max(lanes for lanes in range(1, LANES + 1) if common % lanes == 0)


def stream_batches(
    split: Stream, batch_size: int, seed: int, steps: range, places: range, workers: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """`training_batches` of a stream: the same contract, with an epoch for each lane."""
    workers = min(workers, len(places))
    reader = _Reader(split, batch_size, seed, steps, places)
    loader: DataLoader[Any] = DataLoader(reader, batch_size=None, num_workers=workers, generator=torch.Generator())
    return _joined(iter(loader), max(1, workers))


def _joined(parts: Iterator[Any], workers: int) -> Iterator[tuple[Tensor, Tensor]]:
    """A part of a batch from the parts of the workers."""
    while batch := list(islice(parts, workers)):
        for part in batch:
            if isinstance(part, InputError):
                raise part
        images, labels = (torch.cat(part) for part in zip(*batch, strict=True))
        yield images.float().div_(255), labels


class _Reader(IterableDataset[Any]):
    """The images at `places` of each global batch, or at this worker's part of them; or the error.

    An error raised in a worker would contain the worker's traceback in its message.
    """

    def __init__(self, split: Stream, batch_size: int, seed: int, steps: range, places: range) -> None:
        self.split, self.batch_size, self.seed, self.steps, self.places = split, batch_size, seed, steps, places

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor] | InputError]:
        try:
            yield from self._parts()
        except InputError as error:
            yield error

    def _parts(self) -> Iterator[tuple[Tensor, Tensor]]:
        worker, places = get_worker_info(), self.places
        if worker is not None:
            ends = [len(places) * i // worker.num_workers for i in (worker.id, worker.id + 1)]
            places = places[slice(*ends)]
        lanes = lanes_of(self.split, self.batch_size)
        per_lane = self.batch_size // lanes
        lanes_read = range(places[0] // per_lane, places[-1] // per_lane + 1)
        sources = [self.split.lane(lane, lanes, self.seed, self.steps.start * per_lane) for lane in lanes_read]
        start = lanes_read[0] * per_lane  # place of the first example that is read
        for _ in self.steps:
            examples = [example for source in sources for example in islice(source, per_lane)]
            yield self.split.decode(examples[places[0] - start : places[-1] - start + 1])


def in_memory(data: Data, n: int) -> Data:
    """`data` with the first n validation and test images of a stream in memory; any other data set as it is."""
    if not isinstance(data.train, Stream):
        return data
    return replace(data, validation=data.validation.first(n), test=data.test.first(n))
