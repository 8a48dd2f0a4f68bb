"""Sanity checks of an evaluation: a sound one passes them, whether its target is robust or not."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from advgan.analysis import findings
from advgan.analysis.findings import Finding, ModelResults, access, at_least, fgsm, white_box
from advgan.evaluation.evaluate import Result


@dataclass(frozen=True)
class SanityCheck:
    """A rule, the `search` for violations, their usual meaning, and the runs that test it."""

    rule: str
    search: Callable[[ModelResults], list[Finding]]
    meaning: str
    test: str


def sanity(results: Sequence[Result], num_classes: int) -> list[dict[str, Any]]:
    """The verdicts on each target, after Carlini et al. 2019 (arXiv:1902.06705: "Perform basic sanity tests", "Apply
    gradient-free attacks", "Perform a transferability analysis", "Try brute-force (random) search attacks", "Verify
    attack convergence").

    A difference counts only if it is significant: exact McNemar on the same images below 5 %, or, on different images,
    disjoint 95 % Wilson intervals. A rule that applies to several groups of a target is violated if one of them
    violates it; the worst one is reported. A violation by more than two points that is not significant is "unclear".
    `num_classes` sets the accuracy of chance. Failed results only count as failed.
    """
    verdicts = []
    for target, model_results in ModelResults.of_each(results, num_classes):
        for check in CHECKS:
            worst = max(
                check.search(model_results), key=lambda finding: (finding.violated, finding.excess), default=None
            )
            verdict, detail, meaning = "not tested", "no results of this kind", check.test
            if worst is not None:
                unclear = not worst.violated and worst.excess > findings.STEP_TOLERANCE + 1e-9
                verdict = "violated" if worst.violated else "unclear" if unclear else "holds"
                detail = worst.detail
                meaning = "Too few images: raise --max-samples." if unclear else check.meaning
            verdicts.append(
                {"target": target, "check": check.rule, "verdict": verdict, "detail": detail, "meaning": meaning}
            )
    return verdicts


MASKED = (
    "Masked gradients, most often: the target has useless gradients (saturation, rounding, randomness) instead of "
    "robustness. "
)
CHECKS = (
    SanityCheck(
        "The strongest white-box attack is at least as strong as FGSM",
        at_least(lambda result: white_box(result) and not fgsm(result), fgsm),
        MASKED + "Or too few or too small steps. Try more steps, a random start, and the margin or DLR loss.",
        "Run fgsm and an iterative attack (pgd:steps=40) in the same norm: advgan compare --sanity does.",
    ),
    SanityCheck(
        "The strongest white-box attack is at least as strong as transfer",
        at_least(white_box, access("transfer")),
        MASKED + "A white-box attack should find transferable examples too. Look for layers without useful gradients, "
        "and attack a differentiable approximation of them (BPDA).",
        "Run a transfer attack from another classifier: --surrogate NAME --surrogate-weights RUN.",
    ),
    SanityCheck(
        "The strongest white-box attack is at least as strong as noise",
        at_least(white_box, access("nothing")),
        "The gradients are useless: the attack is broken (a wrong sign, labels or normalisation), or the target masks "
        "its gradients. Look at the loss along the steps: it must rise.",
        "Run noise-sign and a gradient attack: advgan compare --sanity does.",
    ),
    SanityCheck(
        "Gradient-free attacks do not beat gradient-based ones",
        at_least(white_box, access("scores", "decisions")),
        MASKED
        + "Robustness against gradient attacks alone is then no robustness. Report the gradient-free success rate, and "
        "attack the part that masks the gradients.",
        "Run square and pgd: advgan compare --sanity does.",
    ),
    SanityCheck(
        "The generator is at least as strong as noise",
        at_least(access("generator"), access("nothing")),
        "The generator has learned nothing about this target: it was trained against another one, or not long enough, "
        "or its perturbation is saturated. Look at its training curves and at the gallery.",
        "Give --generator DIR and run advgan and noise-sign.",
    ),
    SanityCheck(
        "The generator's images are spread over the classes, where there are many",
        findings.spread_over_classes,
        "The generator has probably learned a nearly universal perturbation, which pushes images into one class "
        "whatever they show. Train it with the loss relativistic and fewer steps, or with the label as an input "
        "(--labels; it needs many images a class); compare it with a universal perturbation (--universal) of this eps.",
        "Give --generator DIR and run advgan without a target class, against a classifier of 100 classes or more.",
    ),
    SanityCheck(
        "The worst case over the attacks does not fall as eps grows",
        findings.monotone_in_eps,
        "A larger ball contains the smaller one, so the attacks miss successes: step size and steps do not fit the "
        "larger eps. Scale the step size with eps, and take more steps.",
        "Run the same attacks at several eps: --eps 0.1 0.2 0.3.",
    ),
    SanityCheck(
        "Doubling the steps changes little",
        findings.steps_converged,
        "The attack has not converged, so its success rate is too low. Double the steps until it no longer changes.",
        "Run an attack with a number of steps and with twice as many (pgd:steps=40 pgd:steps=80): advgan compare "
        "--sanity does.",
    ),
    SanityCheck(
        "Gradients reach the images",
        findings.nonzero_gradients,
        "The gradient is exactly zero: the loss is saturated (cross-entropy at a confidence of 1), or a part "
        "of the target has no gradient. The attack had no effect: use the margin or DLR loss, or a gradient-free one.",
        "Run a bounded gradient attack, such as fgsm.",
    ),
    SanityCheck(
        "With no real bound (linf eps 0.5) accuracy falls to chance or below",
        findings.chance_at_large_eps,
        "At this eps every image can be made plain grey. Where accuracy stays higher the attack fails, which does not "
        "show robustness: masked gradients, a wrong step size, or clipped images. Repair the attack "
        "first.",
        "Run PGD at eps 0.5 too: advgan compare --sanity does.",
    ),
    SanityCheck(
        "Every attack ran to its end and kept its bounds",
        findings.all_succeeded,
        "A failed attack is no evidence of robustness: it may have been the strongest. Repair it and run it "
        "again; finished results are cached.",
        "Run any attack.",
    ),
)
