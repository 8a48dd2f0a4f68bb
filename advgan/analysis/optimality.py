"""How near an attack comes to the smallest perturbations that any attack has found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from advgan.analysis.groups import first_seeds, groups
from advgan.evaluation.evaluate import Result

Scenario = tuple[str, str, int | None]  # target, norm, y_target


def distances(results: Iterable[Result]) -> dict[Scenario, dict[str, np.ndarray]]:
    """Per (target, norm, y_target) and attack, how far each image that counts had to go: (n_attacked,) float64.

    Of a minimum-norm attack it is the norm of its perturbation, of a bounded one the smallest eps at which it succeeds
    (the norm inside that ball has no meaning: the attack does not minimise it); inf where none does.
    Of several seeds the first counts, and an eps at which under a quarter of the attacks was run does not (PGD alone at
    eps 0.5, for a sanity check).
    """
    found: dict[Scenario, dict[str, np.ndarray]] = {}
    compared = groups(results)
    most = Counter[tuple[str, str, int | None]]()
    for (target, norm, _, y_target), members in compared.items():
        most[target, norm, y_target] = max(most[target, norm, y_target], len(first_seeds(members)))
    for (target, norm, _, y_target), members in compared.items():
        if 4 * len(first_seeds(members)) < most[target, norm, y_target]:
            continue
        known = found.setdefault((target, norm, y_target), {})
        for result in first_seeds(members):
            records, attack = result.records, result.row["attack"]
            bounded = result.row["protocol"] == "bounded"
            size = torch.full_like(records[norm], result.row["eps"], dtype=torch.float64) if bounded else records[norm]
            reached = records["success" if bounded else "fooled"]
            reach = size.double().masked_fill(~reached, float("inf"))[records["counts"]].numpy()
            known[attack] = np.minimum(reach, known[attack]) if attack in known else reach
    return found


def best(attacks: Mapping[str, np.ndarray]) -> np.ndarray:
    """The per-image best over all attacks' distances: (n_attacked,)."""
    return np.min(list(attacks.values()), axis=0)


def curve(reach: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """ASR against eps of distances `reach` (n,), n >= 1: eps (k,) from 0 up, and the share of images fooled at each.

    A step function: between two eps the rate is that of the smaller one. Robust accuracy on these images is 1 - ASR.
    """
    eps, times = np.unique(reach[np.isfinite(reach)], return_counts=True)
    return np.concatenate([[0.0], eps]), np.concatenate([[0.0], np.cumsum(times) / len(reach)])


def local_optimality(reach: np.ndarray, ideal: np.ndarray) -> float:
    """AttackBench's local optimality (Cinà et al. 2025, arXiv:2404.19460) of distances `reach` (n,), in [0, 1].

    With robust accuracy rho_a(eps) of an attack, rho*(eps) of the per-image best `ideal`, and E the largest distance
    that the best needs,

        1 - int_0^E (rho_a - rho*) / int_0^E (rho(0) - rho*)  =  sum_i max(E - a_i, 0) / sum_i max(E - best_i, 0)

    because each image that falls at a_i takes its share off the curve from there on to E. 1: no attack found anything
    nearer; 0: it fools nothing nearer than E. (AttackBench's program joins the steps of the curve by straight lines;
    this is the exact area.) NaN where both sums vanish: nothing was fooled, or all best distances are alike, as those
    of bounded attacks at a single eps are. Nothing tells the attacks' distances apart then.
    """
    reached = ideal[np.isfinite(ideal)]
    if not len(reached):
        return float("nan")
    end = reached.max()
    if np.allclose(reached, end, rtol=1e-3, atol=0):
        return float("nan")
    return float(np.clip(end - reach, 0, None).sum() / np.clip(end - ideal, 0, None).sum())


def optimality(results: Iterable[Result]) -> list[dict[str, Any]]:
    """The local optimality of each attack, up to `eps_max`, the largest distance that the per-image best needs.

    Attacks of one protocol on the same target in the same norm, toward the same class, share a best: two at least, that
    were run at the same radii, where they are bounded. Minimal-norm ones take part only where they minimise that norm.
    Where no image was fooled, or all at one distance (bounded attacks at a single eps), there is nothing to compare.
    """
    found, done = [], list(results)
    bounded = [result for result in done if result.row["protocol"] == "bounded"]
    minimal = [r for r in done if r.row["protocol"] == "minimal-norm" and r.row["attack_norm"] == r.row["norm"]]
    for (target, norm, y_target), attacks in [*distances(_at_all_radii(bounded)).items(), *distances(minimal).items()]:
        ideal = best(attacks)
        optimal = {attack: local_optimality(reach, ideal) for attack, reach in attacks.items()}
        if len(attacks) < 2 or any(np.isnan(value) for value in optimal.values()):
            continue
        scenario = {"target": target, "norm": norm, "y_target": y_target}
        eps_max = float(ideal[np.isfinite(ideal)].max())
        for attack, value in optimal.items():
            found.append({**scenario, "attack": attack, "optimality": value, "eps_max": eps_max})
    return found


def _at_all_radii(bounded: Sequence[Result]) -> list[Result]:
    """The results of those attacks that were run at every radius of their target, norm and class."""
    radii: dict[Scenario, dict[str, set[float]]] = {}
    compared = groups(bounded)
    most = max(map(len, compared.values()), default=0)
    for group, members in compared.items():
        if 4 * len(members) >= most:
            for result in members:
                attacks = radii.setdefault((group.target, group.norm, group.y_target), {})
                attacks.setdefault(result.row["attack"], set()).add(group.eps)

    def everywhere(result: Result) -> bool:
        row = result.row
        attacks = radii.get((row["target"], row["norm"], row["y_target"]), {})
        return attacks.get(row["attack"]) == set[float]().union(*attacks.values())

    return [result for result in bounded if everywhere(result)]
