"""The data flags of all programs, with one help text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from advgan.core.recipe import NameOrPath
from advgan.data import Data, load_data

Dataset = Annotated[
    NameOrPath,
    arg(
        help="mnist5k (embedded), mnist, fashion-mnist, cifar10; folder (class folders train/ [val/] test/ in the data "
        "dir); hf:SOURCE[:CONFIG] (a folder of parquet files, tar shards or images, or a repository, through Hugging "
        "Face datasets); hf-stream:SOURCE[:CONFIG] (the same, streamed): docs/data.md"
    ),
]
DataDir = Annotated[
    Path, arg(help="Folder of the data set or its download; the SOURCE of hf and hf-stream without one")
]
ImageSize = Annotated[
    int | None,
    arg(help="Side in pixels to which images of a custom data set are resized and cropped; None: no change"),
]
ImageColumn = Annotated[str | None, arg(help="Column of the images, with hf and hf-stream; None: by name or type")]
LabelColumn = Annotated[str | None, arg(help="Column of the labels, with hf and hf-stream; None: by name or type")]


@dataclass(frozen=True)
class DataSettings:
    """The data set of a program, and its recipe."""

    recipe: Path | None = None
    """YAML file of settings, or name of a shipped recipe; flags override it"""
    dataset: Dataset = "mnist5k"
    data_dir: DataDir = Path("data")
    image_size: ImageSize = None
    image_column: ImageColumn = None
    label_column: LabelColumn = None


def load_chosen(settings: DataSettings) -> Data:
    """The data set of a program's settings. Raises InputError as `load_data`."""
    return load_data(
        settings.dataset,
        settings.data_dir,
        image_size=settings.image_size,
        image_column=settings.image_column,
        label_column=settings.label_column,
    )
