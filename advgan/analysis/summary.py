"""The analysis of a comparison: worst case, pairwise tests, checks, local optimality, cost, spread over seeds."""

from collections.abc import Mapping, Sequence
from typing import Any

from advgan.analysis.cost import cost
from advgan.analysis.optimality import optimality
from advgan.analysis.pairs import mcnemar_pairs, seeds
from advgan.analysis.sanity import sanity
from advgan.analysis.survival import survival
from advgan.analysis.worst_case import worst_case
from advgan.evaluation.evaluate import Result


def summary(
    results: Sequence[Result], generators: Sequence[Mapping[str, Any]], num_classes: int
) -> dict[str, list[dict[str, Any]]]:
    """The lists of results.json, from `results` and the entries of `generators`; `survival` where it was measured."""
    survived = survival(results)
    return {
        "rows": [result.row for result in results],
        "worst_case": worst_case(results),
        "mcnemar": mcnemar_pairs(results),
        "sanity": sanity(results, num_classes),
        "optimality": optimality(results),
        "cost": cost(results, generators),
        "seeds": seeds(results),
        **({"survival": survived} if survived else {}),
    }
