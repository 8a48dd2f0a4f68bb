"""Images of a caller -> a Split: tensors, arrays, a Dataset, a DataLoader, a folder, with or without labels."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
)

from advgan.core.errors import InputError, listing, note
from advgan.core.files import folder_path
from advgan.core.inputs import array_as_tensor, as_labels, check_images, check_tensor
from advgan.data.classes import numbered_otherwise, relabel
from advgan.data.columns import IMAGE, LABEL
from advgan.data.folder import as_splits, class_images, split_folders
from advgan.data.image_io import MEMORY_LIMIT, StoredImages, infer_shape
from advgan.data.split import Data, Split, stratified_holdout
from advgan.data.stream import Stream

CHECKED_CLASSES = 100  # whose first items are read
PIXELS = "pixel_values"  # transformers' name of an image
EXPECTED = "images, (images, labels), a Dataset, a DataLoader or a folder"


class Source(NamedTuple):
    """A split, perhaps without labels (`has_labels`), and its class names (of class folders, lists and Datasets only).

    numbered   the labels are class numbers of their own, a Dataset's, not places among sorted folders
    """

    split: Split | Stream
    classes: tuple[str, ...] | None = None
    numbered: bool = False


class FloatSplit(Split):
    """A Split of float32 images in [0, 1], returned unchanged."""

    def __init__(self, images: Any, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        return self.images[list(indices)], self.labels[indices]


class DatasetImages:
    """The images of a map-style Dataset, read at each access: its augmentation stays random."""

    def __init__(self, dataset: Any, shape: tuple[int, ...], order: Sequence[int]) -> None:
        self.dataset, self.order, self.shape = dataset, order, (len(order), *shape)

    def __len__(self) -> int:
        return len(self.order)

    def take(self, indices: Iterable[int]) -> DatasetImages:
        return DatasetImages(self.dataset, self.shape[1:], [self.order[i] for i in indices])

    def keys(self) -> list[Hashable]:
        """Of each image the Dataset, of a Subset the one below it, and the index there."""
        keys: list[Hashable] = []
        for index in self.order:
            dataset: Any = self.dataset
            while isinstance(dataset, Subset):
                dataset, index = dataset.dataset, dataset.indices[index]
            keys.append((id(dataset), int(index)))
        return keys

    def __getitem__(self, indices: Iterable[int]) -> Tensor:
        images = [_pixels(_parts(self.dataset[self.order[i]])[0]) for i in indices]
        if sizes := {tuple(image.shape) for image in images} - {self.shape[1:]}:
            raise InputError(f"all images must have one shape {self.shape[1:]}, got {sizes.pop()}")
        x = torch.stack(images)
        check_images(x)
        return x


def as_split(
    source: Any, name: str = "train", image_shape: tuple[int, int, int] | None = None, resize: int | None = None
) -> Source:
    """The images and labels of `source`, called `name` in errors.

    source   one of
        images     float (n, c, h, w) in [0, 1], or uint8 in 0..255: a tensor or an array; without labels
        a pair     (images, labels), labels whole numbers (n,)
        Dataset    of images (c, h, w), of (image, label), or of dicts with an image and a label by their usual names
                   ("image", "label", ...), torch's or of the library datasets; a map-style one is read again each time
        DataLoader of a map-style Dataset: that Dataset, or the part that its sampler draws; of another, or with a
                   collate function: one pass, in memory
        folder     FOLDER/<class>/*.jpg, classes sorted by name, or images alone, without labels; or a list of files
        Split, Stream   of advgan.data
    image_shape   of a folder: images are resized and cropped to it; None: all must have one size
    resize        of a folder: the shorter side before the crop; None: that of the crop

    Raises InputError for everything else: other types, shapes, ranges, a wrong number of labels.
    """
    given = type(source)
    if isinstance(source, (Split, Stream)):
        return Source(source)
    if isinstance(source, (str, Path)):
        return _folder(folder_path(source, name), image_shape, resize)
    if isinstance(source, DataLoader):
        source = _dataset_of(source)
    if type(source) is TensorDataset and _class_names(source) is None:
        source = source.tensors
    if _is_table(source) or (isinstance(source, Dataset) and not isinstance(source, IterableDataset)):
        return _dataset(source, name)
    if isinstance(source, (IterableDataset, DataLoader)):
        classes = _class_names(source.dataset if isinstance(source, DataLoader) else source)
        read = _tensors(*_in_memory(source, name), name)
        return Source(read.split, _if_of(classes, read.split), numbered=True)
    if _is_array(source):
        return _tensors(source, None, name)
    if isinstance(source, (tuple, list)) and len(source) in (1, 2) and _is_array(source[0]):
        return _tensors(source[0], source[1] if len(source) == 2 else None, name)
    got = f"{given.__module__}.{given.__name__}" if given.__name__ in EXPECTED else given.__name__
    if isinstance(source, (tuple, list)):
        images = source[0] if len(source) == 2 and isinstance(source[0], (tuple, list)) else source
        listed = len(images) and all(_is_array(image) and image.ndim == 3 for image in images)
        got += f" of {len(source)}" + (": torch.stack(images)" if listed else "")
    raise InputError(f"{name} must be {EXPECTED}, got {got}")


def hold_out(source: Source, seed: int) -> tuple[Source, Source]:
    """A source without a tenth of its images, drawn by `seed`, of each class its part; and that tenth.

    Raises InputError for a stream.
    """
    if isinstance(source.split, Stream):
        raise InputError("a stream cannot be split: expected validation images, got none")
    train, held = (source.split.take(indices) for indices in stratified_holdout(source.split.labels, seed))
    return source._replace(split=train), source._replace(split=held)


def by_name(source: Source, classes: Sequence[str] | None, num_classes: int | None = None) -> Source:
    """A source with class names whose labels are the numbers that these have among `classes`, a model's or those of
    other images; without names as it is.

    Labels of a Dataset are class numbers already where no name is that of another number in `classes`. So are all for
    None; class folders are matched to the `num_classes` of a model then. Raises InputError as `relabel`.
    """
    if source.classes is None or isinstance(source.split, Stream):
        return source
    if source.numbered and not (classes and numbered_otherwise(source.classes, classes)):
        return source if num_classes in (None, len(source.classes)) else Source(source.split)
    if classes is None and num_classes is None:
        return source
    data = Data("Dataset" if source.numbered else "folder", source.split, source.split, source.split, source.classes)
    try:
        named = relabel(data, classes, num_classes or len(classes or ()), "the model")
    except InputError as error:
        if source.numbered:
            raise InputError(f"{error}; labels of a Dataset without class names are class numbers") from None
        raise
    return Source(named.train, named.classes, source.numbered)


def note_shared(train: Split | Stream, validation: Split | Stream) -> None:
    """A note where images of `validation` are among those to train on."""
    if isinstance(train, Stream) or isinstance(validation, Stream):
        return
    if n := len({*validation.keys()} & {*train.keys()}):
        note(f"{n} of {len(validation)} validation images are training images: results on them are too good")


def _is_table(source: Any) -> bool:
    """Whether `source` is a map-style Dataset of the library datasets."""
    return hasattr(source, "__len__") and not isinstance(source, Mapping) and _is_library(source)


def _is_library(source: Any) -> bool:
    return type(source).__module__.startswith("datasets.")


def _is_array(value: Any) -> bool:
    return isinstance(value, (Tensor, np.ndarray))


def _tensors(source: Any, labels: Any, name: str) -> Source:
    images = array_as_tensor(source, "images")
    check_tensor(images, "images", "a tensor (n, c, h, w)", "")
    images = images.detach().cpu()
    grey = images.dtype == torch.uint8
    check_images(images[:1].float() / 255 if grey else images.float() if images.is_floating_point() else images)
    if not len(images):
        raise InputError(f"{name} has no images")
    y = torch.zeros(len(images), dtype=torch.long)
    y = y if labels is None else as_labels(labels, len(images), f"the labels of {name}")
    split = Split(images, y) if grey else FloatSplit(images.float(), y)
    return Source(split.unlabelled() if labels is None else split)


def _dataset_of(loader: DataLoader[Any]) -> Any:
    """The Dataset of a DataLoader, or the part that its sampler draws, if it can be read without its collate function
    (else the loader): the training has its own order."""
    dataset = loader.dataset
    map_style = _is_table(dataset) or (isinstance(dataset, Dataset) and not isinstance(dataset, IterableDataset))
    if not map_style or loader.collate_fn is not default_collate:
        return loader
    drawn = _drawn(loader)
    return dataset if drawn is None else Subset(dataset, drawn)


def _drawn(loader: DataLoader[Any]) -> list[int] | None:
    """The indices that the sampler of a DataLoader draws, like a SubsetRandomSampler's; None: all."""
    batches: Any = loader.batch_sampler
    sampler: Any = batches.sampler if type(batches) is BatchSampler else batches
    source = getattr(sampler, "dataset" if isinstance(sampler, DistributedSampler) else "data_source", ())
    whole = isinstance(sampler, (SequentialSampler, RandomSampler, DistributedSampler))
    if (whole and len(source) == len(loader.dataset)) or not hasattr(sampler, "__len__"):  # type: ignore[arg-type]
        return None  # an endless one has no length
    if isinstance(sampler, WeightedRandomSampler):
        return [i for i, weight in enumerate(sampler.weights.tolist()) if weight]
    drawn = islice(sampler, len(sampler))
    return sorted({int(i) for i in (chain.from_iterable(drawn) if sampler is batches else drawn)})


def _in_memory(source: Any, name: str) -> tuple[Tensor, Tensor | None]:
    """All images and labels (None: without) of one pass. Raises InputError where they take more than MEMORY_LIMIT
    bytes."""
    images: list[Tensor] = []
    labels: list[Tensor] = []
    for item in source:
        x, y = _parts(item)
        x = _pixels(x)
        images.append(x if x.ndim == 4 else x[None])
        y = [y] if y is not None and not (_is_array(y) and y.ndim) else y
        labels += [] if y is None else [as_labels(y, len(images[-1]), f"the labels of {name}")]
        if images[-1].shape[1:] != images[0].shape[1:]:
            shapes = f"{tuple(images[0].shape[1:])}, got {tuple(images[-1].shape[1:])}"
            raise InputError(f"all images must have one shape {shapes}")
        if sum(image.nbytes for image in images[:1]) * len(images) > MEMORY_LIMIT:
            raise InputError(
                f"{name} has no length, and more than {MEMORY_LIMIT >> 30} GiB: expected a map-style Dataset"
            )
    if not images:
        raise InputError(f"{name} has no images")
    return torch.cat(images), torch.cat(labels) if labels else None


def _parts(item: Any) -> tuple[Any, Any]:
    """Image and label (None: without) of an item of a Dataset."""
    if isinstance(item, (tuple, list)) and len(item) in (1, 2):
        return item[0], item[1] if len(item) == 2 else None
    if _is_array(item) or isinstance(item, Image.Image):
        return item, None
    if isinstance(item, Mapping):
        return _columns(item)
    n = f" of {len(item)}" if isinstance(item, (tuple, list)) else ""
    raise InputError(f"a Dataset must give images or pairs (image, label), got {type(item).__name__}{n}")


def _columns(item: Mapping[Any, Any]) -> tuple[Any, Any]:
    """Image and label (None: without) of a dict, by the usual names. Raises InputError for none or several of them;
    other entries where there is no label are in a note on stderr."""
    images, labels = ([key for key in item if str(key).casefold() in names] for names in ((*IMAGE, PIXELS), LABEL))
    if len(images) != 1 or len(labels) > 1:
        expected = f"one of {', '.join((*IMAGE, PIXELS))} and at most one of {', '.join(LABEL)}"
        raise InputError(f"a dict of a Dataset must have {expected}, got {', '.join(map(str, item))[:80]}")
    if not labels and (others := [str(key) for key in item if key != images[0]]):
        expected = f"expected one of {', '.join(LABEL)} beside {images[0]}, got {listing(others)}"
        note(f"images of a Dataset have no labels: {expected}")
    return item[images[0]], item[labels[0]] if labels else None


def _pixels(image: Any) -> Tensor:
    """An image (c, h, w), or several, as float32 in [0, 1]; 8-bit pixels are divided by 255."""
    if isinstance(image, Image.Image):
        if image.mode[0] in "IF":
            raise InputError(f"a PIL image must have 8 bits a channel, got mode {image.mode!r}")
        array = np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))
        image = torch.from_numpy(array.copy()).reshape(*array.shape[:2], -1).permute(2, 0, 1)
    if not _is_array(image):
        raise InputError(f"an image must be a tensor, an array or a PIL image, got {type(image).__name__}")
    image = array_as_tensor(image, "an image")
    return image.float().div(255) if image.dtype == torch.uint8 else image.float()


def _dataset(dataset: Any, name: str) -> Source:
    if not hasattr(dataset, "__len__"):
        raise InputError(f"{name} must have a length, got a {type(dataset).__name__} without __len__")
    n = len(dataset)
    if not n:
        raise InputError(f"{name} has no images")
    first, label = _parts(dataset[0])
    shape = tuple(_pixels(first).shape)
    images = DatasetImages(dataset, shape, range(n))
    check_images(images[[0]])
    if label is None:
        return Source(FloatSplit(images, torch.zeros(n, dtype=torch.long)).unlabelled())
    listed = _listed_labels(dataset, n, label)
    labels = [_parts(dataset[i])[1] for i in range(n)] if listed is None else listed
    split = FloatSplit(images, as_labels(labels, n, f"the labels of {name}"))
    return Source(split, _if_of(_class_names(dataset), split), numbered=True)


def _if_of(classes: tuple[str, ...] | None, split: Split) -> tuple[str, ...] | None:
    """`classes`, if there is one for each of the labels."""
    return classes if classes and split.has_labels and int(split.labels.max()) < len(classes) else None


def _class_names(dataset: Any) -> tuple[str, ...] | None:
    """The names of a Dataset's classes, by label: the attributes `class_to_idx` or `classes` (torchvision), those of
    the column of labels (the library datasets), of a Subset those of its Dataset, of a ConcatDataset those of its
    parts; None without them, or where its labels are mapped.

    Raises InputError for parts in which a class has another number.
    """
    if getattr(dataset, "target_transform", None):
        return None
    features = dataset.features if _is_library(dataset) else {}
    columns = [feature for column, feature in (features or {}).items() if column.casefold() in LABEL]
    names: Any = getattr(columns[0], "names", None) if len(columns) == 1 else getattr(dataset, "classes", None)
    numbers = getattr(dataset, "class_to_idx", names)
    if isinstance(names, Mapping):
        names = [names.get(i) for i in range(len(names))]
    if isinstance(numbers, Mapping) and {*numbers.values()} == {*range(len(numbers))}:
        names = sorted(numbers, key=numbers.__getitem__)
    if isinstance(names, (list, tuple, np.ndarray)) and len(names) and all(isinstance(name, str) for name in names):
        return tuple(names)
    if isinstance(dataset, Subset) and type(dataset).__getitem__ is Subset.__getitem__:
        return _class_names(dataset.dataset)
    parts = [_class_names(part) for part in dataset.datasets] if isinstance(dataset, ConcatDataset) else []
    named = sorted(filter(None, parts), key=len)
    for part in named[:-1]:
        if numbered_otherwise(part, named[-1]):
            raise InputError(
                "the parts of a ConcatDataset must have their classes in one order, got "
                f"{listing(part, 5)} and {listing(named[-1], 5)}"
            )
    return named[-1] if named else None


def _listed_labels(dataset: Any, n: int, first: Any) -> Any:
    """The labels in a Dataset's `targets` (torchvision), to avoid reading its images; None without them, or where the
    first item of a class has another label (the items' labels may be mapped)."""
    targets = getattr(dataset, "targets", None)
    if targets is None or getattr(dataset, "target_transform", None) or len(targets) != n:
        return None
    try:
        values = [int(target) for target in targets]
        firsts = [values.index(value) for value in sorted(set(values))[:CHECKED_CLASSES]]
        same = values[0] == int(first) and all(int(_parts(dataset[i])[1]) == values[i] for i in firsts)
        return targets if same else None
    except (TypeError, ValueError, RuntimeError):  # texts, one-hot labels: the items' own have a message in `as_labels`
        return None


def _folder(root: Path, image_shape: tuple[int, int, int] | None, resize: int | None) -> Source:
    if not root.exists():
        raise InputError(f"expected a folder of images, got {root}")
    if splits := split_folders(root):
        raise InputError(f"{root} holds {', '.join(sorted(splits))}: expected one of them, like {root / 'train'}")
    classes, listing = class_images(root)
    n = len(listing.paths)
    shape = image_shape or infer_shape(listing.paths, None, None)
    files = StoredImages(listing.paths, shape, image_shape is not None, range(n), resize)
    return Source(as_splits(files, [listing.labels], [listing.has_labels])[0], classes or None)
