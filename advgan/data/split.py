"""The containers: a Split is images and labels, Data is three splits and the names of the classes."""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Hashable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from advgan.core.errors import InputError
from advgan.data.image_io import StoredImages


class Split(Dataset[tuple[Tensor, Tensor]]):
    """Images `(n, c, h, w)` uint8, a tensor, a numpy array or images that are decoded at access, and labels `(n,)`
    of whole numbers.

    A split returns float32 in [0, 1], pixel / 255. Raises InputError for images of another type or shape,
    and for another number of labels.

    has_labels   False: there are none, all are 0 until `labelled` sets those that a classifier predicts
    random       whether another reading of the images may give others: a Dataset with augmentation
    photos       the images before they were resized and cropped, where these are larger: for random crops
    """

    has_labels = True
    photos: StoredImages | None = None
    random = False

    def __init__(self, images: Tensor | np.ndarray | StoredImages, labels: Tensor | np.ndarray) -> None:
        if not isinstance(images, StoredImages):
            images = torch.as_tensor(images)
            if images.dtype != torch.uint8 or images.ndim != 4:
                got = f"{images.dtype} {tuple(images.shape)}".removeprefix("torch.")
                raise InputError(f"images must be uint8 (n, c, h, w), 0 to 255, got {got}")
        labels = torch.as_tensor(labels)
        if len(images) != len(labels):
            raise InputError(f"as many labels as images expected, got {len(labels)} labels for {len(images)} images")
        self.images: Tensor | StoredImages = images
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """One image `(c, h, w)` and its label, an int64 scalar."""
        x, y = self.__getitems__([index])
        return x[0], y[0]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Images `(n, c, h, w)` and labels `(n,)` at once; called by a DataLoader with a batch of indices."""
        return self.images[list(indices)].float().div_(255), self.labels[indices]

    def random_crops(self, indices: Sequence[int], seed: Sequence[int]) -> tuple[Tensor, Tensor]:
        """As `__getitems__`, with random crops of the `photos`, a function of `seed` and the indices."""
        assert self.photos is not None
        return self.photos.random_crops(indices, seed).float().div_(255), self.labels[indices]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`(c, h, w)`"""
        _, channels, height, width = self.images.shape
        return channels, height, width

    @property
    def in_memory(self) -> bool:
        return isinstance(self.images, Tensor)

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All images in their order; the last batch may be smaller."""
        if batch_size < 1:
            raise InputError(f"batch size must be at least 1, got {batch_size}")
        indices = range(len(self))
        return (self.__getitems__(indices[i : i + batch_size]) for i in range(0, len(self), batch_size))

    def fingerprint(self) -> str:
        """SHA-256 of the images and labels, to notice others: of all pixels in memory; of files by their names and some
        sizes; of a caller's Dataset by their number and shape."""
        images = self.images
        digest = hashlib.sha256(repr(tuple(images.shape)).encode())
        if self.has_labels:
            digest.update(self.labels.numpy().tobytes())
        if isinstance(images, Tensor) and not self.random:
            digest.update(zlib.crc32(images.contiguous().numpy().data).to_bytes(4, "big"))
        elif isinstance(images, StoredImages):
            digest.update(repr(images.names_and_sizes()).encode())
        return digest.hexdigest()

    def keys(self) -> list[Hashable]:
        """Of each image what an equal one has too, without decoding: its pixels in memory, else as `images` has it."""
        images: Any = self.images
        if not isinstance(images, Tensor):
            keys: list[Hashable] = images.keys()
            return keys
        scale = 1 if images.is_floating_point() else 255
        return [hash(image.float().div(scale).numpy().tobytes()) for image in images]

    def first(self, n: int) -> Split:
        """The first n images, or all if there are fewer."""
        if n < 1:
            raise InputError(f"the number of images must be at least 1, got {n}")
        return self.take(torch.arange(min(n, len(self))))

    def take(self, indices: Tensor) -> Split:
        """The images at `indices` (m,) int64, in that order."""
        part, images = copy(self), self.images
        part.images = images[indices] if isinstance(images, Tensor) else images.take(indices.tolist())
        part.labels = self.labels[indices]
        part.photos = None if self.photos is None else self.photos.take(indices.tolist())
        return part

    def remap_labels(self, numbers: Tensor) -> Split:
        """The same images, of class numbers[i] where they were of class i."""
        return self.labelled(numbers[self.labels]) if self.has_labels else self

    def labelled(self, labels: Tensor) -> Split:
        """The same images with other labels (n,)."""
        if len(labels) != len(self.labels):
            raise InputError(f"as many labels as images expected, got {len(labels)} labels for {len(self)} images")
        part = copy(self)
        part.labels, part.has_labels = labels, True
        return part

    def unlabelled(self) -> Split:
        """The same images without labels."""
        part = copy(self)
        part.labels, part.has_labels = torch.zeros_like(self.labels), False
        return part


@dataclass(frozen=True)
class Data:
    """A data set: disjoint splits to train on, to choose on (validation) and to report on (test, seen once).

    classes         names of the classes; () without labels, until a classifier's are known
    partial         whether the classifier may have classes besides these, which no image is of
    preprocessing   how images were resized and cropped, for reports; "" where they are as they are
    """

    name: str
    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]
    partial: bool = False
    preprocessing: str = ""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`(c, h, w)`"""
        return self.train.image_shape

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def text(self, name: str, labels_of: str) -> str:
        """The data set for reports: its `name`, how images were resized, and labels that `labels_of` predicts."""
        facts = [self.preprocessing] if self.preprocessing else []
        facts += [] if self.test.has_labels else [f"labels: predictions of {labels_of}"]
        return name + (f" ({'; '.join(facts)})" if facts else "")

    @property
    def all_classes(self) -> int | None:
        """The number of classes of a classifier of these data; None: unknown."""
        return None if self.partial or not self.classes else len(self.classes)


def prediction_batch(image_shape: tuple[int, int, int], device: torch.device) -> int:
    """Images in a forward pass of a classifier without gradients: 250, fewer if they are large. On a CPU 5 of 224
    pixels: activations beyond 32 MB are new memory each time, whose page faults cost as much as the pass."""
    most = 800_000 if device.type == "cpu" else 30_000_000  # numbers in a batch
    return max(1, min(250, most // math.prod(image_shape)))


def are_photos(image_shape: Sequence[int]) -> bool:
    """Whether images of shape (c, h, w) have 96 pixels a side or more."""
    return min(image_shape[1:]) >= 96


def attack_batch_size(batch_size: int | None, image_shape: Sequence[int]) -> int:
    """`batch_size` of an attack with gradients, or the default: 100, but 20 photos, each of which takes a small network
    about 80 MB."""
    if batch_size is not None:
        return batch_size
    return 20 if are_photos(image_shape) else 100


def without_labels(data: Data) -> Data:
    """The same images without labels."""
    train, validation, test = (split.unlabelled() for split in (data.train, data.validation, data.test))
    return replace(data, train=train, validation=validation, test=test, classes=())


def fair_order(labels: Tensor) -> Tensor:
    """Indices (n,) in an order of which the first m are a stratified random sample, for every m: proportional to the
    classes, up to one image, and random within a class. A function of the labels alone: the first 100 are among the
    first 200.

    Image r of a class of n (in random order) stands at (r + u) / n, with another u in (0, 1) for each class.
    """
    rng = np.random.default_rng(0)
    counts = labels.bincount()
    starts = (rng.permutation(len(counts)) + 0.5) / max(1, len(counts))
    places = np.empty(len(labels))
    for label, count in enumerate(counts.tolist()):
        members = (labels == label).numpy().nonzero()[0]
        places[members] = (rng.permutation(count) + starts[label]) / max(1, count)
    return torch.from_numpy(places.argsort(kind="stable"))


def stratified_holdout(labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Choose validation images of a set without: a tenth, at least two and at most 5,000, stratified by class.

    At least one of every class with two images or more. Where most classes have one image, images of any class. The
    choice is a function of the labels and the seed alone.

    Returns:
        The indices of train and of validation, each int64 and ascending.
    """
    counts = labels.bincount()
    total = min(max(len(labels) // 10, min(2, len(labels) // 2)), 5000)  # two of four images or more
    # Rounding the running sum, not each class, makes the shares add up to the total.
    ends = counts.cumsum(0) * total // len(labels)
    counts_heldout = ends.diff(prepend=ends.new_zeros(1)).clamp(min=1).minimum(counts - 1)
    rng = np.random.default_rng(seed)
    held = torch.zeros(len(labels), dtype=torch.bool)
    for label, count in enumerate(counts_heldout.tolist()):
        members = (labels == label).nonzero().flatten()
        held[members[rng.permutation(len(members))[: max(count, 0)]]] = True
    if held.sum() < max(min(2, total), total // 2):
        if len(labels) < 2:
            raise InputError(f"no validation images can be taken from {len(labels)} training images, expected two")
        held[torch.from_numpy(rng.permutation(len(labels))[: max(1, total)])] = True
    return (~held).nonzero().flatten(), held.nonzero().flatten()
