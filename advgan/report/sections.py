"""The tables of a comparison as text, for all forms of the report.

Bounded and minimum-norm attacks have different goals, so they never share a table: the first maximise the loss within
eps, the second minimise the perturbation, and their success within eps is a by-product.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection
from itertools import groupby
from typing import Any

from advgan.analysis.groups import group_of
from advgan.core.threat_model import eps_text, toward_text
from advgan.report.page import ResultRow, Summary, Table, with_interval

Columns = dict[str, Callable[[ResultRow], str]]  # column head -> the cell of a row

COLUMN_HELP = {
    "attack": "name and settings, as on the command line",
    "access": "access of the attack to the target: nothing, gradients, scores (logits), decisions, a trained generator "
    "or adversarial examples of another model (transfer)",
    "seed": "seed of random attacks",
    "ASR % [95 %]": "attack success rate within eps, over the images that were classified correctly (and, where the "
    "attack aims at a class, are not of it), with its 95 % Wilson interval",
    "8-bit %": "ASR after rounding the images to 8 bits, as in an image file",
    "robust %": "accuracy over all images under this attack",
    "rejected %": "share of the adversarial examples that the target rejects instead of classifying them: "
    "neither successes nor errors",
    "success at any norm %": "success rate over the same images without a bound on the norm",
    "median l2 [95 %]": "median l2 norm of the perturbations with a bootstrap interval, a failure counted as infinite",
    "mean l2": "mean l2 norm of the perturbations, in units of pixels in [0, 1]: over the attacked images, of a "
    "minimum-norm attack over its successes",
    "mean l0": "number of changed pixels (all channels of a pixel count once), over the same images",
    "max linf": "largest change of any value in any attacked image",
    "mean linf": "largest change of any value, mean over the successes",
    "SSIM": "structural similarity to the clean image; 1: identical",
    "images/s": "images attacked per second",
    "speed vs FGSM": "images per second over those of FGSM in the same group",
    "forwards + backwards": "forward and backward passes of the target, per attacked image",
    "unique": "number of images on which only this attack of its group succeeds",
}
NOTES = """\
A minimum-norm attack stops at the decision boundary. Where it minimises another norm than the threat's \
(attack_norm in results.json: l2 for deepfool), its perturbation is measured in the threat's norm, and is a success if \
it lies within eps there. "Worst case" counts an image as a success if any of the attacks succeeds. ± is the standard \
deviation over seeds."""
TITLES = {"bounded": "Bounded attacks", "minimal-norm": "Minimum-norm attacks"}
INFINITE = "∞"  # the median with successes on fewer than half of the images


def unfinished_trainings(summary: Summary) -> list[str]:
    """A sentence for each network whose training was not finished."""
    networks = [("classifier", network["label"], network) for network in summary["targets"]]
    networks += [("generator", network["path"], network) for network in summary["generators"]]
    return list(
        dict.fromkeys(
            f"The training of the {kind} {name} was not finished ({network['unfinished']}): --resume continues it."
            for kind, name, network in networks
            if "unfinished" in network
        )
    )


def threat_text(row: ResultRow, *, eps: bool = True) -> str:
    """Target and threat as text: "mnist-c, linf eps 0.3, toward class 3"; without `eps` "mnist-c, linf, ..."."""
    eps_part = f" eps {eps_text(row['eps'])}" if eps else ""
    return f"{row['target']}, {row['norm']}{eps_part}{toward_text(row)}"


def sections(summary: Summary, without: Collection[str] = ()) -> list[Table]:
    """The attacks' metrics, one table per target, threat and protocol, `without` the columns of these heads.

    Of minimum-norm attacks one table for all eps of a norm: only their success within eps differs.
    """
    labels = list(dict.fromkeys(row["target"] for row in summary["rows"]))

    def key(row: ResultRow) -> tuple[Any, ...]:
        target_class = -1 if row["y_target"] is None else row["y_target"]
        eps = row["eps"] if row["protocol"] == "bounded" else math.inf
        return labels.index(row["target"]), row["norm"], target_class, eps

    tables = [list(members) for _, members in groupby(sorted(summary["rows"], key=key), key)]
    return [_section(rows, summary, without) for rows in tables]


def _section(rows: list[ResultRow], summary: Summary, without: Collection[str]) -> Table:
    first, same_threat = rows[0], [row for row in summary["rows"] if group_of(row) == group_of(rows[0])]
    fgsm_speed = next(
        (row["images_per_second"] for row in same_threat if row["attack"] == "fgsm" and row["status"] == "ok"), None
    )
    failed, note = list(dict.fromkeys(row["attack"] for row in same_threat if row["status"] != "ok")), ""
    several = [entry for entry in summary.get("worst_case", ()) if len(entry["attacks"]) > 1]
    worst = next((entry for entry in several if group_of(entry) == group_of(first)), None)
    repeated = max(Counter((row["attack"], row["eps"]) for row in rows).values()) > 1
    eps_values = sorted({row["eps"] for row in rows})
    columns = _columns(first["protocol"], fgsm_speed, worst, repeated)
    if len(eps_values) > 1:
        columns, rows = _success_by_eps(columns, rows, eps_values)
    columns = {head: cell for head, cell in columns.items() if head not in without}
    failures = {i: f"{row['attack']} {row['status']}" for i, row in enumerate(rows) if row["status"] != "ok"}
    if all(row["rejected"] is None for row in rows):
        columns.pop("rejected %", None)
    n_text_columns = 1 + sum(head in columns for head in ("access", "seed"))
    text_rows = [
        [
            row["attack"],
            *(
                "failed" if i in failures and j >= n_text_columns - 1 else cell(row)
                for j, cell in enumerate(columns.values())
            ),
        ]
        for i, row in enumerate(rows)
    ]
    summary_rows = [
        {"attack": entry["attack"], **_over_seeds(entry)} for entry in _seeds(summary, rows) if len(eps_values) == 1
    ]
    if worst and first["protocol"] == "bounded":
        worst_row = {"ASR % [95 %]": with_interval(worst), "robust %": f"{100 * worst['robust_accuracy']:.1f}"}
        summary_rows.append({"attack": f"worst case of {len(worst['attacks'])} attacks", **worst_row})
        note = f"Without metrics, and so not in the worst case: {', '.join(failed)}." if failed else ""
    headers = ["attack", *columns]
    threat = threat_text(first, eps=len(eps_values) == 1)
    title = (
        f"{TITLES[first['protocol']]} on {threat}: {first['n_attacked']} of {first['n']} images attacked, "
        f"clean accuracy {first['clean_accuracy']:.2%}"
    )
    if first["clean_rejected"] is not None:
        title += f", {first['clean_rejected']:.2%} of the clean images rejected"
    summary_texts = [[entry.get(head, "") for head in headers] for entry in summary_rows]
    return Table(title, headers, text_rows, note, summary_texts, failures, n_text_columns)


def _success_by_eps(
    columns: Columns, rows: list[ResultRow], eps_values: list[float]
) -> tuple[Columns, list[ResultRow]]:
    """Minimum-norm attacks at several eps: a column of success for each, one row for each attack and seed."""
    by_attack: dict[tuple[str, int], dict[float, ResultRow]] = {}
    for row in rows:
        by_attack.setdefault((row["attack"], row["seed"]), {})[row["eps"]] = row

    def rate(eps: float) -> Callable[[ResultRow], str]:
        def cell(row: ResultRow) -> str:
            row_at_eps = by_attack[row["attack"], row["seed"]].get(eps)
            return (
                "–" if row_at_eps is None else "failed" if row_at_eps["status"] != "ok" else with_interval(row_at_eps)
            )

        return cell

    within = {f"ASR % at {eps_text(eps)} [95 %]": rate(eps) for eps in eps_values}
    new_columns: Columns = {}
    for head, cell in columns.items():
        if head == "ASR % [95 %]":
            new_columns |= within
        elif head not in ("8-bit %", "unique"):  # of a single eps
            new_columns[head] = cell
    first = [min(by_eps.values(), key=lambda row: row["status"] != "ok") for by_eps in by_attack.values()]
    return new_columns, first


def _columns(protocol: str, fgsm_speed: float | None, worst: ResultRow | None, seeds: bool) -> Columns:
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
        "success at any norm %": number(".1f", "asr_any_norm", 100),
        "median l2 [95 %]": _median,
        "mean l2": size("l2_mean"),
        "mean l0": number(",.0f", "l0_mean"),
        "mean linf": size("linf_mean", 4),
    }
    cost: Columns = {
        "SSIM": number(".3f", "ssim_mean"),
        "images/s": lambda row: at_least_two_digits(row["images_per_second"]),
        "speed vs FGSM": (lambda row: "–") if not fgsm_speed else number(",.3g", "images_per_second", 1 / fgsm_speed),
        "forwards + backwards": lambda row: f"{row['forwards_per_image']:.3g}+{row['backwards_per_image']:.3g}",
    }
    if worst:
        cost["unique"] = lambda row: str(worst["needed"].get(row["attack"], "–"))
    return names | (rate | bounded | cost if protocol == "bounded" else minimal | rate | cost)


def _median(row: ResultRow) -> str:
    names = ("l2_median", "l2_median_low", "l2_median_high")
    value, low, high = (INFINITE if row[name] is None else length(row[name]) for name in names)
    return value if row["l2_median"] is None or row["l2_median_low"] is None else f"{value} [{low}, {high}]"


def length(value: float, decimals: int = 2) -> str:
    """A norm with this number of decimals; a small one with three significant digits."""
    return f"{value:.{decimals}f}" if value == 0 or value >= 10 ** (1 - decimals) else f"{value:.3g}"


def at_least_two_digits(value: float) -> str:
    """A positive number as an integer; one below 10 with two significant digits."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _seeds(summary: Summary, rows: list[ResultRow]) -> list[ResultRow]:
    attacks = {row["attack"] for row in rows}
    same = [entry for entry in summary.get("seeds", ()) if group_of(entry) == group_of(rows[0])]
    return [entry for entry in same if entry["attack"] in attacks]


def _over_seeds(entry: ResultRow) -> dict[str, str]:
    spread = "" if entry["asr_sd"] is None else f" ± {100 * entry['asr_sd']:.1f}"
    return {"seed": f"{entry['seeds']} seeds", "ASR % [95 %]": f"{100 * entry['asr_mean']:.1f}{spread}"}
