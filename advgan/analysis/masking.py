"""Test for gradient masking: attacks that follow the gradients must not lose to attacks without gradients."""

from collections.abc import Callable, Sequence
from typing import Any

from advgan.analysis.findings import Finding, ModelResults, access, at_least, fgsm, nonzero_gradients, white_box
from advgan.analysis.groups import spec_of
from advgan.evaluation.evaluate import Result

MIN_MASKING_GAP = 0.05  # fraction of the images; attacks on a target without masking differ by a point or two


def masking(results: Sequence[Result], num_classes: int) -> list[dict[str, Any]]:
    """The verdict on each target: "masks its gradients", "no masking found", "unclear" or "not tested", with metrics.

    The target's own gradients are those of its "@naive" attacks; without such attacks, those of its white-box attacks.
    They are masked, after Athalye et al. 2018 ("Obfuscated gradients", section 3.1), where at the same eps

    - they are zero, or
    - the strongest iterative attack that uses them loses to transfer, scores or decisions, or
    - a naive attack loses to its adaptive form (pgd@naive to pgd)

    significantly (as in `sanity`), and by more than five points: on robust classifiers Square succeeds on a few images
    more than PGD. A target passes if it was also attacked without gradients and no gap was found; a gap above five
    points that is not significant is "unclear". `num_classes` as in `sanity`.
    """
    verdicts = []
    for target, model_results in ModelResults.of_each(results, num_classes):
        unmoved, without, adaptive = _findings(model_results)
        worst = [max(kind, key=_masking_gap) for kind in (without + adaptive, unmoved) if kind]
        masked = [finding.detail for finding in worst if _masking_gap(finding)[0]]
        unclear = [finding.detail for finding in worst if finding.excess > MIN_MASKING_GAP + 1e-9]
        verdict, detail = "not tested", "needs an iterative attack by its own gradients and one without gradients"
        if masked:
            verdict, detail = "masks its gradients", "; ".join(masked)
        elif unclear:
            verdict, detail = "unclear", "too few images to tell: " + "; ".join(unclear)
        elif without:
            verdict, detail = "no masking found", max(without, key=_masking_gap).detail
        verdicts.append({"target": target, "verdict": verdict, "detail": detail})
    return verdicts


def _findings(model_results: ModelResults) -> tuple[list[Finding], list[Finding], list[Finding]]:
    """Findings on the target's own gradients: zero, weaker than no gradients, weaker than adaptive attacks."""
    naive = dict.fromkeys(result.row["attack"] for _, result in model_results.each() if _naive(result))

    def follows_gradients(result: Result) -> bool:
        return white_box(result) and (not naive or result.row["attack"] in naive)

    gradient_results = {
        group: [r for r in members if follows_gradients(r)] for group, members in model_results.groups.items()
    }
    without = at_least(lambda r: follows_gradients(r) and not fgsm(r), access("transfer", "scores", "decisions"))
    adaptive = [at_least(_has_label(label), _has_label(label.removesuffix("@naive"))) for label in naive]
    unmoved = nonzero_gradients(model_results._replace(groups=gradient_results))
    return unmoved, without(model_results), [finding for search in adaptive for finding in search(model_results)]


def _has_label(label: str) -> Callable[[Result], bool]:
    return lambda result: result.row["attack"] == label


def _naive(result: Result) -> bool:
    spec = spec_of(result)
    return spec is not None and spec.access == "gradients" and spec.view == "naive"


def _masking_gap(finding: Finding) -> tuple[bool, float]:
    """Whether the finding shows masked gradients, and by how much."""
    return finding.violated and finding.excess > MIN_MASKING_GAP + 1e-9, finding.excess
