"""Does a target hide its gradients instead of being robust? What follows them must not lose to what does without."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from advgan.analysis.findings import Finding, Measured, access, at_least, fgsm, moves, white_box
from advgan.analysis.groups import first_seeds, groups, spec_of
from advgan.evaluation.evaluate import Result

MUCH = 0.05  # share of the images: attacks on an honest target differ by a point or two


def masking(results: Sequence[Result], num_classes: int) -> list[dict[str, Any]]:
    """The verdict on each target: "masks its gradients", "honest", "unclear" or "not tested", and the worst
    metrics in words.

    The target's own gradients are what its "@naive" attacks followed; where it has none, what its white-box attacks
    did. They are masked, after Athalye et al. 2018 ("Obfuscated gradients", section 3.1), where at the same eps

    - they do not move the images at all, or
    - the strongest iterative attack by them loses to transfer, scores or decisions, or
    - a naive attack loses to its adaptive twin (pgd@naive to pgd)

    clearly (as in `sanity`), and by more than five points: on robust classifiers Square finds a few images more than
    PGD does. Honest is who was tried without gradients too and passes; where more than five points are not clear,
    there were too few images to test it. `num_classes` as in `sanity`.
    """
    verdicts = []
    for target in dict.fromkeys(result.row["target"] for result in results):
        own = [result for result in results if result.row["target"] == target]
        measured = Measured(own, {group: first_seeds(members) for group, members in groups(own).items()}, num_classes)
        still, without, twins = _findings(measured)
        worst = [max(found, key=_weight) for found in (without + twins, still) if found]
        masked = [finding.detail for finding in worst if _weight(finding)[0]]
        unclear = [finding.detail for finding in worst if finding.excess > MUCH + 1e-9]
        verdict, detail = "not tested", "no iterative attack by its own gradients beside one without them"
        if masked:
            verdict, detail = "masks its gradients", "; ".join(masked)
        elif unclear:
            verdict, detail = "unclear", "too few images to tell: " + "; ".join(unclear)
        elif without:
            verdict, detail = "honest", max(without, key=_weight).detail
        verdicts.append({"target": target, "verdict": verdict, "detail": detail})
    return verdicts


def _findings(measured: Measured) -> tuple[list[Finding], list[Finding], list[Finding]]:
    """Where the target's own gradients lead: nowhere at all, or less far than no gradients, or an adaptive twin's."""
    every = [result for members in measured.groups.values() for result in members]
    naive = dict.fromkeys(result.row["attack"] for result in every if _naive(result))

    def followed(result: Result) -> bool:
        return white_box(result) and (not naive or result.row["attack"] in naive)

    kept = {group: [r for r in members if followed(r)] for group, members in measured.groups.items()}
    without = at_least(lambda r: followed(r) and not fgsm(r), access("transfer", "scores", "decisions"))
    twins = [at_least(_called(label), _called(label.removesuffix("@naive"))) for label in naive]
    still = moves(measured._replace(groups=kept))
    return still, without(measured), [finding for search in twins for finding in search(measured)]


def _called(label: str) -> Callable[[Result], bool]:
    return lambda result: result.row["attack"] == label


def _naive(result: Result) -> bool:
    spec = spec_of(result)
    return spec is not None and spec.access == "gradients" and spec.view == "naive"


def _weight(finding: Finding) -> tuple[bool, float]:
    """Whether it shows that gradients are masked, and by how much."""
    return finding.violated and finding.excess > MUCH + 1e-9, finding.excess
