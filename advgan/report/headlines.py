"""The main results of a comparison in sentences."""

from collections.abc import Iterator, Mapping
from typing import Any

from advgan.analysis.groups import group_of
from advgan.report.page import Summary
from advgan.report.sections import threat_text


def headlines(summary: Summary) -> Iterator[str]:
    """One plain sentence per target and threat: the main result."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in summary["rows"]:
        if row["status"] == "ok":
            groups.setdefault(group_of(row), []).append(row)
    worst = {group_of(entry): entry for entry in summary["worst_case"]}
    for key, rows in groups.items():
        best = max(rows, key=lambda row: row["asr"])
        predicate = "fools the classifier on" if best["y_target"] is None else "gets its class for"
        text = f"{threat_text(best)}: {best['attack']} {predicate} {best['asr']:.1%} of {best['n_attacked']} images"
        if not best["asr"]:
            names = len({row["attack"] for row in rows})
            subject = f"{best['attack']} {predicate} none" if names == 1 else f"none of {names} attacks {predicate} any"
            yield f"{threat_text(best)}: {subject} of {best['n_attacked']} images."
            continue
        is_best = {row["attack"]: row["asr"] == best["asr"] for row in sorted(rows, key=lambda row: row["asr"])}
        if len(is_best) > 1:
            text += (
                f", {'as many as' if sum(is_best.values()) > 1 else 'more than'} any other of {len(is_best)} attacks"
            )
        if key in worst and len(worst[key]["attacks"]) > 1:
            worst_of_all = worst[key]
            text += f"; all together {worst_of_all['asr']:.1%}. Worst-case accuracy: "
            text += f"{worst_of_all['robust_accuracy']:.1%} (clean: {best['clean_accuracy']:.1%})"
        passes = [row for row in rows if row["access"] == "generator" and row is not best]
        yield text + "." + "".join(f" One pass of {row['attack']}: {row['asr']:.1%}." for row in passes)
