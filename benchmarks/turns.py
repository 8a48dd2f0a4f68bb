"""Anything that says how long it took, in turn with what it is held against."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

from benchmarks.race import Bench, Row, median_and_range


class Failed(Exception):
    """One side cannot go on; the message says why."""


def in_turn(bench: Bench, sides: Mapping[str, Callable[[], float]], hero: str, unit: str) -> list[Row]:
    """Each side measures itself once a round, in seconds `unit` ("a step"), until rounds or budget are spent.

    A side's row says how many times as long as the `hero` it took, round by round.
    """
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    failures: dict[str, str] = {}
    began = time.perf_counter()
    for done in range(bench.rounds):
        if done and time.perf_counter() - began > bench.budget:
            break
        for side, measure in sides.items():
            if side in failures:
                continue
            try:
                seconds[side].append(measure())
            except Failed as error:
                failures[side] = f"failed: {error}"
            bench.advance()
    rows: list[Row] = []
    for side, own in seconds.items():
        if side in failures:
            rows.append({"side": side, "status": failures[side], "unit": unit})
            continue
        ratios = [] if hero in failures else [slow / fast for slow, fast in zip(own, seconds[hero], strict=True)]
        rows.append(
            {
                **{"side": side, "status": "ok", "unit": unit, "rounds": len(own), "seconds": own},
                **{"median": statistics.median(own), "times": {hero: median_and_range(ratios)} if ratios else {}},
            }
        )
    return rows
