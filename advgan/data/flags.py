"""The data flags of all programs, with one help text."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from advgan.core.errors import InputError, note
from advgan.core.recipe import NameOrPath
from advgan.data import Data, Split, Stream, load_data
from advgan.data.folder import LabelSource, OwnInput, no_input


@dataclass(frozen=True)
class SetSettings:
    """The data set of a program, and its recipe."""

    recipe: Path | None = None
    """YAML file of settings, or name of a shipped recipe; flags override it"""
    dataset: NameOrPath = "mnist5k"
    """mnist5k (embedded), mnist, fashion-mnist, cifar10; folder (images in the data dir, in train/ [val/] test/ or not,
    in class folders or without labels; or a list of files, .csv or .txt); hf:SOURCE[:CONFIG] (a folder of parquet
    files, tar shards or images, or a repository, through Hugging Face datasets); hf-stream:SOURCE[:CONFIG] (the same,
    streamed): docs/data.md"""
    data_dir: Path = Path("data")
    """Folder of the data set or its download; the SOURCE of hf and hf-stream without one"""


@dataclass(frozen=True)
class ImageSettings:
    """Size and labels of the images of a custom data set."""

    image_size: int | None = None
    """Side in pixels to which images of a custom data set are resized and cropped; None: no change, or the classifier's
    size where images differ in size"""
    resize: int | None = None
    """Shorter side in pixels to which images of a custom data set are resized before the centre square of --image-size
    is cropped; None: the same as --image-size"""
    labels_file: Path | None = None
    """CSV file with the labels of a folder's images: columns file, label (a number or a name)"""
    label_source: LabelSource | None = None
    """given, or predicted: the classifier's predictions on the clean images are the labels, and the success rate is the
    fooling rate; None: given, predicted where there are none"""


@dataclass(frozen=True)
class DataSettings(ImageSettings, SetSettings):
    """The data set of a program with its images and labels, and its recipe."""

    image_column: str | None = None
    """Column of the images, of hf, hf-stream and CSV files; None: by name"""
    label_column: str | None = None
    """Column of the labels, of hf, hf-stream and CSV files; None: by name"""


DATA_FLAGS = tuple(field.name for field in fields(DataSettings) if field.name != "recipe")


def load_chosen(
    settings: DataSettings,
    needed: Sequence[str] = ("train", "test"),
    *,
    labels: bool = True,
    own_input: OwnInput = no_input,
) -> Data:
    """The data set of a program's settings; `own_input`: as in `load_data`.

    Raises InputError as `load_data`, for `needed` splits ("train", "test") without images, and with `labels` for
    images without.
    """
    chosen = {name: getattr(settings, name) for name in DATA_FLAGS if name not in ("dataset", "data_dir")}
    if settings.dataset == "mnist5k" and settings.data_dir != DataSettings.data_dir:
        note(f"data_dir does nothing for mnist5k, which is embedded: images need --dataset, got {settings.data_dir}")
    data = load_data(settings.dataset, settings.data_dir, own_input=own_input, **chosen)
    for part in needed:
        split: Split = getattr(data, part)
        if not isinstance(split, Stream) and not len(split):
            raise InputError(
                f"{data.name} has no {part} images in {settings.data_dir}: expected a folder or list {part}/, "
                "or images that are in no such folder, which are divided"
            )
        if labels and not split.has_labels:
            raise InputError(
                f"{data.name} has no labels in {settings.data_dir}, which this program needs: expected class folders, "
                "or --labels-file"
            )
    return data
