"""Sanity checks on constructed results: each rule held, violated, and not tested."""

from typing import Any

import pytest
import torch

from advgan.analysis.findings import _significant
from advgan.analysis.sanity import CHECKS, sanity
from advgan.evaluation import Result
from tests.analysis.test_statistics import result, strict_json

N = 100
FGSM, TRANSFER, NOISE, FREE, GENERATOR, SPREAD, GROWS, STEPS, MOVES, UNBOUNDED, COMPLETED = (c.rule for c in CHECKS)


def with_asr(attack: str, percent: int, **row: Any) -> Result:
    """An attack that succeeds on the first `percent` of 100 images."""
    return result(attack, "1" * percent + "0" * (N - percent), **row)


def verdict(rule: str, *results: Result) -> dict[str, Any]:
    num_classes = 1000 if rule == SPREAD else 10
    (row,) = (row for row in strict_json(sanity(list(results), num_classes)) if row["check"] == rule)
    return row


def into_classes(sizes: dict[int, int], **row: Any) -> Result:
    """A generator that brings so many of 100 images of class 0 into each class."""
    made = with_asr("advgan", sum(sizes.values()), access="generator", **row)
    classes = torch.repeat_interleave(torch.tensor([*sizes]), torch.tensor([*sizes.values()]))
    made.records["prediction"][: len(classes)] = classes
    return made


CASES = [
    # rule, results that hold to it, results that break it, results that do not test it
    (
        FGSM,
        [with_asr("fgsm", 60), with_asr("pgd", 58), with_asr("ifgsm", 20)],
        [
            with_asr("fgsm", 60),
            with_asr("pgd", 40),
            with_asr("deepfool", 90, protocol="minimal-norm", attack_norm="l2"),
        ],
        [with_asr("fgsm", 60), with_asr("noise-sign", 90, access="nothing")],
    ),
    (
        TRANSFER,
        [with_asr("pgd", 60), with_asr("mifgsm from other", 30, access="transfer")],
        [with_asr("pgd", 60), with_asr("mifgsm from other", 80, access="transfer")],
        [with_asr("pgd", 60)],
    ),
    (
        NOISE,
        [with_asr("pgd", 60), with_asr("noise-sign", 60, access="nothing")],
        [
            with_asr("pgd", 10),
            with_asr("noise-sign", 20, access="nothing"),
            with_asr("noise-uniform", 5, access="nothing"),
        ],
        [with_asr("pgd", 60), with_asr("noise-sign", 90, access="nothing", eps=0.1)],
    ),
    (
        FREE,
        [with_asr("pgd", 60), with_asr("square", 50, access="scores"), with_asr("hopskipjump", 61, access="decisions")],
        [with_asr("pgd", 60), with_asr("square", 80, access="scores")],
        [with_asr("pgd", 60), with_asr("square", 80, access="scores", status="failed: out of memory")],
    ),
    (
        GENERATOR,
        [with_asr("advgan", 60, access="generator"), with_asr("noise-sign", 20, access="nothing")],
        [with_asr("advgan", 20, access="generator"), with_asr("noise-sign", 60, access="nothing")],
        [with_asr("noise-sign", 20, access="nothing"), with_asr("pgd", 60)],
    ),
    (
        SPREAD,  # images that remain in their class do not count
        [into_classes({3: 28, 4: 10}), into_classes({5: 3})],
        [into_classes({3: 28, 4: 10}), into_classes({3: 10, 4: 61}, eps=0.2)],
        [with_asr("fgsm", 90), into_classes({3: 90}, y_target=3), into_classes({3: 0})],
    ),
    (
        GROWS,  # a single step falls, the worst case does not; an attack that was not run at both eps does not count
        [with_asr("fgsm", 60, eps=0.1), with_asr("pgd", 60, eps=0.1), with_asr("fgsm", 30), with_asr("pgd", 60)],
        [with_asr("ifgsm", 60, eps=0.1), with_asr("pgd", 30, eps=0.1), with_asr("ifgsm", 30), with_asr("square", 90)],
        [
            with_asr("pgd", 60, eps=0.1),
            with_asr("fgsm", 60, eps=0.1),
            with_asr("pgd", 30, norm="l2"),
            with_asr("fgsm", 10),
        ],
    ),
    (
        STEPS,
        [with_asr("pgd:steps=40", 60), with_asr("pgd:steps=80", 62)],
        [with_asr("pgd", 60), with_asr("pgd:steps=80", 70), with_asr("pgd:steps=10", 60)],
        [
            with_asr("pgd:steps=40", 60),
            with_asr("pgd:steps=80:loss=dlr", 90),
            with_asr("advgan:steps=1", 10),
            with_asr("advgan:steps=2", 60),
        ],
    ),
    (
        MOVES,
        [result("fgsm", "1" * 99 + "0", norms=[0.0] * N), with_asr("pgd", 10)],
        [result("fgsm", "1" * 50 + "0" * 50, norms=[0.3] * 90 + [0.0] * 10)],
        [with_asr("deepfool", 60, protocol="minimal-norm"), with_asr("noise-sign", 10, access="nothing")],
    ),
    (
        UNBOUNDED,  # 14 of 100 are within the interval of chance, one in ten
        [with_asr("pgd", 86, eps=0.5)],
        [with_asr("pgd", 70, eps=0.5), with_asr("noise-sign", 80, eps=0.5, access="nothing")],
        [
            with_asr("pgd", 100),
            with_asr("noise-sign", 20, eps=0.5, access="nothing"),
            with_asr("pgd", 20, norm="l2", eps=2.0),
        ],
    ),
]


@pytest.mark.parametrize(("rule", "holding", "breaking", "silent"), CASES, ids=[case[0] for case in CASES])
def test_each_rule_holds_is_violated_or_not_tested(
    rule: str, holding: list[Result], breaking: list[Result], silent: list[Result]
) -> None:
    check = next(check for check in CHECKS if check.rule == rule)
    held, broken, untested = (verdict(rule, *results) for results in (holding, breaking, silent))
    assert (held["verdict"], broken["verdict"], untested["verdict"]) == ("holds", "violated", "not tested")
    assert held["meaning"] == broken["meaning"] == check.meaning
    assert untested["meaning"] == check.test
    assert set(broken) == {"target", "check", "verdict", "detail", "meaning"}
    assert all(each["detail"] for each in (held, broken, untested))


def test_violation_detail_has_success_rates() -> None:
    row = verdict(FGSM, with_asr("fgsm", 60), with_asr("pgd", 40), with_asr("ifgsm", 20))
    assert row["detail"] == "pgd 40.0%, fgsm 60.0% (linf eps 0.3)"


def test_spread_over_few_classes_is_not_tested() -> None:
    rows = sanity([into_classes({3: 90})], 10)
    assert [row["verdict"] for row in rows if row["check"] == SPREAD] == ["not tested"]


def test_share_of_the_most_frequent_class_is_of_all_attacked_images() -> None:
    row = verdict(SPREAD, into_classes({3: 20, 4: 61}))
    assert row["detail"] == "advgan brings 61 of 100 images into class 4 (linf eps 0.3)"


def test_detail_shows_worst_group() -> None:
    pairs = {0.1: (50, 51), 0.2: (50, 80), 0.3: (50, 70)}
    results = [
        with_asr(name, p, eps=e) for e, both in pairs.items() for name, p in zip(("pgd", "fgsm"), both, strict=True)
    ]
    assert verdict(FGSM, *results)["detail"] == "pgd 50.0%, fgsm 80.0% (linf eps 0.2)"
    assert verdict(FGSM, *results)["verdict"] == "violated"
    assert verdict(FGSM, *results[:2])["verdict"] == "holds"  # one image more is chance


def test_insignificant_difference_is_unclear() -> None:
    # 5 images to none: p = 0.0625; 6 to none: 0.031.
    row = verdict(NOISE, with_asr("pgd", 50), with_asr("noise-sign", 55, access="nothing"))
    assert (row["verdict"], row["meaning"]) == (
        "unclear",
        "Too few images: raise --max-samples.",
    )
    assert verdict(NOISE, with_asr("pgd", 50), with_asr("noise-sign", 56, access="nothing"))["verdict"] == "violated"


def test_small_significant_change_counts_as_converged() -> None:
    ten_more = [result(f"pgd:steps={k}", "1" * hits + "0" * (1000 - hits)) for k, hits in ((40, 500), (80, 510))]
    assert verdict(STEPS, *ten_more)["verdict"] == "holds"


def test_first_seed_is_compared() -> None:
    assert (
        verdict(FGSM, with_asr("fgsm", 60), with_asr("pgd", 40), with_asr("pgd", 70, seed=1))["verdict"] == "violated"
    )


def test_unpaired_samples_are_compared_by_intervals() -> None:
    def sample(hits: int, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.arange(n) < hits, torch.ones(n, dtype=torch.bool)

    assert _significant(sample(90, 100), sample(60, 101))
    assert not _significant(sample(65, 100), sample(60, 101))
    assert not _significant(sample(60, 101), sample(90, 100))


def test_convergence_uses_largest_doubling_of_steps() -> None:
    ladder = [with_asr(f"ifgsm:steps={steps}", percent) for steps, percent in ((5, 30), (20, 81), (40, 82))]
    row = verdict(STEPS, *ladder, with_asr("ifgsm", 60))  # 10 steps: its default
    assert row["verdict"] == "holds"
    assert row["detail"] == "ifgsm:steps=20 81.0% with 20 steps, 82.0% with 40 (linf eps 0.3)"


def test_targeted_attack_excludes_images_of_target_class() -> None:
    label = [3] * 30 + [0] * 70
    aimed = result("pgd", "0" * 30 + "1" * 70, [0] * 30 + [1] * 70, label=label, eps=0.5, y_target=3)
    aimed.records["clean_prediction"][:] = torch.tensor(label)
    aimed.records["prediction"][:] = 3
    assert verdict(UNBOUNDED, aimed)["verdict"] == "holds"


def test_failed_attacks_violate_completion_with_reason() -> None:
    assert verdict(COMPLETED, with_asr("pgd", 60))["verdict"] == "holds"
    row = verdict(COMPLETED, with_asr("pgd", 60), with_asr("fgsm", 0, status="failed: NaN in the answer"))
    assert (row["verdict"], row["detail"]) == (
        "violated",
        "1 of 2 results have metrics: fgsm failed: NaN in the answer",
    )


def test_targets_are_judged_separately() -> None:
    rows = sanity([with_asr("pgd", 60, target="a"), with_asr("fgsm", 90, target="b")], 10)
    assert [row["target"] for row in rows] == ["a"] * len(CHECKS) + ["b"] * len(CHECKS)
    assert {row["verdict"] for row in rows if row["check"] == FGSM} == {"not tested"}
    assert sanity([], 10) == []
