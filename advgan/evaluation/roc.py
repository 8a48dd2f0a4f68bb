"""How well scores tell two kinds of images apart, at every threshold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np


def auc(clean: Any, adversarial: Any) -> tuple[float, float, float]:
    """The area under the ROC curve, exactly, with the ends of its 95 % interval (DeLong et al. 1988).

    It is the chance that one of the scores `adversarial` (m,) is larger than one of those of `clean` images (n,), ties
    counted half: the Mann-Whitney statistic U / (m n). Both must hold two scores at least for an interval, and one for
    the area.
    """
    clean, adversarial = np.sort(np.asarray(clean, np.float64)), np.sort(np.asarray(adversarial, np.float64))
    above = _below(clean, adversarial)  # (m,) of each adversarial score: the share of the clean ones below it
    under = 1 - _below(adversarial, clean)
    area = float(above.mean())
    if min(len(above), len(under)) < 2:
        return area, 0.0, 1.0
    spread = 1.959964 * math.sqrt(above.var(ddof=1) / len(above) + under.var(ddof=1) / len(under))
    return area, max(area - spread, 0.0), min(area + spread, 1.0)


def roc(clean: Any, adversarial: Any, rates: Sequence[float]) -> list[float]:
    """The share of the scores `adversarial` (m,) above the threshold that rejects at most a share of the `clean` (n,),
    for each of these `rates`: the curve's height there."""
    clean, adversarial = np.sort(np.asarray(clean, np.float64))[::-1], np.asarray(adversarial, np.float64)
    allowed = [math.floor(rate * len(clean) + 1e-9) for rate in rates]
    return [float((adversarial > clean[k]).mean()) if k < len(clean) else 1.0 for k in allowed]


def _below(values: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The share of the sorted `values` below each of the `points`; of equal ones half."""
    sides = np.searchsorted(values, points, "left") + np.searchsorted(values, points, "right")
    share: np.ndarray = sides / (2 * len(values))
    return share
