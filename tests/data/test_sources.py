"""Images of a caller as a Split: the labels of the items, the part that a sampler draws, errors."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from advgan.core.errors import InputError, note
from advgan.data.sources import as_split, note_shared

X, Y = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3
ODD = [1, 3, 5, 7, 9, 11]


@pytest.mark.parametrize(
    "settings",
    [
        {"sampler": SubsetRandomSampler(ODD)},
        {"sampler": SubsetRandomSampler(ODD), "batch_size": 4, "drop_last": True},
        {"sampler": WeightedRandomSampler([0.0, 1.0] * 6, 3)},
        {"sampler": ODD},
        {"batch_sampler": BatchSampler(ODD, 2, False)},
        {"batch_sampler": [[1, 3, 5], [7, 9, 11]]},
    ],
)
def test_of_a_loader_with_a_sampler_the_part_that_it_draws(settings: dict[str, Any]) -> None:
    x, y = next(as_split(DataLoader(TensorDataset(X, Y), **settings)).split.batches(12))
    assert torch.equal(x, X[ODD])
    assert torch.equal(y, Y[ODD])


class Mapped(Dataset[Any]):
    """Items whose labels are not its `targets`, but those of class 0."""

    targets = Y.tolist()

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, i: int) -> Any:
        return X[i], -int(Y[i]) % 3


class Dimmed(TensorDataset):
    def __getitem__(self, i: int) -> Any:
        x, y = super().__getitem__(i)
        return x / 2, 2 - y


class Reversed(Subset[Any]):
    def __getitem__(self, i: Any) -> Any:
        x, y = self.dataset[self.indices[i]]
        return x, 2 - y

    def __getitems__(self, indices: list[int]) -> list[Any]:
        return [self[i] for i in indices]


def test_labels_are_those_of_the_items_where_targets_are_mapped() -> None:
    """A TensorDataset's own __getitem__ was passed over; the names of a Dataset were those of a Subset's own labels."""
    assert torch.equal(as_split(Mapped()).split.labels, -Y % 3)
    dimmed = as_split(Dimmed(X, Y)).split
    assert torch.equal(dimmed.labels, 2 - Y)
    assert torch.equal(next(dimmed.batches(12))[0], X / 2)
    named: Any = Mapped()
    named.classes = ["a", "b", "c"]
    assert as_split(named).classes == as_split(Subset(named, range(12))).classes == ("a", "b", "c")
    assert as_split(Reversed(named, range(12))).classes is None


class Stream(IterableDataset[Any]):
    def __init__(self, item: Callable[[int], Any]) -> None:
        self.item = item

    def __iter__(self) -> Iterator[Any]:
        return map(self.item, range(4))


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (lambda i: (X[i], "cat"), "the labels of train must be whole numbers, one per image, got str"),
        (lambda i: (X[i, :, i:], 0), r"one shape \(1, 8, 8\), got \(1, 7, 8\)"),
        (lambda i: Image.fromarray(np.full((8, 8), 40000, np.uint16)), "8 bits a channel, got mode 'I;16'"),
    ],
)
def test_items_that_are_refused(item: Callable[[int], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        as_split(Stream(item))


def test_entries_without_the_name_of_a_label_are_a_note(capsys: pytest.CaptureFixture[str]) -> None:
    split = as_split(Stream(lambda i: {"image": X[i], "fine_label": i, "coarse_label": i})).split
    assert not split.has_labels
    assert "expected one of label, labels, cls beside image, got fine_label, coarse_label" in capsys.readouterr().err
    assert not as_split(Stream(lambda i: {"image": X[i]})).split.has_labels
    assert not capsys.readouterr().err


def test_a_dataset_without_a_length_is_refused() -> None:
    class Endless(Dataset[Any]):
        def __getitem__(self, i: int) -> Any:
            return X[i], 0

    with pytest.raises(InputError, match="train must have a length, got a Endless without __len__"):
        as_split(Endless())


def test_validation_images_among_the_training_images_are_a_note(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    x = torch.rand(9, 1, 8, 8)
    grey, other = (255 * x).byte(), torch.rand(2, 1, 8, 8)
    data = TensorDataset(x, torch.arange(9))

    class Own(Dataset[Any]):
        def __len__(self) -> int:
            return 9

        def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
            return x[i], 0

    own = Own()
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for i in range(4 if folder == "a" else 2):
            Image.fromarray(grey[i, 0].numpy()).save(tmp_path / folder / f"{i}.png")
    for train, validation, n in [
        (x, torch.cat([x[2:5], other]), "3 of 5"),
        (grey, grey[:2].float() / 255, "2 of 2"),
        (data, x[:4].numpy(), "4 of 4"),
        (Subset(own, range(6)), Subset(own, [4, 5, 6]), "2 of 3"),
        (tmp_path / "a", tmp_path / "b", "2 of 2"),
        (x, other, None),
        (Subset(own, [0, 1]), Subset(own, [2, 3]), None),
    ]:
        note.cache_clear()
        note_shared(as_split(train).split, as_split(validation).split)
        err = capsys.readouterr().err
        assert (f"{n} validation images are training images" in err) if n else not err
