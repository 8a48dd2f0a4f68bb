"""Data sets through Hugging Face `datasets`: a repository or a folder, on disk or streamed by shards."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from advgan.core.errors import InputError, listing, note
from advgan.core.optional import require_package
from advgan.data.columns import IMAGE, LABEL, Columns, Names, find_classes, find_column, plain_label
from advgan.data.folder import Labels, Sizing, as_splits, by_split, split_named
from advgan.data.image_file import ImageSource
from advgan.data.shards import LibraryShards, check_folder, first_damage, keep_data_files, load_error, names_by_file
from advgan.data.split import Data, fair_order, stratified_holdout
from advgan.data.stream import HOLDOUT_MODULUS, Stream


def load_hf(name: str, root: Path, sizing: Sizing, labels: Labels, seed: int) -> Data:
    """Load `hf:SOURCE` or `hf-stream:SOURCE`; SOURCE: a folder, or a repository with optional `:CONFIG`; none: `root`.

    Without labelled test images the validation images are the test images; without validation images a tenth of the
    training images is drawn by `seed`. Either gives a note on stderr. Folders of images that are not class folders have
    no labels.

    Raises:
        InputError: it cannot be loaded, has no training images, no column of images or of labels, or is damaged; a
            stream without labels.
    """
    kind, _, source = name.partition(":")
    loaded = _open(name, source or str(root), labels, streaming=kind == "hf-stream")
    return (_streamed if kind == "hf-stream" else _on_disk)(loaded, sizing, seed)


@dataclass(frozen=True)
class Loaded:
    """A data set as opened by the library: splits by name, their files if listed, class names of the label column in
    each file (or of the whole split), the two columns (label None: no labels), and the folder of a local one."""

    name: str
    splits: dict[str, Any]
    files: dict[str, list[str]]
    names: dict[str, list[Names]]
    image: str
    label: str | None
    folder: Path | None
    paths: bool

    def columns(self, labels: Any) -> Columns:
        if self.label is None:
            return Columns(self.name, self.image, "", (), self.paths)
        declared = [names for split in ("train", *self.names) for names in self.names[split]]
        if any(self.names["train"]):  # classes missing in train raise an error later
            declared = self.names["train"]
        classes = find_classes(declared, self.folder, labels, self.name)
        return Columns(self.name, self.image, self.label, classes, self.paths)


def _open(name: str, source: str, labels: Labels, *, streaming: bool) -> Loaded:
    datasets = require_package("datasets", "hf")
    config = ""
    if not os.path.isdir(source):
        source, _, config = source.partition(":")
    folder = Path(source) if os.path.isdir(source) else None
    files: dict[str, list[str]] = {}
    paths = False
    if folder:
        check_folder(folder)
    try:
        if folder and any((folder / marker).is_file() for marker in ("dataset_dict.json", "state.json")):
            if streaming:
                raise InputError(
                    f"{name} was saved by save_to_disk, which cannot be streamed: expected hf: in place of hf-stream:"
                )
            datasets_by_split = datasets.load_from_disk(source)
        else:
            builder = datasets.load_dataset_builder(source, config or None)
            files = keep_data_files(name, folder, builder.config.data_files or {})
            paths = builder.info.builder_name == "imagefolder"
            if streaming:
                datasets_by_split = builder.as_streaming_dataset()
            else:
                if damaged := first_damage(
                    path for split_files in files.values() for path in split_files if path.endswith(".tar")
                ):
                    raise InputError(f"{name} has a damaged shard, {damaged}")
                builder.download_and_prepare()
                datasets_by_split = builder.as_dataset()
    except InputError:
        raise
    except Exception as error:  # the library may raise any exception
        raise load_error(name, (path for split_files in files.values() for path in split_files), error) from None
    splits = (
        {str(split): part for split, part in datasets_by_split.items()}
        if isinstance(datasets_by_split, dict)
        else {"train": datasets_by_split}
    )
    parts = by_split(list(splits), name, "splits")
    splits = {split: splits[part] for split, part in parts.items()}
    files = {split: files[part] for split, part in parts.items() if part in files}
    if "train" not in splits:
        raise InputError(
            f"{name} has no training images: expected a split called train, got {listing(datasets_by_split)}"
        )
    if splits["train"].features is None:
        raise InputError(f"{name} has no known columns, expected parquet files, tar shards or images")
    features = splits["train"].features
    unlabelled = labels.predicted or (paths and not labels.label_column and _no_labels(features, name))
    image = find_column("images", features, name, labels.image_column)
    label = None if unlabelled else find_column("labels", features, name, labels.label_column)
    names = {}
    for split, part in splits.items():
        if missing := [column for column in (image, label) if column and column not in part.features]:
            raise InputError(f"{name} has no column {', '.join(missing)} in {split}, got {listing(part.features, 12)}")
        if label is not None:
            names[split] = names_by_file(files.get(split, [""]), label, part.features[label], name)
    return Loaded(name, splits, files, names, image, label, folder, paths)


def _no_labels(features: Any, name: str) -> bool:
    """Whether the features of an image folder have no labels, or the names of the splits in their place. Columns of
    metadata that may hold labels are in a note on stderr."""
    if any(column.casefold() in LABEL for column in features):
        names = getattr(features.get("label"), "names", None)
        return names is not None and all(map(split_named, names))
    if others := [column for column in features if column.casefold() not in IMAGE]:
        note(f"{name} has no column of labels: expected {', '.join(LABEL)}, or --label-column, got {listing(others)}")
    return True


class TableImages(Sequence[ImageSource]):
    """The images of a table."""

    def __init__(self, table: Any, columns: Columns) -> None:
        self.table, self.columns = table, columns

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> ImageSource:  # type: ignore[override]
        return self.columns.image_source(self.table[int(index)][self.columns.image], f"{self.columns.name} row {index}")


def _on_disk(loaded: Loaded, sizing: Sizing, seed: int) -> Data:
    datasets = require_package("datasets", "hf")
    values = {} if loaded.label is None else {split: _labels(loaded, split) for split in loaded.splits}
    columns = loaded.columns([value for split in values.values() for value in split])
    has_labels = {split for split, labels in values.items() if any(label not in (None, -1) for label in labels)}
    if loaded.label is not None and "train" not in has_labels:
        raise InputError(
            f"{loaded.name} has no labelled training images: column {loaded.label} has no labels in train; "
            "--label-source predicted takes images without labels"
        )
    usable = has_labels if loaded.label is not None else {split for split, part in loaded.splits.items() if len(part)}
    chosen = _choose_splits(loaded, usable)
    used = [part for part in dict.fromkeys(chosen) if part]
    table = datasets.concatenate_datasets([columns.only(loaded.splits[part], labels=False) for part in used])
    labels = torch.tensor(
        [
            columns.number(value, f"{loaded.name} {part} row {i}")
            for part in used
            for i, value in enumerate(values.get(part, ()))
        ]
    )
    if loaded.label is None:
        labels = torch.zeros(len(table), dtype=torch.long)
    ends = torch.tensor([len(loaded.splits[part]) for part in used]).cumsum(0).tolist()
    indices = {part: torch.arange(end - len(loaded.splits[part]), end) for part, end in zip(used, ends, strict=True)}
    rows: dict[str, Tensor] = {"train": indices[chosen[0]]}
    for role, source in (("test", chosen[2]), ("validation", chosen[1])):
        if source:
            rows[role] = indices[source]
        else:
            kept, held = stratified_holdout(labels[rows["train"]], seed)
            rows["train"], rows[role] = rows["train"][kept], rows["train"][held]
    order = [rows[role][fair_order(labels[rows[role]])] for role in ("train", "validation", "test")]
    images, preprocessing = sizing.stored(loaded.name, TableImages(table, columns), torch.cat(order).tolist())
    labelled = [loaded.label is not None] * len(order)
    train, validation, test = as_splits(images, [labels[indices] for indices in order], labelled)
    return Data(loaded.name, train, validation, test, columns.classes, preprocessing=preprocessing)


def _labels(loaded: Loaded, split: str) -> list[str | int | None]:
    """The labels of a split by `plain_label`, each with the class names of its file."""
    table, names = loaded.splits[split], loaded.names[split]
    values, names_per_row = list(table[loaded.label][:]), names * len(table) if len(names) == 1 else []
    if not names_per_row and len({*names}) > 1:
        parquet = require_package("pyarrow.parquet", "hf")
        counts = [parquet.read_metadata(path).num_rows for path in loaded.files[split]]
        names_per_row = [file_names for file_names, n in zip(names, counts, strict=True) for _ in range(n)]
    names_per_row = names_per_row or names[:1] * len(table)
    if len(names_per_row) != len(values):
        raise InputError(f"{loaded.name}: files of {split} have {len(names_per_row)} rows, expected {len(values)}")
    return [
        plain_label(value, row_names, f"{loaded.name} {split} row {i}")
        for i, (value, row_names) in enumerate(zip(values, names_per_row, strict=True))
    ]


def _choose_splits(loaded: Loaded, usable: set[str]) -> tuple[str, str | None, str | None]:
    """The splits for training, validation and test; None: to be held out. Replacements give a note on stderr."""
    test = "test" if "test" in usable else None
    validation = "validation" if "validation" in usable else None
    if not test and validation:
        note(f"{loaded.name} has no labelled test images: its {validation} images are used as test images")
        test, validation = validation, None
    elif not test:
        note(f"{loaded.name} has no labelled test images: a tenth of the training images is held out as test images")
    if not validation:
        note(f"{loaded.name}: a tenth of the training images is held out for validation")
    return "train", validation, test


def _streamed(loaded: Loaded, sizing: Sizing, seed: int) -> Data:
    if loaded.label is None:
        raise InputError(f"{loaded.name} has no labels, which a stream needs: expected hf: in place of hf-stream:")
    columns = loaded.columns(None)
    train, validation, test = _choose_splits(loaded, {*loaded.splits})
    shards = {
        part: LibraryShards(loaded.splits[part], columns, loaded.files.get(part, []), loaded.names[part])
        for part in (train, validation, test)
        if part
    }
    first_sources = [source for source, _ in islice(shards[train].read(0), 64)]
    images, preprocessing = sizing.stored(loaded.name, first_sources)
    shape, crop, resize = images.image_shape, images.crop, images.resize
    stream = partial(Stream, image_shape=shape, crop=crop, resize=resize, num_classes=len(columns.classes))
    all_remainders = frozenset(range(HOLDOUT_MODULUS))
    missing = [role for role, source in (("validation", validation), ("test", test)) if not source]
    heldout = {role: frozenset({(seed + i) % HOLDOUT_MODULUS}) for i, role in enumerate(missing)}
    kept = all_remainders.difference(*heldout.values())
    return Data(
        loaded.name,
        train=stream(shards[train], kept=kept),
        validation=stream(shards[validation]) if validation else stream(shards[train], kept=heldout["validation"]),
        test=stream(shards[test]) if test else stream(shards[train], kept=heldout["test"]),
        classes=columns.classes,
        preprocessing=preprocessing,
    )
