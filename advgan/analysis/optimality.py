"""Local optimality of an attack, relative to the smallest perturbation that any attack found per image."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from advgan.analysis.groups import Scenario, compared, group_of
from advgan.evaluation.evaluate import Result


def distances(results: Iterable[Result]) -> dict[Scenario, dict[str, np.ndarray]]:
    """Per (target, norm, y_target) and attack, the distance to an adversarial example: (n_attacked,) float64.

    Of a minimum-norm attack it is the norm of its perturbation, of a bounded one the smallest eps at which it succeeds
    (the norm inside that ball has no meaning: the attack does not minimise it); inf without success.
    Of the groups that are `compared` in their scenario.
    """
    of_scenario = defaultdict[Scenario, list[Result]](list)
    for result in results:
        of_scenario[group_of(result.row).scenario].append(result)
    by_scenario: dict[Scenario, dict[str, np.ndarray]] = {}
    for group, members in (item for part in of_scenario.values() for item in compared(part).items()):
        by_attack = by_scenario.setdefault(group.scenario, {})
        for result in members:
            records, attack, size = result.records, result.row["attack"], result.records[group.norm]
            bounded = result.row["protocol"] == "bounded"
            size = torch.full_like(size, group.eps, dtype=torch.float64) if bounded else size
            success = records["success" if bounded else "fooled"]
            distance = size.double().masked_fill(~success, float("inf"))[records["counts"]].numpy()
            by_attack[attack] = np.minimum(distance, by_attack[attack]) if attack in by_attack else distance
    return by_scenario


def local_optimality(distances: np.ndarray, ideal: np.ndarray) -> float:
    """AttackBench's local optimality (Cinà et al. 2025, arXiv:2404.19460) of `distances` (n,), in [0, 1].

    With robust accuracy rho_a(eps) of an attack, rho*(eps) of the per-image best `ideal`, and E the largest distance
    that the best needs,

        1 - int_0^E (rho_a - rho*) / int_0^E (rho(0) - rho*)  =  sum_i max(E - a_i, 0) / sum_i max(E - best_i, 0)

    because an image with distance a_i lowers the curve from a_i to E. 1: no attack found a smaller distance; 0: no
    success below E. (AttackBench's program joins the steps of the curve by straight lines; this is the exact area.) NaN
    where both sums vanish: without any success, or with equal best distances, as those of bounded attacks at a single
    eps.
    """
    finite = ideal[np.isfinite(ideal)]
    if not len(finite):
        return float("nan")
    eps_max = finite.max()
    if np.allclose(finite, eps_max, rtol=1e-3, atol=0):
        return float("nan")
    return float(np.clip(eps_max - distances, 0, None).sum() / np.clip(eps_max - ideal, 0, None).sum())


def optimality(results: Iterable[Result]) -> list[dict[str, Any]]:
    """The local optimality of each attack, up to `eps_max`, the largest of the per-image best distances.

    The best is taken over attacks of one protocol on the same target in the same norm, with the same target class: at
    least two; bounded ones must be run at the same eps, minimum-norm ones must minimise that norm. Without any success,
    or with a single distance (bounded attacks at a single eps), there is no entry.
    """
    entries, all_results = [], list(results)
    bounded = [result for result in all_results if result.row["protocol"] == "bounded"]
    minimum_norm = [
        r for r in all_results if r.row["protocol"] == "minimal-norm" and r.row["attack_norm"] == r.row["norm"]
    ]
    for (target, norm, y_target), attacks in [
        *distances(_at_every_eps(bounded)).items(),
        *distances(minimum_norm).items(),
    ]:
        ideal = np.min(list(attacks.values()), axis=0)  # of each image
        optimal = {attack: local_optimality(distance, ideal) for attack, distance in attacks.items()}
        if len(attacks) < 2 or any(np.isnan(value) for value in optimal.values()):
            continue
        scenario = {"target": target, "norm": norm, "y_target": y_target}
        eps_max = float(ideal[np.isfinite(ideal)].max())
        for attack, value in optimal.items():
            entries.append({**scenario, "attack": attack, "optimality": value, "eps_max": eps_max})
    return entries


def _at_every_eps(bounded: Sequence[Result]) -> list[Result]:
    """The results of the attacks that were run at every eps of their target, norm and target class."""
    eps_values = defaultdict[Any, set[float]](set)  # of an attack, and of all
    for group, members in compared(bounded).items():
        for result in members:
            eps_values[group.scenario, result.row["attack"]].add(group.eps)
            eps_values[group.scenario].add(group.eps)

    def at_all_eps(result: Result) -> bool:
        scenario = group_of(result.row).scenario
        return bool(eps_values[scenario]) and eps_values[scenario, result.row["attack"]] == eps_values[scenario]

    return [result for result in bounded if at_all_eps(result)]
