"""A comparison as the reports take it: what was measured, and images to look at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from advgan.evaluation.harness import Result


class Group(NamedTuple):
    """What may share a table or a chart: one target under one threat. `y_target` None is untargeted."""

    target: str
    norm: str
    eps: float
    y_target: int | None


@dataclass(frozen=True)
class Picture:
    """A figure, drawn: `image` (height, width, 3) uint8, with a title and a caption that says how to read it."""

    title: str
    caption: str
    image: np.ndarray


@dataclass(frozen=True)
class Comparison:
    """All that a report shows.

    summary    results.json
    results    one per row of it: its records per image, and its answers to the first images
    x, y       the first clean images (k, c, h, w) and their classes (k,); classes are the names of these
    """

    summary: dict[str, Any]
    results: list[Result]
    x: Tensor
    y: Tensor
    classes: tuple[str, ...]

    def groups(self) -> Iterator[tuple[Group, list[Result]]]:
        """The results that have figures, group by group."""

        def key(result: Result) -> tuple[str, str, float, int]:
            row = result.row
            return row["target"], row["norm"], row["eps"], -1 if row["y_target"] is None else row["y_target"]

        done = [result for result in self.results if result.row["status"] == "ok"]
        for (target, norm, eps, aim), members in groupby(sorted(done, key=key), key):
            yield Group(target, norm, eps, None if aim < 0 else aim), list(members)
