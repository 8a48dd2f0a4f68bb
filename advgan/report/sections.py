"""The main results of a comparison in sentences, and its tables as text, for all forms of the report.

Bounded and minimum-norm attacks have different goals, so they never share a table: the first maximise the loss within
eps, the second minimise the perturbation, and their success within eps is a by-product.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from advgan.analysis.groups import Group, group_of
from advgan.core.fraction import eps_text
from advgan.core.threat_model import toward_text
from advgan.report import cells
from advgan.report.page import Cell, Columns, ResultRow, Summary, Table, percent, with_interval

COLUMN_HELP = {
    "attack": "name and settings, as on the command line",
    "access": "access of the attack to the target: nothing, gradients, scores (logits), decisions, a trained generator "
    "or adversarial examples of another model (transfer)",
    "seed": "seed of random attacks",
    "ASR % [95 %]": "attack success rate within eps, over the images that were classified correctly (and, where the "
    "attack aims at a class, are not of it), with its 95 % Wilson interval; with predicted labels the fooling rate",
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
            f"The training of the {kind} {name} was not finished ({network['unfinished']}): --resume (resume=True) "
            "continues it."
            for kind, name, network in networks
            if "unfinished" in network
        )
    )


def headlines(summary: Summary) -> Iterator[str]:
    """One plain sentence per target and threat: the main result."""
    worst = {group_of(entry): entry for entry in summary["worst_case"]}
    for key, rows in by_group(row for row in summary["rows"] if row["status"] == "ok").items():
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


def by_group(entries: Iterable[ResultRow]) -> dict[Group, list[ResultRow]]:
    """Entries of results.json by target and threat, in their order."""
    groups: dict[Group, list[ResultRow]] = {}
    for entry in entries:
        groups.setdefault(group_of(entry), []).append(entry)
    return groups


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
    attacks = {row["attack"] for row in rows}
    summary_rows = [
        {"attack": entry["attack"], **_over_seeds(entry)}
        for entry in summary.get("seeds", ())
        if len(eps_values) == 1 and entry["attack"] in attacks and group_of(entry) == group_of(first)
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

    def rate(eps: float) -> Cell:
        def cell(row: ResultRow) -> str:
            row_at_eps = by_attack[row["attack"], row["seed"]].get(eps)
            return "–" if row_at_eps is None else with_interval(row_at_eps)

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

    def size(name: str, decimals: int = 2) -> Cell:
        return lambda row: "–" if row[name] is None else length(row[name], decimals)

    names: Columns = {name: cells.field(name) for name in (("access", "seed") if seeds else ("access",))}
    rate: Columns = {"ASR % [95 %]": with_interval, "8-bit %": cells.percent("asr_8bit")}
    rate["rejected %"] = cells.percent("rejected")
    bounded: Columns = {
        "robust %": cells.percent("robust_accuracy"),
        "mean l2": size("l2_mean"),
        "max linf": size("linf_max", 4),
    }
    minimal: Columns = {
        "success at any norm %": cells.percent("asr_any_norm"),
        "median l2 [95 %]": _median,
        "mean l2": size("l2_mean"),
        "mean l0": cells.number("l0_mean", ",.0f"),
        "mean linf": size("linf_mean", 4),
    }
    cost: Columns = {
        "SSIM": cells.number("ssim_mean", ".3f"),
        "images/s": lambda row: at_least_two_digits(row["images_per_second"]),
    }
    if fgsm_speed:
        cost["speed vs FGSM"] = cells.number("images_per_second", ",.3g", 1 / fgsm_speed)
    cost["forwards + backwards"] = lambda row: f"{row['forwards_per_image']:.3g}+{row['backwards_per_image']:.3g}"
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


def _over_seeds(entry: ResultRow) -> dict[str, str]:
    spread = "" if entry["asr_sd"] is None else f" ± {100 * entry['asr_sd']:.1f}"
    return {"seed": f"{entry['seeds']} seeds", "ASR % [95 %]": f"{100 * entry['asr_mean']:.1f}{spread}"}


# Tables of the analysis


def further_tables(summary: Summary) -> list[Table]:
    """Those beside the attacks: success after transforms, local optimality, the cost of a generator; where measured."""
    return [*survival(summary), *optimality(summary), *cost(summary)]


def cost(summary: Summary) -> list[Table]:
    """The number of images from which on a generator is cheaper than each attack: one table, or none."""
    columns: Columns = {
        "threat": threat_text,
        "generator": cells.field("generator"),
        "attack": cells.field("attack"),
        "training s": lambda entry: at_least_two_digits(entry["training_seconds"]),
        "break-even images": cells.number("images", ",", missing="never"),
    }
    note = (
        "From this number of images on, its training (without loading and validation) and one pass per image take less "
        "time than the attack."
    )
    return _table_of_entries("Break-even of a generator", summary.get("cost", ()), columns, note)


def optimality(summary: Summary) -> list[Table]:
    """AttackBench's local optimality: one table, or none."""
    columns: Columns = {
        "target": lambda entry: entry["target"] + toward_text(entry),
        "norm": cells.field("norm"),
        "attack": cells.field("attack"),
        "optimality %": cells.percent("optimality"),
        "up to eps": lambda entry: eps_text(entry["eps_max"]),
    }
    note = (
        "The area between an attack's curve of robust accuracy against eps and the curve of the best attack for each "
        "image, up to the largest distance of the best: 100 % means that no other attack found a smaller "
        "perturbation for any image (AttackBench, Cinà et al. 2025). Bounded attacks are compared with bounded ones, "
        "minimum-norm ones with those of the same norm. The distance of a bounded attack is its smallest "
        "successful eps."
    )
    return _table_of_entries("Local optimality", summary.get("optimality", ()), columns, note)


def _table_of_entries(title: str, entries: Sequence[ResultRow], columns: Columns, note: str) -> list[Table]:
    return [Table.of(title, entries, columns, note, n_text_columns=3)] if entries else []


def survival(summary: Summary) -> list[Table]:
    """Success of the written images after each transform: one table per target and threat."""
    asr = {(group_of(row), row["attack"], row["seed"]): row["asr"] for row in summary["rows"]}
    return [_survival_table(entries, asr) for entries in by_group(summary.get("survival", ())).values()]


def _survival_table(of_group: list[ResultRow], asr: Mapping[tuple[Group, str, int], float]) -> Table:
    attacks: dict[tuple[Group, str, int], list[ResultRow]] = {}
    for entry in of_group:
        attacks.setdefault((group_of(entry), entry["attack"], entry["seed"]), []).append(entry)
    entries = next(iter(attacks.values()))
    heads = [text for entry in entries for text in (f"{entry['transform']} % [95 %]", "kept %")]
    rows = [
        [run[1], percent(asr[run])]
        + [text for entry in of_attack for text in (with_interval(entry), percent(entry["kept"], "–"))]
        for run, of_attack in attacks.items()
    ]
    alone = ["no attack", percent(0.0)] + [text for entry in entries for text in (percent(entry["clean"]), "")]
    note = (
        "Success of the images as files of 8 bits, after the transform, over the same images as the ASR. Kept: the "
        "share of the successes that are still successes. No attack: the clean images after the transform alone."
    )
    title = f"Success after transforms of the file, {threat_text(entries[0])}"
    return Table(title, ["attack", "ASR %", *heads], rows, note=note, summary_rows=[alone])


def mcnemar(summary: Summary) -> list[Table]:
    """McNemar tests of pairs of attacks on the same images: one table per target and threat."""
    columns = {
        **{key: cells.field(key) for key in ("a", "b")},
        "only a": cells.field("only_a"),
        "only b": cells.field("only_b"),
        "p": cells.number("p", ".2g"),
    }
    note = (
        "Images on which only a, or only b, succeeds, and the p-value of McNemar's exact test. "
        "Of {n} tests, call a difference clear below p = {level:.2g} (Bonferroni)."
    )
    return [
        Table.of(
            f"Pairs of attacks on the same images, {threat_text(pairs[0])}",
            pairs,
            columns,
            note.format(n=len(pairs), level=0.05 / len(pairs)),
            n_text_columns=2,
        )
        for pairs in by_group(summary.get("mcnemar", ())).values()
    ]
