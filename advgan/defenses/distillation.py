"""Defensive distillation: training on the probabilities of a classifier at temperature T (Papernot et al. 2016,
arXiv:1511.04508, section IV).

    p_i(x) = exp(z_i / T) / sum_j exp(z_j / T)                                                             (eq. 2)

The larger T, the softer p. A net that was trained at T has logits T times as large as a plain one's, and is used at
T = 1: there its probabilities are 0 and 1 in float32, with no gradient between.
"""

import math

from torch import Tensor

from advgan.core.errors import InputError


def soft_labels(logits: Tensor, temperature: float) -> Tensor:
    """The softmax of `logits` (n, k) at `temperature`, (n, k) float32. Raises InputError unless 0 < T < infinity."""
    return (logits.float() / check_temperature(temperature)).softmax(1)


def soft_cross_entropy(logits: Tensor, q: Tensor, temperature: float) -> Tensor:
    """-sum_i q_i log p_i at `temperature`, one value (n,) for each image; `q` (n, k) are probabilities (eq. 5).

    Its gradient by `logits` (n, k) is (p - q) / T. With one-hot q it is the teacher's loss. Raises InputError as above.
    """
    return -(q * (logits.float() / check_temperature(temperature)).log_softmax(1)).sum(1)


def check_temperature(temperature: float) -> float:
    """`temperature` itself. Raises InputError unless it is positive and finite."""
    if not 0 < temperature < math.inf:
        raise InputError(f"temperature must be positive, got {temperature}")
    return temperature
