"""Further tables of a comparison: success after transforms, local optimality, cost of a generator, pairs of attacks."""

from advgan.analysis.groups import Group, group_of
from advgan.core.threat_model import eps_text
from advgan.report.page import ResultRow, Summary, Table, percent, with_interval
from advgan.report.sections import at_least_two_digits, threat_text


def cost(summary: Summary) -> list[Table]:
    """The number of images from which on a generator is cheaper than each attack: one table, or none."""
    rows = [
        [
            threat_text(entry),
            entry["generator"],
            entry["attack"],
            "–" if entry["training_seconds"] is None else at_least_two_digits(entry["training_seconds"]),
            "never" if entry["images"] is None else f"{entry['images']:,}",
        ]
        for entry in summary.get("cost", ())
    ]
    headers = ["threat", "generator", "attack", "training s", "break-even images"]
    note = (
        "From this number of images on, its training (without loading and validation) and one pass per image take less "
        "time than the attack."
    )
    return [Table("Break-even of a generator", headers, rows, note=note, n_text_columns=3)] if rows else []


def optimality(summary: Summary) -> list[Table]:
    """AttackBench's local optimality: one table, or none."""
    rows = [
        [
            entry["target"] + ("" if entry["y_target"] is None else f", toward class {entry['y_target']}"),
            entry["norm"],
            entry["attack"],
            f"{100 * entry['optimality']:.1f}",
            f"{eps_text(entry['eps_max'])}",
        ]
        for entry in summary.get("optimality", ())
    ]
    note = (
        "The area between an attack's curve of robust accuracy against eps and the curve of the best attack for each "
        "image, up to the largest distance of the best: 100 % means that no other attack found a smaller "
        "perturbation for any image (AttackBench, Cinà et al. 2025). Bounded attacks are compared with bounded ones, "
        "minimum-norm ones with those of the same norm. The distance of a bounded attack is its smallest "
        "successful eps."
    )
    headers = ["target", "norm", "attack", "optimality %", "up to eps"]
    return [Table("Local optimality", headers, rows, note=note, n_text_columns=3)] if rows else []


def survival(summary: Summary) -> list[Table]:
    """Success of the written images after each transform: one table per target and threat."""
    by_group: dict[Group, dict[tuple[str, int], list[ResultRow]]] = {}
    for entry in summary.get("survival", ()):
        of_attack = by_group.setdefault(group_of(entry), {})
        of_attack.setdefault((entry["attack"], entry["seed"]), []).append(entry)
    asr = {(group_of(row), row["attack"], row["seed"]): row["asr"] for row in summary["rows"]}
    return [_survival_table(group, attacks, asr) for group, attacks in by_group.items()]


def _survival_table(
    group: Group, attacks: dict[tuple[str, int], list[ResultRow]], asr: dict[tuple[Group, str, int], float]
) -> Table:
    entries = next(iter(attacks.values()))
    heads = [text for entry in entries for text in (f"{entry['transform']} % [95 %]", "kept %")]
    rows = [
        [attack, percent(asr[group, attack, seed])]
        + [text for entry in of_attack for text in (with_interval(entry), percent(entry["kept"], "–"))]
        for (attack, seed), of_attack in attacks.items()
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
    by_group: dict[Group, list[ResultRow]] = {}
    for pair in summary.get("mcnemar", ()):
        by_group.setdefault(group_of(pair), []).append(pair)
    return [
        Table(
            f"Pairs of attacks on the same images, {threat_text(pairs[0])}",
            ["a", "b", "only a", "only b", "p"],
            [[pair["a"], pair["b"], str(pair["only_a"]), str(pair["only_b"]), f"{pair['p']:.2g}"] for pair in pairs],
            note="Images on which only a, or only b, succeeds, and the p-value of McNemar's exact test. "
            f"Of {len(pairs)} tests, call a difference clear below p = {0.05 / len(pairs):.2g} (Bonferroni).",
            n_text_columns=2,
        )
        for pairs in by_group.values()
    ]
