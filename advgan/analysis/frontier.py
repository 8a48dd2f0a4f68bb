"""Success against time: the best attack that fits each budget, ours and the baselines'."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

AttackRow = Mapping[str, Any]
BUDGETS = (0.03, 20.0)  # times of FGSM: from the fastest generators to attacks of 20 steps


def best_within(rows: Sequence[AttackRow], budget: float, ours: bool) -> AttackRow | None:
    """The attack of the highest success that takes at most `budget`, of equals the fastest; None if none fits.

    rows   "ours" (bool), "time" (in units of FGSM) and "asr" of each attack; asr is None for one without metrics
    """
    fitting = [row for row in rows if row["ours"] == ours and row["asr"] is not None and row["time"] <= budget]
    return max(fitting, key=lambda row: (row["asr"], -row["time"]), default=None)


def segments(rows: Sequence[AttackRow]) -> list[dict[str, Any]]:
    """The axis of budgets, cut where the best attack changes: which is best on each part, of ours and of the baselines.

    Each has "low" and "high" (budgets), "ours" and "baseline" (names, None if none fits), "ours_asr" and
    "baseline_asr", and "leads": whether ours has at least the success of the best baseline. Parts on which nothing
    that fits has any success are left out.
    """
    low, high = BUDGETS
    times = sorted({row["time"] for row in rows if row["asr"] is not None and low < row["time"] < high})
    parts: list[dict[str, Any]] = []
    for start, end in pairwise([low, *times, high]):
        ours, baseline = best_within(rows, start, True), best_within(rows, start, False)
        ours_asr, baseline_asr = (None if row is None else row["asr"] for row in (ours, baseline))
        if not ours_asr and not baseline_asr:
            continue
        part = {
            **{"low": start, "high": end, "ours": ours and ours["attack"], "ours_asr": ours_asr},
            **{"baseline": baseline and baseline["attack"], "baseline_asr": baseline_asr},
            "leads": ours_asr is not None and (baseline_asr is None or ours_asr >= baseline_asr),
        }
        same = ("ours", "baseline", "leads")
        if parts and all(parts[-1][key] == part[key] for key in same):
            parts[-1]["high"] = end
        else:
            parts.append(part)
    return parts


def lead_share(parts: Sequence[AttackRow]) -> float | None:
    """The fraction of the budgets of `segments`, on a logarithmic axis, on which ours leads; None for none."""

    def width(selected: Sequence[AttackRow]) -> float:
        return sum(math.log(part["high"] / part["low"]) for part in selected)

    return width([part for part in parts if part["leads"]]) / width(parts) if parts else None
