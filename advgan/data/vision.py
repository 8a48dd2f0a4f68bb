"""mnist, fashion-mnist and cifar10 of torchvision: a local copy, else a download."""

from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advgan.core.errors import InputError
from advgan.data.split import Data, Split, stratified_holdout

# name -> torchvision's class, its files under the data folder, class names
SETS = {
    "mnist": ("MNIST", "MNIST/raw/{train,t10k}-{images-idx3,labels-idx1}-ubyte", tuple("0123456789")),
    "fashion-mnist": (
        "FashionMNIST",
        "FashionMNIST/raw/{train,t10k}-{images-idx3,labels-idx1}-ubyte",
        ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
    "cifar10": (
        "CIFAR10",
        "cifar-10-batches-py/{data_batch_1..5,test_batch,batches.meta}",
        ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    ),
}


def load_torchvision(name: str, root: Path, seed: int) -> Data:
    """Load one of `SETS` from `root`, or download it to there; validation is drawn from train (`stratified_holdout`).

    Raises:
        InputError: no usable copy, and a failed download, with the path and a remedy.
    """
    classes = SETS[name][2]
    train, test = (_to_split(_open(name, root, train=train)) for train in (True, False))
    assert isinstance(train.images, Tensor)
    kept, held = stratified_holdout(train.labels, seed)
    return Data(
        name,
        train=Split(train.images[kept], train.labels[kept]),
        validation=Split(train.images[held], train.labels[held]),
        test=test,
        classes=classes,
    )


def _open(name: str, root: Path, train: bool) -> Any:
    import torchvision.datasets  # slow to import, not needed for mnist5k and folder

    class_name, layout, _ = SETS[name]
    failures = []
    for download in (False, True):
        try:
            return getattr(torchvision.datasets, class_name)(root, train=train, download=download)
        except Exception as error:  # any exception: RuntimeError, URLError, pickle's errors, ...
            failures.append(shorten(f"{type(error).__name__}: {error}", 200, placeholder=" ..."))
    raise InputError(
        f"cannot load {name}: no usable copy at {root}/{layout} ({failures[0]}), and the download to {root} failed "
        f"({failures[1]}); put the files there, pass their folder as --data-dir, "
        f"or use the data set mnist5k, which needs no download"
    )


def _to_split(dataset: Any) -> Split:
    """torchvision keeps grey images as a tensor `(n, h, w)`, coloured ones as an array `(n, h, w, 3)`."""
    images = torch.from_numpy(np.asarray(dataset.data))
    images = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2)
    return Split(images.contiguous(), torch.as_tensor(dataset.targets, dtype=torch.long))
