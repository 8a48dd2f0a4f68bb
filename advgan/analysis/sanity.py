"""Is the measurement itself sound? Checks that an honest evaluation passes whether its target is robust or not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from advgan.analysis import findings
from advgan.analysis.findings import Finding, Measured, access, at_least, fgsm, white_box
from advgan.analysis.groups import first_seeds, groups
from advgan.evaluation.evaluate import Result


@dataclass(frozen=True)
class Check:
    """A rule, how to `search` for what breaks it, what that usually means, and what to run to test it."""

    rule: str
    search: Callable[[Measured], list[Finding]]
    meaning: str
    test: str


def sanity(results: Sequence[Result], num_classes: int) -> list[dict[str, Any]]:
    """The verdicts on each target, after Carlini et al. 2019 (arXiv:1902.06705: "Perform basic sanity tests", "Apply
    gradient-free attacks", "Perform a transferability analysis", "Try brute-force (random) search attacks", "Verify
    attack convergence").

    A difference counts only if it is clear: exact McNemar on the same images below 5 %, or, where the images are not
    the same, 95 % Wilson intervals apart. A rule that applies to several groups of a target is violated if one of them
    breaks it, and the worst one is told. A rule that seems broken by more than two points, but not clearly, is one that
    these images do not test. `num_classes` says what chance is. Failed results only count as failed.
    """
    verdicts = []
    for target in dict.fromkeys(result.row["target"] for result in results):
        own = [result for result in results if result.row["target"] == target]
        compared = {group: first_seeds(members) for group, members in groups(own).items()}
        for check in CHECKS:
            found = check.search(Measured(own, compared, num_classes))
            worst = max(found, key=lambda finding: (finding.violated, finding.excess), default=None)
            verdict, detail, meaning = "not tested", "no results to judge by", check.test
            if worst is not None:
                unclear = not worst.violated and worst.excess > findings.LITTLE + 1e-9
                verdict = "violated" if worst.violated else "unclear" if unclear else "holds"
                detail = worst.detail
                meaning = "Too few images to tell: take more of them (--max-samples)." if unclear else check.meaning
            verdicts.append(
                {"target": target, "check": check.rule, "verdict": verdict, "detail": detail, "meaning": meaning}
            )
    return verdicts


MASKED = (
    "Masked gradients, most often: the target hides its gradients (saturation, rounding, randomness) instead of being "
    "robust. "
)
CHECKS = (
    Check(
        "The strongest white-box attack is at least as strong as FGSM",
        at_least(lambda result: white_box(result) and not fgsm(result), fgsm),
        MASKED + "Or too few or too small steps. Try more steps, a random start, and the margin or DLR loss.",
        "Run fgsm and an iterative attack (pgd:steps=40) in the same norm: --sanity does.",
    ),
    Check(
        "The strongest white-box attack is at least as strong as transfer",
        at_least(white_box, access("transfer")),
        MASKED + "What fools another model should be found on this one too. Look for layers without useful gradients, "
        "and attack a smooth stand-in of them (BPDA).",
        "Attack another classifier and try its images here: --surrogate NAME --surrogate-weights RUN.",
    ),
    Check(
        "The strongest white-box attack is at least as strong as noise",
        at_least(white_box, access("nothing")),
        "The gradients lead nowhere: the attack is broken (a wrong sign, labels or normalisation), or the target masks "
        "its gradients. Look at the loss along the steps: it must rise.",
        "Run noise-sign and a gradient attack: --sanity does.",
    ),
    Check(
        "Gradient-free attacks do not beat gradient-based ones",
        at_least(white_box, access("scores", "decisions")),
        MASKED
        + "Its robustness against gradient attacks is then no robustness. Trust the gradient-free success rate, and "
        "attack what hides the gradients.",
        "Run square beside pgd: --sanity does.",
    ),
    Check(
        "The generator is at least as strong as noise",
        at_least(access("generator"), access("nothing")),
        "The generator has learned nothing about this target: it was trained against another one, or not long enough, "
        "or its perturbation is saturated. Look at its training curves and at the gallery.",
        "Give --generator DIR and run advgan and noise-sign.",
    ),
    Check(
        "The worst case over the attacks does not fall as eps grows",
        findings.grows,
        "A larger ball holds the smaller one, so the attacks miss what is there: step size and steps do not fit the "
        "larger eps. Let the step size grow with eps, and take more steps.",
        "Run the same attacks at several eps: --eps 0.1 0.2 0.3.",
    ),
    Check(
        "Doubling the steps changes little",
        findings.settled,
        "The attack has not converged, so its success rate is too low. Double the steps until success stands still.",
        "Run an attack with a number of steps and with twice as many (pgd:steps=40 pgd:steps=80): --sanity does.",
    ),
    Check(
        "Gradients reach the images",
        findings.moves,
        "The gradient is exactly zero there: the loss is saturated (cross-entropy of a very sure target), or a part "
        "of the target cuts it off. The attack did nothing: use the margin or DLR loss, or a gradient-free one.",
        "Run a bounded gradient attack, such as fgsm.",
    ),
    Check(
        "With no real bound (linf eps 0.5) accuracy falls to chance or below",
        findings.unbounded,
        "At this eps every image can be made plain grey. Where accuracy stays higher the attack fails; nothing says "
        "that the target resists: masked gradients, a wrong step size, or clipped images. Mend the attack "
        "first.",
        "Run PGD at eps 0.5 too: --sanity does.",
    ),
    Check(
        "Every attack ran to its end and kept its bounds",
        findings.completed,
        "A failed attack is no evidence of robustness: it may have been the strongest. Mend it and run it "
        "again; what is done is not run again.",
        "Run any attack.",
    ),
)
