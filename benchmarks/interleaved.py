"""Measurements that return their own time, in turn with a reference."""

import statistics
import time
from collections.abc import Callable, Mapping

from benchmarks.timing import BenchmarkRow, BenchmarkSetup, median_and_range


class MeasurementFailed(Exception):
    """A contender failed; the message has the reason."""


def interleave_measurements(
    setup: BenchmarkSetup, contenders: Mapping[str, Callable[[], float]], reference: str, unit: str
) -> list[BenchmarkRow]:
    """Each contender is measured once a round, in seconds `unit` ("a step"), until rounds or budget are spent.

    Its row has its time over that of the `reference`, round by round.
    """
    seconds: dict[str, list[float]] = {contender: [] for contender in contenders}
    failures: dict[str, str] = {}
    began = time.perf_counter()
    for n_rounds in range(setup.rounds):
        if n_rounds and time.perf_counter() - began > setup.budget:
            break
        for contender, measure in contenders.items():
            if contender in failures:
                continue
            try:
                seconds[contender].append(measure())
            except MeasurementFailed as error:
                failures[contender] = f"failed: {error}"
            setup.advance()
    rows: list[BenchmarkRow] = []
    for contender, contender_seconds in seconds.items():
        if contender in failures:
            rows.append({"side": contender, "status": failures[contender], "unit": unit})
            continue
        ratios = (
            []
            if reference in failures
            else [slow / fast for slow, fast in zip(contender_seconds, seconds[reference], strict=True)]
        )
        rows.append(
            {
                **{
                    "side": contender,
                    "status": "ok",
                    "unit": unit,
                    "rounds": len(contender_seconds),
                    "seconds": contender_seconds,
                },
                **{
                    "median": statistics.median(contender_seconds),
                    "times": {reference: median_and_range(ratios)} if ratios else {},
                },
            }
        )
    return rows
