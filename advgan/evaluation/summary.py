"""What a comparison says beyond its rows: worst case, pairs, verdicts, optimality, cost, spread over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from advgan.evaluation.cost import cost
from advgan.evaluation.harness import Result
from advgan.evaluation.optimality import optimality
from advgan.evaluation.sanity import sanity
from advgan.evaluation.statistics import mcnemar_pairs, seeds
from advgan.evaluation.worst_case import worst_case


def summary(
    results: Sequence[Result], generators: Sequence[Mapping[str, Any]], num_classes: int
) -> dict[str, list[dict[str, Any]]]:
    """The lists of results.json, from the cells' `results` and what is known of the `generators`."""
    return {
        "rows": [result.row for result in results],
        "worst_case": worst_case(results),
        "mcnemar": mcnemar_pairs(results),
        "sanity": sanity(results, num_classes),
        "optimality": optimality(results),
        "cost": cost(results, generators),
        "seeds": seeds(results),
    }
