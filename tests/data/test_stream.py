"""Streams: the same images for any number of processes and workers and after a resume, with bounded memory."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator
from itertools import chain, islice

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from advgan.core.errors import InputError
from advgan.data import Data, load_data, steps_per_epoch, training_batches
from advgan.data.image_file import InMemoryImage
from advgan.data.stream import HOLDOUT_MODULUS, LANES, Example, Stream, in_memory, lanes_of, shuffled

HELD = frozenset({3})
LEFT = frozenset(range(HOLDOUT_MODULUS)) - HELD


class Blob(bytes):
    """Bytes that count their living instances."""

    alive = 0

    def __new__(cls, data: bytes) -> Blob:
        cls.alive += 1
        return super().__new__(cls, data)

    def __del__(self) -> None:
        type(self).alive -= 1


class Numbered:
    """Shards of images with one grey pixel, their index modulo 256, labeled with the index."""

    name = "numbered"

    def __init__(self, *lengths: int) -> None:
        self.lengths = lengths
        self.read_from: Counter[int] = Counter()  # examples, by shard

    def __len__(self) -> int:
        return len(self.lengths)

    def read(self, shard: int) -> Iterator[Example]:
        for i in range(self.lengths[shard]):
            self.read_from[shard] += 1
            number = sum(self.lengths[:shard]) + i
            buffer = io.BytesIO()
            Image.new("L", (1, 1), number % 256).save(buffer, "PPM")
            yield InMemoryImage(f"{shard}/{i}", Blob(buffer.getvalue())), number


def stream(*lengths: int, buffer: int = 16, kept: frozenset[int] = frozenset(range(HOLDOUT_MODULUS))) -> Stream:
    return Stream(Numbered(*lengths), (1, 1, 1), crop=False, kept=kept, buffer=buffer)


def labels(batches: Iterator[tuple[Tensor, Tensor]]) -> list[list[int]]:
    seen = []
    for x, y in batches:
        assert torch.equal(x.flatten(), y.remainder(256).float() / 255)
        seen.append(y.tolist())
    return seen


LENGTHS = [(40,), (7, 9, 8, 10), (5, 6, 7, 5, 6, 7), (3,) * 24]  # 1, 4, 6 and 12 lanes of a batch of 12


@pytest.mark.parametrize("lengths", LENGTHS, ids=len)
@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_global_batches_are_independent_of_number_of_processes(world: int, lengths: tuple[int, ...]) -> None:
    whole = labels(training_batches(stream(*lengths), 12, seed=5, last=9))
    ranks = [labels(training_batches(stream(*lengths), 12, seed=5, last=9, rank=r, world=world)) for r in range(world)]
    assert [[*chain(*shares)] for shares in zip(*ranks, strict=True)] == whole
    assert {len(share) for shares in ranks for share in shares} == {12 // world}
    assert labels(training_batches(stream(*lengths), 12, seed=6, last=9)) != whole


@pytest.mark.parametrize("lengths", [LENGTHS[0], LENGTHS[1]], ids=len)
@pytest.mark.parametrize("workers", [1, 2])
def test_batches_are_independent_of_number_of_workers(workers: int, lengths: tuple[int, ...]) -> None:
    given = {"batch_size": 12, "seed": 5, "first": 2, "last": 7, "rank": 1, "world": 2}
    alone = labels(training_batches(stream(*lengths), **given))
    assert labels(training_batches(stream(*lengths), **given, workers=workers)) == alone


@pytest.mark.parametrize("first", [0, 1, 4, 10, 23])
@pytest.mark.parametrize("lengths", [LENGTHS[0], LENGTHS[1]], ids=len)
def test_resume_continues_and_reads_at_most_two_passes(lengths: tuple[int, ...], first: int) -> None:
    whole = labels(training_batches(stream(*lengths), 12, seed=5, last=24))
    resumed = stream(*lengths)
    assert labels(training_batches(resumed, 12, seed=5, first=first, last=24)) == whole[first:]
    assert isinstance(resumed.shards, Numbered)
    needed = 12 * (24 - first) + 16 + 12  # delivered, in the buffers, and begun
    assert resumed.shards.read_from.total() <= 2 * sum(lengths) + needed


def test_epoch_of_lane_is_permutation_of_its_shards() -> None:
    numbers = [number for _, number in islice(stream(7, 9, 8, 10).lane(1, 2, seed=0, skip=0), 57)]
    expected = [*range(7, 16), *range(24, 34)]
    epochs = [numbers[i : i + 19] for i in (0, 19, 38)]
    assert [sorted(epoch) for epoch in epochs] == [expected] * 3
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_shuffle_buffer_permutes() -> None:
    def drawn(size: int) -> list[int]:
        examples = ((InMemoryImage("", b""), i) for i in range(200))
        return [number for _, number in shuffled(examples, size, np.random.default_rng(0))]

    assert drawn(1) == [*range(200)]
    assert sorted(drawn(50)) == [*range(200)]
    assert drawn(50) != [*range(200)]
    assert max(before - number for before, number in enumerate(drawn(50))) >= 0
    assert all(number <= place + 50 for place, number in enumerate(drawn(50)))  # nothing is seen before it is read


def test_number_of_live_examples_is_bounded() -> None:
    before, most = Blob.alive, 0
    for _ in training_batches(stream(1000, 1000, buffer=40), 20, seed=0, last=120):
        most = max(most, Blob.alive - before)
    assert 40 <= most <= 40 + 20 + 2  # and the batch in hand, and the two that are on their way into the lanes


def test_process_reads_only_shards_of_its_lanes() -> None:
    mine = stream(*[50] * 8)
    assert lanes_of(mine, 16) == 8
    for _ in training_batches(mine, 16, seed=0, last=10, rank=1, world=4):
        pass
    assert isinstance(mine.shards, Numbered)
    assert set(mine.shards.read_from) == {2, 3}


@pytest.mark.parametrize(
    ("shards", "batch", "expected"), [(1, 128, 1), (37, 128, 1), (96, 128, 32), (1024, 256, 64), (6, 12, 6)]
)
def test_number_of_lanes(shards: int, batch: int, expected: int) -> None:
    assert lanes_of(stream(*[1] * shards), batch) == expected <= LANES


def test_first_interleaves_shards_and_excludes_held_out() -> None:
    split = stream(3, 30, 2).first(7)
    assert split.in_memory
    assert split.labels.tolist() == [0, 3, 33, 1, 4, 34, 2]
    assert stream(*[2] * 130).first(260).labels.sort().values.tolist() == [*range(260)]
    assert len(stream(3, 4).first(100)) == 7
    trained, held = stream(30, 25, kept=LEFT), stream(30, 25, kept=HELD)
    assert held.first(99).labels.sort().values.tolist() == [3, 13, 23, 33, 43, 53]
    seen = set(chain(*labels(training_batches(trained, 7, seed=0, last=20))))
    assert seen == set(range(55)) - {3, 13, 23, 33, 43, 53}


def test_renumbered_stream() -> None:
    plain, numbers = stream(3, 3), torch.tensor([5, 4, 3, 2, 1, 0])
    turned = plain.remap_labels(numbers)
    (x, y), (x_turned, y_turned) = (next(split.first(6).batches(6)) for split in (plain, turned))
    assert torch.equal(x, x_turned)
    assert torch.equal(numbers[y], y_turned)
    assert torch.equal(next(turned.remap_labels(numbers).first(6).batches(6))[1], y)
    before, after = (next(training_batches(split, 2, seed=0, last=1)) for split in (plain, turned))
    assert torch.equal(numbers[before[1]], after[1])


def test_operations_that_need_a_length_raise(digits) -> None:
    data = Data("numbered", stream(4), stream(4), stream(4), ("a", "b"))
    message = r"numbered is a stream, which has no length: expected --max-steps .*, --max-samples .*, or hf:"
    for access in (
        lambda: len(data.train),
        lambda: data.train.images,
        lambda: data.train.labels,
        lambda: data.train.batches(2),
        lambda: data.train[0],
        lambda: data.train.take(torch.arange(2)),
        lambda: steps_per_epoch(data.train, 2),
    ):
        with pytest.raises(InputError, match=message):
            access()
    assert data.image_shape == (1, 1, 1)
    held = in_memory(data, 3)
    assert (len(held.validation), len(held.test), held.train) == (3, 3, data.train)
    others = load_data("folder", digits)
    assert in_memory(others, 3) is others


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch size must be at least 1, got 0"),
        ({"batch_size": 9, "world": 2}, "batch size must be divisible by the number of processes 2, got 9"),
        ({"rank": 2, "world": 2}, "rank must be in 0..world-1, got rank 2 of world 2"),
        ({"workers": -1}, "workers must be at least 0, got -1"),
    ],
)
def test_training_batches_invalid_arguments_raise_at_once(arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        training_batches(stream(20), **{"batch_size": 10, "seed": 0, "last": 1, **arguments})


def test_empty_lane_and_empty_split_raise() -> None:
    with pytest.raises(InputError, match="numbered has no training images in shards 0"):
        next(training_batches(stream(2, kept=HELD), 4, seed=0, last=1))
    with pytest.raises(InputError, match="numbered has no examples for this split"):
        stream(2, kept=HELD).first(4)
    with pytest.raises(InputError, match="the number of images must be at least 1, got 0"):
        stream(2).first(0)


class Broken(Numbered):
    def read(self, shard: int) -> Iterator[Example]:
        yield from islice(super().read(shard), 5)
        yield InMemoryImage("shard 0 'the sixth'", b"no image"), 0


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_image_raises_from_any_worker(workers: int) -> None:
    broken = Stream(Broken(9), (1, 1, 1), crop=False)
    with pytest.raises(InputError, match=r"^1 of \d .*: shard 0 'the sixth' \(the first: no image") as caught:
        list(training_batches(broken, 4, seed=0, last=5, workers=workers))
    assert "\n" not in str(caught.value)


def test_sample_of_sorted_shards_is_noted(capsys: pytest.CaptureFixture[str]) -> None:
    class Sorted(Numbered):
        def read(self, shard: int) -> Iterator[Example]:
            return ((image, number // 20) for image, number in super().read(shard))

    split = Stream(Sorted(100, 100), (1, 1, 1), crop=False, num_classes=10)
    split.first(40)
    assert "note: numbered: the first 40 images of its shards have only 2 of 10 classes" in capsys.readouterr().err
    split.first(200)
    assert capsys.readouterr().err == ""


def test_fingerprint_is_of_one_image_a_shard() -> None:
    first = stream(5, 7)
    assert first.fingerprint() == stream(5, 7).fingerprint()
    assert first.shards.read_from == {0: 1, 1: 1}
    assert first.fingerprint() != stream(6, 7).fingerprint()
    assert first.fingerprint() != stream(5, 7, 1).fingerprint()
