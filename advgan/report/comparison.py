"""The input of reports: results of a comparison, and the first images."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from advgan.analysis.groups import Group, groups, sort_key
from advgan.core.terminal import printable
from advgan.evaluation.evaluate import Result


@dataclass(frozen=True)
class Plot:
    """A rendered figure: `image` (height, width, 3) uint8, with a title and a caption."""

    title: str
    caption: str
    image: np.ndarray


@dataclass(frozen=True)
class Comparison:
    """The content of a report.

    summary    results.json
    results    one per row of it: its records per image, and adversarial examples of the first images
    x, y       the first clean images (k, c, h, w) and their classes (k,); classes are the names of these
    """

    summary: dict[str, Any]
    results: list[Result]
    x: Tensor
    y: Tensor
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        """Class names are anybody's: in pages and figures without control characters."""
        object.__setattr__(self, "classes", tuple(map(printable, self.classes)))

    def groups(self) -> list[tuple[Group, list[Result]]]:
        """The results with metrics, group by group: by target, norm, eps and class."""
        return sorted(groups(self.results).items(), key=lambda item: sort_key(item[0]))
