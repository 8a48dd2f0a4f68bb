"""Statistics, worst case, local optimality and cost of constructed results, computed by hand."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from advgan.analysis.cost import break_even, cost
from advgan.analysis.groups import groups
from advgan.analysis.optimality import distances, local_optimality, optimality
from advgan.analysis.pairs import mcnemar_pairs, seeds
from advgan.analysis.worst_case import worst_case
from advgan.evaluation import ROW_KEYS, Result
from advgan.evaluation.statistics import mcnemar, mean_sd, median_interval

INF = float("inf")


def result(
    attack: str,
    success: Sequence[int] | str,
    counts: Sequence[int] | None = None,
    norms: Sequence[float] | None = None,
    label: Sequence[int] | None = None,
    **row: Any,
) -> Result:
    """An attack that succeeds on the images marked 1 (all count unless `counts` is given), with these norms."""
    hit = torch.tensor([int(c) for c in success], dtype=torch.bool)
    counted = torch.ones_like(hit) if counts is None else torch.tensor(counts, dtype=torch.bool)
    y = torch.zeros(len(hit), dtype=torch.int64) if label is None else torch.tensor(label)
    eps = row.get("eps", 0.3)
    size = torch.full((len(hit),), float(eps)) if norms is None else torch.tensor(norms, dtype=torch.float32)
    fooled = hit & counted
    within = torch.ones_like(hit) if row.get("protocol", "bounded") == "bounded" else size <= eps + 1e-6
    records = {
        **{"label": y, "clean_prediction": torch.where(counted, y, y + 1), "counts": counted},
        **{"prediction": torch.where(fooled, y + 1, y), "linf": size, "l2": size},
        **{"fooled": fooled, "within": within, "success": fooled & within},
    }
    n = int(counted.sum())
    known: dict[str, Any] = {
        **{"target": "net", "access": "gradients", "protocol": "bounded", "norm": "linf", "attack_norm": "linf"},
        **{"eps": 0.3, "y_target": None, "targeted": False, "seed": 0, "n": len(hit), "n_attacked": n, "status": "ok"},
        **{"asr": int(records["success"].sum()) / n, "seconds_per_image": 0.001},
    }
    made = dict.fromkeys(ROW_KEYS) | known | {"attack": attack} | row
    failed = made["status"] != "ok"
    return Result(made, {} if failed else records, torch.empty(0))


def strict_json(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The value as results.json stores it: unchanged by strict JSON."""
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    return rows


# Figures and pairs


@pytest.mark.parametrize(
    ("only_a", "only_b", "p"), [(0, 0, 1.0), (6, 0, 2 / 64), (0, 6, 2 / 64), (3, 3, 1.0), (8, 2, 112 / 1024)]
)
def test_exact_mcnemar_p_value(only_a: int, only_b: int, p: float) -> None:
    a = [True] * only_a + [False] * only_b + [True, True, False]
    b = [False] * only_a + [True] * only_b + [True, True, False]
    assert mcnemar(a, b) == (only_a, only_b, pytest.approx(p))


def test_median_interval_coverage_and_determinism() -> None:
    rng = np.random.default_rng(0)
    samples = rng.exponential(size=(100, 101))
    intervals = [median_interval(sample, resamples=300) for sample in samples]
    assert 89 <= sum(low <= np.log(2) <= high for low, high in intervals) <= 99
    assert median_interval(samples[0]) == median_interval(samples[0])
    assert median_interval(samples[0]) != median_interval(samples[0], seed=1)


@pytest.mark.parametrize(
    ("values", "interval"),
    [
        ([2.0], (2.0, 2.0)),
        ([INF], (INF, INF)),
        ([3.0] * 9, (3.0, 3.0)),
        ([INF] * 9, (INF, INF)),
        ([1.0] * 99 + [INF], (1.0, 1.0)),
        ([1.0] * 50 + [INF] * 50, (1.0, INF)),
        ([1.0] + [INF] * 99, (INF, INF)),
    ],
)
def test_median_interval_of_one_value_and_infinities(values: list[float], interval: tuple[float, float]) -> None:
    assert median_interval(values) == interval


def test_median_interval_agrees_with_order_statistics() -> None:
    # Of 1 ... 999 the resampled median is k or less exactly if 500 draws or more are: a binomial with p = k / 999.
    low, high = median_interval(np.arange(1.0, 1000.0), resamples=4000)
    assert low == pytest.approx(500 - 1.96 * np.sqrt(999) / 2, abs=5)
    assert high == pytest.approx(500 + 1.96 * np.sqrt(999) / 2, abs=5)


def test_mean_and_sample_deviation() -> None:
    assert mean_sd([1.0, 2.0, 3.0]) == (2.0, 1.0)
    assert mean_sd([0.5]) == (0.5, None)


def test_groups_by_target_norm_eps_and_class() -> None:
    grouped = groups(
        [result("a", "1"), result("b", "0"), result("a", "1", eps=0.1), result("c", "1", status="failed: x")]
    )
    assert {group: [r.row["attack"] for r in members] for group, members in grouped.items()} == {
        ("net", "linf", 0.3, None): ["a", "b"],
        ("net", "linf", 0.1, None): ["a"],
    }


def test_mcnemar_pairs_within_groups() -> None:
    results = [
        *(result("a", "110000"), result("b", "001100"), result("c", "111100")),
        *(result("a", "111111", seed=1), result("b", "111111", eps=0.1), result("d", "000000", status="failed: x")),
    ]
    pairs = strict_json(mcnemar_pairs(results))
    assert [(pair["a"], pair["b"], pair["only_a"], pair["only_b"]) for pair in pairs] == [
        *(("a", "b", 2, 2), ("a", "c", 0, 2), ("b", "c", 0, 2))
    ]
    assert set(pairs[0]) == {"target", "norm", "eps", "y_target", "a", "b", "only_a", "only_b", "p"}
    assert [pair["p"] for pair in pairs] == [1.0, 0.5, 0.5]


def test_many_attacks_are_compared_with_neighbours_only() -> None:
    results = [result(f"a{i}", "1" * i + "0" * (13 - i)) for i in range(13)]
    pairs = mcnemar_pairs(results)
    assert [(pair["a"], pair["b"]) for pair in pairs] == [(f"a{i}", f"a{i - 1}") for i in range(12, 0, -1)]
    assert len(mcnemar_pairs(results[:12])) == 66


def test_seed_summary_needs_several_seeds() -> None:
    runs = [result("pgd", hits, seed=seed) for seed, hits in enumerate(("1100", "1110", "1111"))]
    (summary,) = strict_json(seeds([*runs, result("fgsm", "1000"), result("pgd", "1111", eps=0.1)]))
    expected = {"target": "net", "norm": "linf", "eps": 0.3, "y_target": None, "attack": "pgd", "seeds": 3}
    assert summary == {**expected, "asr_mean": pytest.approx(0.75), "asr_sd": pytest.approx(0.25)}


# Worst case


def test_worst_case_counted_by_hand() -> None:
    counts = [1, 1, 1, 1, 1, 0]
    far = result("deepfool", "110011", counts, [0.1, 0.9, 0, 0, 0.2, 0.1], protocol="minimal-norm")
    results = [
        *(result("fgsm", "100001", counts), far, result("pgd", "000100", counts)),
        *(result("pgd", "100000", counts, seed=1), result("crash", "111111", status="failed: x")),
    ]
    (worst,) = strict_json(worst_case(results))
    # fgsm 0; deepfool 0 and 4, 1 is beyond eps; pgd 3, and 0 with another seed; 5 was wrong before.
    assert worst["attacks"] == ["fgsm", "deepfool", "pgd"]
    assert (worst["n"], worst["n_attacked"], worst["asr"]) == (6, 5, 3 / 5)
    assert worst["asr_low"] < 3 / 5 < worst["asr_high"]
    assert worst["robust_accuracy"] == pytest.approx(2 / 6)
    assert worst["needed"] == {"fgsm": 0, "deepfool": 1, "pgd": 1}


def test_targeted_worst_case_robust_accuracy_counts_any_error() -> None:
    aimed = result("pgd", "0000", label=[0, 0, 1, 1], y_target=1, counts=[1, 1, 0, 0])
    aimed.records["clean_prediction"][:] = torch.tensor([0, 0, 1, 1])
    aimed.records["prediction"][:] = torch.tensor([2, 0, 1, 3])
    (worst,) = worst_case([aimed])
    assert (worst["asr"], worst["robust_accuracy"]) == (0.0, 0.5)


# Local optimality


def minimum_norm_result(attack: str, norms: list[float], **row: Any) -> Result:
    """A minimum-norm attack with these norms; an infinite norm is a failure."""
    hits = [int(np.isfinite(norm)) for norm in norms]
    lengths = [norm if hit else 0.0 for norm, hit in zip(norms, hits, strict=True)]
    return result(attack, hits, norms=lengths, **{"protocol": "minimal-norm", "attack_norm": "linf"} | row)


def test_distances_are_minima_over_eps_per_norm() -> None:
    results = [
        result("pgd", "1001", [1, 1, 1, 0], [0.1, 0.1, 0.1, 0.1], eps=0.1),
        result("pgd", "1101", [1, 1, 1, 0], [0.3, 0.25, 0.3, 0.3], eps=0.3),
        result("pgd", "1111", [1, 1, 1, 0], [0.01] * 4, eps=0.3, seed=1),
        result("pgd", "1111", [1, 1, 1, 0], [2.0] * 4, norm="l2", eps=2.0),
        minimum_norm_result("deepfool", [0.05, 0.4, INF, 0.01], counts=[1, 1, 1, 0], eps=0.1, protocol="minimal-norm"),
    ]
    minima = distances(results)
    assert list(minima) == [("net", "linf", None), ("net", "l2", None)]
    linf = minima["net", "linf", None]
    np.testing.assert_allclose(linf["pgd"], [0.1, 0.3, INF], rtol=1e-6)  # the radius, not how far inside the ball
    np.testing.assert_allclose(linf["deepfool"], [0.05, 0.4, INF], rtol=1e-6)


def test_distances_of_few_attacks_in_another_norm_are_kept() -> None:
    many = [result(f"linf-{i}", "10", norms=[0.1, 0.2], protocol="minimal-norm") for i in range(9)]
    few = [result(f"l2-{i}", "10", norms=[1, 2], protocol="minimal-norm", norm="l2") for i in range(2)]
    by_scenario = distances(many + few)
    assert {scenario[1]: len(attacks) for scenario, attacks in by_scenario.items()} == {"linf": 9, "l2": 2}
    check = result("pgd", "11", eps=0.5)  # alone at another eps of the same norm
    assert "pgd" not in distances([result(f"a{i}", "10") for i in range(5)] + [check]).popitem()[1]


def test_local_optimality_computed_by_hand() -> None:
    a, b = [0.1, 0.4, 0.3, INF], [0.2, 0.2, INF, INF]
    rows = strict_json(
        optimality([minimum_norm_result("a", a), minimum_norm_result("b", b), minimum_norm_result("none", [INF] * 4)])
    )
    # Best 0.1, 0.2, 0.3, so E = 0.3: gains of the best 0.2 + 0.1 + 0, of a 0.2 + 0 + 0, of b 0.1 + 0.1.
    assert {row["attack"]: row["optimality"] for row in rows} == pytest.approx({"a": 2 / 3, "b": 2 / 3, "none": 0})
    assert rows[0]["eps_max"] == pytest.approx(0.3)
    assert set(rows[0]) == {"target", "norm", "y_target", "attack", "optimality", "eps_max"}


def test_local_optimality_of_best_and_of_single_attack() -> None:
    best_one, other = [0.1, 0.2, 0.3], [0.2, 0.2, INF]
    rows = optimality([minimum_norm_result("best", best_one), minimum_norm_result("other", other)])
    assert [row["optimality"] for row in rows] == pytest.approx([1, (0.1 + 0.1) / (0.2 + 0.1)])
    assert optimality([minimum_norm_result("alone", best_one)]) == []


def test_local_optimality_is_area_between_curves() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.exponential(size=(2, 50))
    ideal = np.minimum(a, b)
    grid = np.linspace(0, ideal.max(), 200_001)

    def area(reach: np.ndarray) -> float:
        rate = np.searchsorted(np.sort(reach), grid, side="right") / len(reach)  # the ASR at each eps
        return float((1 - rate).mean() * ideal.max())

    expected = 1 - (area(a) - area(ideal)) / (ideal.max() - area(ideal))
    assert local_optimality(a, ideal) == pytest.approx(expected, abs=1e-3)


def test_no_local_optimality_at_single_eps() -> None:
    # Noise of norm 0.2995 is not a smaller distance than noise of norm 0.3.
    inside = result("noise-uniform", "1001", norms=[0.2995, 0.3, 0.3, 0.2995])
    assert optimality([inside, result("pgd", "1110"), result("fgsm", "0000")]) == []
    assert optimality([result("pgd", "0000"), result("fgsm", "0000")]) == []


def test_local_optimality_of_bounded_attacks_uses_common_eps() -> None:
    def at(eps: float, attack: str, hits: str) -> Result:
        return result(attack, hits, norms=[eps * 0.99] * 4, eps=eps)

    ladder = [at(0.1, "a", "1000"), at(0.2, "a", "1100"), at(0.3, "a", "1111")]
    weaker = [at(0.1, "b", "0000"), at(0.2, "b", "1000"), at(0.3, "b", "1100")]
    # Gains up to 0.3: of a, the best, 0.2 + 0.1; of b 0.1.
    rows = optimality([*ladder, *weaker, at(0.3, "once", "1111")])
    assert {row["attack"]: row["optimality"] for row in rows} == pytest.approx({"a": 1, "b": 1 / 3})
    assert {row["eps_max"] for row in rows} == {0.3}
    two = optimality([*ladder[1:], *weaker[1:]])
    assert {row["attack"]: row["optimality"] for row in two} == pytest.approx({"a": 1, "b": 0.5})


# Cost

ENTRY = {"path": "run", "target": "net", "norm": "linf", "eps": 0.3, "y_target": None, "training_seconds": 90.0}


def test_break_even_images_per_attack() -> None:
    times = {"fgsm": 0.002, "ifgsm": 0.010, "ifgsm:steps=20": 0.02, "pgd:steps=40": 0.031, "pgd:steps=80": 0.06}
    times |= {"deepfool": 0.0005, "noise-sign": 0.002, "fgsm from other": 0.5, "advgan:steps=2": 0.003, "advgan": 0.001}
    rows = [result(attack, "10", seconds_per_image=seconds) for attack, seconds in times.items()]
    other = [
        result("fgsm", "10", seconds_per_image=1.0, eps=0.1),
        result("advgan", "10", seconds_per_image=1.0, norm="l2"),
    ]
    costs = strict_json(cost([*rows, *other], [ENTRY]))
    assert {row["attack"]: row["images"] for row in costs} == {
        **{"fgsm": 90_000, "ifgsm": 10_000, "pgd:steps=40": 3_000, "deepfool": None}
    }
    keys = {"target", "norm", "eps", "y_target", "generator", "training_seconds", "attack", "images"}
    assert set(costs[0]) == keys
    assert costs[0]["generator"] == "run"


@pytest.mark.parametrize("change", [{"training_seconds": None}, {"target": "other"}, {"norm": "l2"}, {"y_target": 1}])
def test_cost_needs_matching_generator(change: dict[str, Any]) -> None:
    assert cost([result("fgsm", "1"), result("advgan", "1")], [ENTRY | change]) == []


def test_break_even_is_smallest_sufficient_number() -> None:
    training, one_pass, attack = 10.0, 0.25, 1.0
    n = break_even(training, one_pass, attack)
    assert n == 14
    assert training + n * one_pass <= n * attack
    assert training + (n - 1) * one_pass > (n - 1) * attack
    assert break_even(10.0, 1.0, 1.0) is None
