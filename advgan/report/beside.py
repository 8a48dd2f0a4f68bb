"""Further tables of a comparison: local optimality, cost of a generator, pairs of attacks."""

from __future__ import annotations

from advgan.analysis.groups import Group, group_of
from advgan.core.threat_model import eps_text
from advgan.report.page import ResultRow, Summary, Table
from advgan.report.sections import at_least_two_digits, threat_text


def cost(summary: Summary) -> list[Table]:
    """From how many images on training a generator pays, against each attack: one table, or none."""
    lines = [
        [
            threat_text(each),
            each["generator"],
            each["attack"],
            "–" if each["training_seconds"] is None else at_least_two_digits(each["training_seconds"]),
            "never" if each["images"] is None else f"{each['images']:,}",
        ]
        for each in summary.get("cost", ())
    ]
    heads = ["threat", "generator", "against", "training s", "pays from images"]
    note = (
        "The steps of its training (without loading and validation) and one pass per image take less time together "
        "than the attack from so many images on."
    )
    return [Table("When training a generator pays", heads, lines, note=note, words=3)] if lines else []


def optimality(summary: Summary) -> list[Table]:
    """AttackBench's local optimality: one table, or none."""
    lines = [
        [
            each["target"] + ("" if each["y_target"] is None else f", toward class {each['y_target']}"),
            each["norm"],
            each["attack"],
            f"{100 * each['optimality']:.1f}",
            f"{eps_text(each['eps_max'])}",
        ]
        for each in summary.get("optimality", ())
    ]
    note = (
        "The area between an attack's curve of robust accuracy against eps and the curve of the best attack for each "
        "image, up to the largest eps that the best needs: 100 % means that no other attack found a smaller "
        "perturbation for any image (AttackBench, Cinà et al. 2025). Bounded attacks are compared with bounded ones, "
        "minimal-norm ones with those of the same norm. A bounded attack's distance is the smallest of several "
        "radii at which it succeeds; at a single one there is nothing to compare."
    )
    heads = ["target", "norm", "attack", "optimality %", "up to eps"]
    return [Table("Local optimality", heads, lines, note=note, words=3)] if lines else []


def mcnemar(summary: Summary) -> list[Table]:
    """Do two attacks differ on the same images? One table per target and threat."""
    found: dict[Group, list[ResultRow]] = {}
    for pair in summary.get("mcnemar", ()):
        found.setdefault(group_of(pair), []).append(pair)
    return [
        Table(
            f"Pairs of attacks on the same images, {threat_text(pairs[0])}",
            ["a", "b", "only a", "only b", "p"],
            [[pair["a"], pair["b"], str(pair["only_a"]), str(pair["only_b"]), f"{pair['p']:.2g}"] for pair in pairs],
            note="Images that only a, or only b, fools, and McNemar's exact test: p, how often chance alone makes two "
            "equally strong attacks differ so much. "
            f"Of {len(pairs)} tests, call a difference clear below p = {0.05 / len(pairs):.2g} (Bonferroni).",
            words=2,
        )
        for pairs in found.values()
    ]
