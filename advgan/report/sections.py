"""What the tables of a comparison hold, as text, whatever they are drawn with.

Bounded and minimum-norm attacks have different goals, so they never share a table: the one does its worst within
eps, the other looks for the smallest perturbation, and its success within eps is a by-product.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection
from itertools import groupby
from typing import Any

from advgan.analysis.groups import group_of
from advgan.core.threat_model import eps_text
from advgan.report.page import ResultRow, Summary, Table, with_interval

Columns = dict[str, Callable[[ResultRow], str]]  # column head -> the cell of a row

MEANING = {
    "attack": "name and settings, as the command line takes them",
    "access": "what the attack uses of the target while it runs: nothing, its gradients, its scores (logits), only its "
    "decisions, what a trained generator has learned of it, or another model's images (transfer)",
    "seed": "of the random numbers that the attack draws",
    "ASR % [95 %]": "attack success rate within eps, over the images that were classified correctly (and, where the "
    "attack aims at a class, are not of it), with its 95 % Wilson interval",
    "8-bit %": "the same after rounding the images to whole grey levels, as an image file would",
    "robust %": "accuracy over all images under this attack",
    "rejected %": "share of the adversarial examples that the target rejects instead of classifying them: "
    "they count neither as fooled nor as wrong",
    "found %": "share of those images that were fooled at any distance",
    "median l2 [95 %]": "l2 norm of the middle perturbation with a bootstrap interval, a failure counted as infinitely "
    "far",
    "mean l2": "l2 norm of the perturbations, in pixel units of [0, 1]: over the attacked images, of a minimal-norm "
    "attack over those it fooled",
    "mean l0": "number of changed pixels (all channels of a pixel count once), over the same images",
    "max linf": "largest change of any value in any attacked image",
    "mean linf": "largest change of any value, mean over the fooled images",
    "SSIM": "structural similarity to the clean image: 1 looks the same",
    "images/s": "images attacked per second",
    "x FGSM": "images per second against those of FGSM in the same group",
    "fwd+bwd": "images that went forward through the target, and gradients that came back, per attacked image",
    "alone": "number of images that only this attack fools, of all attacks in its group",
}
NOTES = """\
A minimal-norm attack stops at the boundary, wherever that is. Where it minimised another norm than the threat's \
(attack_norm in results.json: l2 for deepfool), the perturbation that it found is measured in the threat's norm, and \
counts if it happens to lie within eps there. "Worst case" counts an image as fooled if any of the attacks fools it: \
what a defender has to expect. ± is the standard deviation over seeds."""
KINDS = {"bounded": "Bounded attacks", "minimal-norm": "Minimal-norm attacks"}
INFINITE = "∞"  # the median where fewer than half were fooled


def unfinished_trainings(summary: Summary) -> list[str]:
    """A sentence for each network that took part and whose training was not finished."""
    networks = [("classifier", each["label"], each) for each in summary["targets"]]
    networks += [("generator", each["path"], each) for each in summary["generators"]]
    return list(
        dict.fromkeys(
            f"The training of the {kind} {name} was not finished ({each['unfinished']}): --resume continues it."
            for kind, name, each in networks
            if "unfinished" in each
        )
    )


def threat_text(row: ResultRow, *, eps: bool = True) -> str:
    """Target and threat in words: "mnist-c, linf eps 0.3, toward class 3"; without `eps` "mnist-c, linf, ..."."""
    aim = "" if row["y_target"] is None else f", toward class {row['y_target']}"
    radius = f" eps {eps_text(row['eps'])}" if eps else ""
    return f"{row['target']}, {row['norm']}{radius}{aim}"


def sections(summary: Summary, without: Collection[str] = ()) -> list[Table]:
    """The attacks' metrics, one table per target, threat and protocol, `without` the columns of these heads.

    Of minimal-norm attacks one table for all eps of a norm: only their success within eps differs.
    """
    seen = list(dict.fromkeys(row["target"] for row in summary["rows"]))

    def key(row: ResultRow) -> tuple[Any, ...]:
        aim = -1 if row["y_target"] is None else row["y_target"]
        eps = row["eps"] if row["protocol"] == "bounded" else math.inf
        return seen.index(row["target"]), row["norm"], aim, eps

    tables = [list(members) for _, members in groupby(sorted(summary["rows"], key=key), key)]
    return [_section(rows, summary, without) for rows in tables]


def _section(rows: list[ResultRow], summary: Summary, without: Collection[str]) -> Table:
    first, same = rows[0], [row for row in summary["rows"] if group_of(row) == group_of(rows[0])]
    speed = next((row["images_per_second"] for row in same if row["attack"] == "fgsm" and row["status"] == "ok"), None)
    failed, note = list(dict.fromkeys(row["attack"] for row in same if row["status"] != "ok")), ""
    several = [each for each in summary.get("worst_case", ()) if len(each["attacks"]) > 1]
    worst = next((each for each in several if group_of(each) == group_of(first)), None)
    repeated = max(Counter((row["attack"], row["eps"]) for row in rows).values()) > 1
    radii = sorted({row["eps"] for row in rows})
    columns = _columns(first["protocol"], speed, worst, repeated)
    if len(radii) > 1:
        columns, rows = _within(columns, rows, radii)
    columns = {head: cell for head, cell in columns.items() if head not in without}
    failures = {i: f"{row['attack']} {row['status']}" for i, row in enumerate(rows) if row["status"] != "ok"}
    if all(row["rejected"] is None for row in rows):
        columns.pop("rejected %", None)
    words = 1 + sum(head in columns for head in ("access", "seed"))
    lines = [
        [
            row["attack"],
            *("failed" if i in failures and j >= words - 1 else cell(row) for j, cell in enumerate(columns.values())),
        ]
        for i, row in enumerate(rows)
    ]
    closing = [{"attack": each["attack"], **_over_seeds(each)} for each in _seeds(summary, rows) if len(radii) == 1]
    if worst and first["protocol"] == "bounded":
        closing.append({"attack": f"worst case of {len(worst['attacks'])} attacks", **_worst_case(worst)})
        note = f"Without figures, and so not in the worst case: {', '.join(failed)}." if failed else ""
    heads = ["attack", *columns]
    threat = threat_text(first, eps=len(radii) == 1)
    title = (
        f"{KINDS[first['protocol']]} on {threat}: {first['n_attacked']} of {first['n']} images attacked, "
        f"clean accuracy {first['clean_accuracy']:.2%}"
    )
    if first["clean_rejected"] is not None:
        title += f", {first['clean_rejected']:.2%} of the clean images rejected"
    below = [[each.get(head, "") for head in heads] for each in closing]
    return Table(title, heads, lines, note, below, failures, words)


def _within(columns: Columns, rows: list[ResultRow], radii: list[float]) -> tuple[Columns, list[ResultRow]]:
    """Minimal-norm attacks at several eps: a column of success for each, one row for each attack and seed."""
    found: dict[tuple[str, int], dict[float, ResultRow]] = {}
    for row in rows:
        found.setdefault((row["attack"], row["seed"]), {})[row["eps"]] = row

    def rate(eps: float) -> Callable[[ResultRow], str]:
        def cell(row: ResultRow) -> str:
            at = found[row["attack"], row["seed"]].get(eps)
            return "–" if at is None else "failed" if at["status"] != "ok" else with_interval(at)

        return cell

    within = {f"ASR % at {eps_text(eps)} [95 %]": rate(eps) for eps in radii}
    kept: Columns = {}
    for head, cell in columns.items():
        if head == "ASR % [95 %]":
            kept |= within
        elif head not in ("8-bit %", "alone"):  # of a single eps
            kept[head] = cell
    first = [min(each.values(), key=lambda row: row["status"] != "ok") for each in found.values()]
    return kept, first


def _columns(protocol: str, speed: float | None, worst: ResultRow | None, seeds: bool) -> Columns:
    """Column head -> the cell of a row; `speed` is FGSM's, `worst` the group's worst case."""

    def number(form: str, name: str, scale: float = 1) -> Callable[[ResultRow], str]:
        return lambda row: "–" if row[name] is None else format(row[name] * scale, form)

    def size(name: str, decimals: int = 2) -> Callable[[ResultRow], str]:
        return lambda row: "–" if row[name] is None else length(row[name], decimals)

    names: Columns = {"access": lambda row: row["access"]} | ({"seed": lambda row: str(row["seed"])} if seeds else {})
    rate: Columns = {"ASR % [95 %]": with_interval, "8-bit %": number(".1f", "asr_8bit", 100)}
    rate["rejected %"] = number(".1f", "rejected", 100)
    bounded: Columns = {
        "robust %": number(".1f", "robust_accuracy", 100),
        "mean l2": size("l2_mean"),
        "max linf": size("linf_max", 4),
    }
    minimal: Columns = {
        "found %": number(".1f", "asr_any_norm", 100),
        "median l2 [95 %]": _median,
        "mean l2": size("l2_mean"),
        "mean l0": number(",.0f", "l0_mean"),
        "mean linf": size("linf_mean", 4),
    }
    cost: Columns = {
        "SSIM": number(".3f", "ssim_mean"),
        "images/s": lambda row: at_least_two_digits(row["images_per_second"]),
        "x FGSM": (lambda row: "–") if not speed else number(",.3g", "images_per_second", 1 / speed),
        "fwd+bwd": lambda row: f"{row['forwards_per_image']:.3g}+{row['backwards_per_image']:.3g}",
    }
    if worst:
        cost["alone"] = lambda row: str(worst["needed"].get(row["attack"], "–"))
    return names | (rate | bounded | cost if protocol == "bounded" else minimal | rate | cost)


def _median(row: ResultRow) -> str:
    value, low, high = (row[name] for name in ("l2_median", "l2_median_low", "l2_median_high"))
    if value is None:
        return INFINITE
    return length(value) if low is None else f"{length(value)} [{length(low)}, {_or_infinite(high)}]"


def _or_infinite(value: float | None) -> str:
    return INFINITE if value is None else length(value)


def length(value: float, decimals: int = 2) -> str:
    """A norm with so many decimals; a smaller one, which they would round to one digit or none, with three digits."""
    return f"{value:.{decimals}f}" if value == 0 or value >= 10 ** (1 - decimals) else f"{value:.3g}"


def at_least_two_digits(value: float) -> str:
    """A positive number of things or seconds as a whole number; one below 10 with two digits, never as 0."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _seeds(summary: Summary, rows: list[ResultRow]) -> list[ResultRow]:
    attacks = {row["attack"] for row in rows}
    same = [each for each in summary.get("seeds", ()) if group_of(each) == group_of(rows[0])]
    return [each for each in same if each["attack"] in attacks]


def _over_seeds(each: ResultRow) -> dict[str, str]:
    spread = "" if each["asr_sd"] is None else f" ± {100 * each['asr_sd']:.1f}"
    return {"seed": f"{each['seeds']} seeds", "ASR % [95 %]": f"{100 * each['asr_mean']:.1f}{spread}"}


def _worst_case(worst: ResultRow) -> dict[str, str]:
    return {"ASR % [95 %]": with_interval(worst), "robust %": f"{100 * worst['robust_accuracy']:.1f}"}
