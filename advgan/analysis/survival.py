"""Success of written images after transforms: 8 bits, JPEG, resizing, cropping."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from advgan.evaluation.evaluate import Result
from advgan.evaluation.metrics import reached
from advgan.evaluation.statistics import rate

AFTER = "after "  # a transform: the records of predictions (`advgan.evaluation.verify.predictions_after`)


def survival(results: Iterable[Result]) -> list[dict[str, Any]]:
    """An entry for each result and transform; [] where none was measured.

    asr     over the eligible images, after the transform, with its Wilson interval; within eps as a file of 8 bits
    kept    the share of the successes without transform that are successes after it; None: there are none
    clean   what the transform does alone: the same rate of the eligible images without an attack
    """
    return [
        _entry(result, column.removeprefix(AFTER))
        for result in results
        for column in result.records
        if column.startswith(AFTER)
    ]


def _entry(result: Result, name: str) -> dict[str, Any]:
    row, records = result.row, result.records
    eligible, before = records["counts"], records["success"]
    after = eligible & records["within_8bit"] & _success(records, AFTER + name, row["y_target"])
    clean = eligible & _success(records, f"clean {AFTER}{name}", row["y_target"])
    n, hits, successes = int(eligible.sum()), int(after.sum()), int(before.sum())
    return {
        **{key: row[key] for key in ("target", "attack", "norm", "eps", "y_target", "seed")},
        **{"transform": name, "n": n},
        **rate("asr", hits, n),
        "kept": int((before & after).sum()) / successes if successes else None,
        "clean": int(clean.sum()) / n,
    }


def _success(records: dict[str, Tensor], column: str, y_target: int | None) -> Tensor:
    """Whether each image (n,) is predicted as another class, or as `y_target`, and not rejected (-1)."""
    prediction = records[column]
    return reached(prediction, records["label"], y_target) & (prediction >= 0)
