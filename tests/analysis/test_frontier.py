"""The best attack within each time budget."""

import math
from typing import Any

import pytest

from advgan.analysis.frontier import best_within, lead_share, segments


def row(attack: str, time: float, asr: float | None) -> dict[str, Any]:
    return {"attack": attack, "ours": attack.startswith("our"), "time": time, "asr": asr}


ROWS = [
    *(row("noise", 0.01, 0.05), row("fgsm", 1.0, 0.8), row("pgd", 10.0, 1.0)),
    *(row("ours", 0.1, 0.7), row("ours, large", 2.0, 0.9), row("ours, failed", 0.05, None)),
]


def test_best_attack_within_budget() -> None:
    assert best_within(ROWS, 0.005, False) is None
    best = {budget: best_within(ROWS, budget, True) for budget in (0.05, 0.1, 5.0)}
    assert best[0.05] is None
    assert best[0.1] is not None
    assert best[0.1]["attack"] == "ours"
    assert best[5.0] is not None
    assert best[5.0]["attack"] == "ours, large"


def test_of_equal_success_the_faster_attack_is_best() -> None:
    rows = [row("slow", 3.0, 0.5), row("fast", 2.0, 0.5)]
    best = best_within(rows, 5.0, False)
    assert best is not None
    assert best["attack"] == "fast"


def test_segments_cover_the_budgets_and_lead_where_ours_is_at_or_above() -> None:
    parts = segments(ROWS)
    assert [(part["low"], part["high"], part["leads"]) for part in parts] == [
        *((0.03, 0.1, False), (0.1, 1.0, True), (1.0, 2.0, False), (2.0, 10.0, True), (10.0, 20.0, False)),
    ]
    assert (parts[1]["ours"], parts[1]["ours_asr"], parts[1]["baseline_asr"]) == ("ours", 0.7, 0.05)
    expected = (math.log(10) + math.log(5)) / math.log(20 / 0.03)
    assert lead_share(parts) == pytest.approx(expected)


def test_segments_without_any_attack_are_left_out() -> None:
    assert segments([]) == []
    assert lead_share([]) is None
    assert [part["low"] for part in segments([row("ours", 4.0, 0.5)])] == [4.0]


def test_budgets_without_any_success_are_left_out() -> None:
    """Two attacks that never succeed are equal, but neither leads."""
    assert segments([row("ours", 0.1, 0.0), row("fgsm", 1.0, 0.0)]) == []
    parts = segments([row("ours", 0.1, 0.0), row("fgsm", 1.0, 0.2)])
    assert [(part["low"], part["leads"]) for part in parts] == [(1.0, False)]
