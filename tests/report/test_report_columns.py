"""Columns of a comparison's tables, on a linear model of flat images with closed-form metrics."""

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advgan.analysis.cost import cost
from advgan.analysis.summary import summary
from advgan.attacks import AttackFn, make_attack
from advgan.core.threat_model import Threat
from advgan.evaluation import Result, evaluate
from advgan.report.html import headlines
from advgan.report.latex import latex
from advgan.report.sections import at_least_two_digits, length, mcnemar, optimality, sections
from advgan.report.sections import cost as cost_table
from advgan.report.table import markdown

SIDE = 12  # the l2 norm of a change by d everywhere is 12 d
GREYS = (0.2, 0.4, 0.46, 0.7, 0.8)  # 0.3, 0.1, 0.04 and 0.2 away from the boundary at 0.5; the last label is wrong
X, Y = torch.tensor(GREYS).view(-1, 1, 1, 1).expand(-1, 1, SIDE, SIDE).contiguous(), torch.tensor([0, 0, 0, 1, 0])
RADII = (0.05, 0.15, 0.25)


class Mean(nn.Module):
    """Two classes: the mean of the image below and above 0.5."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.flatten(1).mean(1)
        return 20 * torch.stack([0.5 - mean, mean - 0.5], 1)


def half(eps: float) -> AttackFn:
    """Half a step of FGSM."""
    return lambda x, y: (x + eps / 2 * (1 - 2 * y.float()).view(-1, 1, 1, 1)).clamp(0, 1)


def run(attack: str, eps: float, seconds: float, **more: Any) -> Result:
    model, threat = Mean().eval(), Threat("linf", eps)
    bound = half(eps) if attack == "half" else make_attack(attack, model, threat, rng=torch.Generator().manual_seed(0))
    result = evaluate(bound, model, X, Y, threat, name=attack, target_name="mean", **more)
    result.row.update(seconds_per_image=seconds, images_per_second=1 / seconds)  # the clock alone is not known by hand
    return result


@pytest.fixture(scope="module")
def results() -> list[Result]:
    bounded = [run(attack, eps, s) for eps in RADII for attack, s in (("fgsm", 0.05), ("half", 2.5))]
    minimal = {"protocol": "minimal-norm", "attack_norm": "l2"}
    return [*bounded, *(run("deepfool", eps, 0.5, **minimal) for eps in RADII)]


def cells(result: Result) -> dict[str, str]:
    (table,) = sections({"rows": [result.row]})
    return dict(zip(table.headers, table.rows[0], strict=True))


def ssim(a: float, b: float) -> float:
    """SSIM of two flat images (Wang et al. 2004): the term of the means only."""
    return (2 * a * b + 1e-4) / (a * a + b * b + 1e-4)


BOUNDED = {
    # attack, eps -> successes of 4, robust accuracy of 5
    ("fgsm", 0.05): (1, "25.0 [4.6, 69.9]", "60.0", "0.60", "0.0500"),
    ("fgsm", 0.15): (2, "50.0 [15.0, 85.0]", "40.0", "1.80", "0.1500"),
    ("fgsm", 0.25): (3, "75.0 [30.1, 95.4]", "20.0", "3.00", "0.2500"),
    ("half", 0.05): (0, "0.0 [0.0, 49.0]", "80.0", "0.30", "0.0250"),
    ("half", 0.15): (1, "25.0 [4.6, 69.9]", "60.0", "0.90", "0.0750"),
    ("half", 0.25): (2, "50.0 [15.0, 85.0]", "40.0", "1.50", "0.1250"),
}


@pytest.mark.parametrize(("attack", "eps"), BOUNDED)
def test_columns_of_bounded_attacks(results: list[Result], attack: str, eps: float) -> None:
    (result,) = (r for r in results if (r.row["attack"], r.row["eps"]) == (attack, eps))
    hits, rate, robust, l2, linf = BOUNDED[attack, eps]
    step = eps if attack == "fgsm" else eps / 2
    moved = [ssim(grey, grey - step if grey == 0.7 else grey + step) for grey in GREYS[:4]]
    assert cells(result) == {
        **{"attack": attack, "access": "gradients", "ASR % [95 %]": rate, "8-bit %": f"{25 * hits:.1f}"},
        **{"robust %": robust, "mean l2": l2, "max linf": linf, "SSIM": f"{sum(moved) / 4:.3f}"},
        **({"images/s": "20", "speed vs FGSM": "1"} if attack == "fgsm" else {"images/s": "0.4"}),
        "forwards + backwards": "1+1" if attack == "fgsm" else "0+0",
    }


def test_columns_of_minimum_norm_attack_at_several_eps(results: list[Result]) -> None:
    (table,) = sections({"rows": [r.row for r in results if r.row["attack"] == "deepfool"]})
    shown = dict(zip(table.headers, table.rows[0], strict=True))
    for eps, rate in ((0.05, "25.0 [4.6, 69.9]"), (0.15, "50.0 [15.0, 85.0]"), (0.25, "75.0 [30.1, 95.4]")):
        assert shown[f"ASR % at {eps} [95 %]"] == rate
    assert (shown["success at any norm %"], shown["mean l0"], shown["images/s"]) == ("100.0", "144", "2")
    # Distances 12 times 0.04, 0.1, 0.2 and 0.3.
    assert float(shown["median l2 [95 %]"].split()[0]) == pytest.approx(1.8, rel=0.01)
    assert float(shown["mean l2"]) == pytest.approx(1.92, rel=0.01)
    assert float(shown["mean linf"]) == pytest.approx(0.16, rel=0.01)


def test_summary_tables(results: list[Result]) -> None:
    bounded = [r for r in results if r.row["protocol"] == "bounded"]
    content = summary(bounded, [], 2)
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    middle = next(row for row in content["worst_case"] if row["eps"] == 0.15)
    assert (middle["asr"], middle["robust_accuracy"]) == (0.5, pytest.approx(0.4))
    assert middle["needed"] == {"fgsm": 1, "half": 0}  # the image at a distance of 0.1
    (pairs,) = (table for table in mcnemar(content) if "0.15" in table.title)
    assert pairs.rows == [["fgsm", "half", "1", "0", "1"]]
    # Distances to E = 0.25: FGSM's 0.05, 0.15, 0.25; half's 0.15, 0.25, never. Areas 0.2 + 0.1 against 0.1.
    (table,) = optimality(content)
    assert [line[2:] for line in table.rows] == [["fgsm", "100.0", "0.25"], ["half", "33.3", "0.25"]]
    assert list(headlines(content))[1] == (
        "mean, linf eps 0.15: fgsm fools the classifier on 50.0% of 4 images, more than any other of 2 attacks; all "
        "together 50.0%. Worst-case accuracy: 40.0% (clean: 80.0%)."
    )
    verdicts = {row["check"]: row["verdict"] for row in content["sanity"]}
    assert verdicts["Every attack ran to its end and kept its bounds"] == "holds"
    assert verdicts["Gradients reach the images"] == "holds"
    assert verdicts["Doubling the steps changes little"] == "not tested"


def test_markdown_and_latex_have_the_same_values(results: list[Result]) -> None:
    content = summary(results, [], 2)
    text, tex = markdown(content), latex(content)
    for table in sections(content):
        for line in table.rows:
            assert "| " + " | ".join(line) + " |" in text
    assert r"fgsm & gradients & 50.0 [15.0, 85.0] & 40.0 & 1.80 & 20 & 1 \\" in tex


def test_median_of_one_image_has_no_interval() -> None:
    model, threat = Mean().eval(), Threat("linf", 0.25)
    attack = make_attack("deepfool", model, threat, rng=torch.Generator().manual_seed(0))
    result = evaluate(attack, model, X[1:2], Y[1:2], threat, name="deepfool", protocol="minimal-norm")
    assert (result.row["l2_median_low"], result.row["l2_median_high"]) == (None, None)
    assert float(cells(result)["median l2 [95 %]"]) == pytest.approx(1.2, rel=0.01)


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0.00"), (2.345, "2.35"), (0.1, "0.10"), (0.0173, "0.0173"), (0.00412, "0.00412")]
)
def test_norm_format(value: float, text: str) -> None:
    assert length(value) == text


@pytest.mark.parametrize(("value", "text"), [(12345.6, "12,346"), (10.0, "10"), (2.51, "2.5"), (0.034, "0.034")])
def test_at_least_two_digits(value: float, text: str) -> None:
    assert at_least_two_digits(value) == text


@pytest.mark.parametrize(("asr", "lines"), [(0.0, 0), (0.25, 1)])
def test_cost_table_omits_generator_without_success(results: list[Result], asr: float, lines: int) -> None:
    fgsm = next(r for r in results if r.row["attack"] == "fgsm")
    generator = Result(fgsm.row | {"attack": "advgan", "asr": asr, "seconds_per_image": 0.01}, fgsm.records, fgsm.x_adv)
    entry = {"path": "g", "target": "mean", "norm": "linf", "y_target": None, "training_seconds": 0.4}
    content = {"cost": cost([fgsm, generator], [entry])}
    tables = cost_table(content)
    assert len(tables) == lines
    if tables:  # 0.4 s + n 0.01 s <= n 0.05 s from n = 10 on
        assert [line[1:] for line in tables[0].rows] == [["g", "fgsm", "0.4", "10"]]
