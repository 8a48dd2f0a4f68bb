"""The flags by which every program is told its data: one help text for all."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from advgan.recipe import NameOrPath

Dataset = Annotated[
    NameOrPath,
    arg(
        help="mnist5k (embedded), mnist, fashion-mnist, cifar10; folder (class folders train/ [val/] test/ in the data "
        "dir); hf:SOURCE[:CONFIG] (a folder of parquet files, tar shards or pictures, or a repository, through Hugging "
        "Face datasets); hf-stream:SOURCE[:CONFIG] (the same, read in passing): docs/data.md"
    ),
]
DataDir = Annotated[Path, arg(help="Where the data set lies, or is downloaded to; with hf or hf-stream alone: SOURCE")]
ImageSize = Annotated[int | None, arg(help="Resize and crop your own images to this many pixels a side")]
