"""Rejection as a third outcome: metrics counted by hand, and attacks that avoid rejection."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from advgan.analysis.worst_case import worst_case
from advgan.attacks import make_attack, parse_attack
from advgan.attacks.common import loss_and_gradient
from advgan.attacks.losses import get_loss
from advgan.core.threat_model import Threat
from advgan.evaluation import GridPoint, Result, ResultCache, TargetModel, evaluate, recompute_metrics
from advgan.experiments.sweep.report import unattacked
from advgan.report.sections import sections
from tests.evaluation.test_evaluation import Brightness, brighter, flat


class Rejecting(Brightness):
    """Rejects images whose mean is within 0.04 of 0.45 or of 0.9."""

    def rejection_score(self, x: Tensor) -> Tensor:
        mean = x.flatten(1).mean(1, keepdim=True)
        return (0.04 - (mean - torch.tensor([0.45, 0.9])).abs()).amax(1)


# Made 0.1 brighter: right; wrong, but rejected; right; wrong; right, and rejected when clean; right, and rejected; and
# one that is wrong when clean.
X, Y = flat(0.1, 0.35, 0.5, 0.58, 0.45, 0.8, 0.9), torch.tensor([0, 0, 1, 1, 1, 2, 0])
BALL = Threat("linf", 0.1)


def run() -> Result:
    return evaluate(brighter(0.1), Rejecting().eval(), X, Y, BALL)


def test_metrics_with_rejected_images() -> None:
    result = run()
    row = result.row
    assert (row["n"], row["n_correct"], row["n_attacked"]) == (7, 5, 5)
    assert row["clean_accuracy"] == pytest.approx(5 / 7)
    assert row["clean_rejected"] == pytest.approx(2 / 7)
    assert row["asr"] == row["asr_any_norm"] == row["asr_8bit"] == pytest.approx(1 / 5)
    assert row["rejected"] == pytest.approx(2 / 5)
    assert row["robust_accuracy"] == pytest.approx(4 / 7)
    assert result.records["clean_accepted"].tolist() == [True, True, True, True, False, True, False]
    assert result.records["accepted"].tolist() == [True, False, True, True, True, False, True]
    assert result.records["success"].tolist() == [False, False, False, True, False, False, False]
    (worst,) = worst_case([result])
    assert (worst["asr"], worst["robust_accuracy"]) == (row["asr"], row["robust_accuracy"])
    assert recompute_metrics(result, BALL).row == row
    at_zero = unattacked(row)
    assert (at_zero["rejected"], at_zero["clean_rejected"], at_zero["asr"]) == (0, row["clean_rejected"], 0)


def test_failed_row_keeps_clean_rejection_rate() -> None:
    row = evaluate(brighter(0.2), Rejecting().eval(), X, Y, BALL).row
    assert row["status"].startswith("failed")
    assert (row["rejected"], row["clean_rejected"]) == (None, pytest.approx(2 / 7))


def test_tables_show_rejection_only_for_rejecting_classifiers() -> None:
    plain = evaluate(brighter(0.1), Brightness().eval(), X, Y, BALL)
    (rejecting,), (without,) = (sections({"rows": [result.row]}) for result in (run(), plain))
    assert rejecting.rows[0][rejecting.headers.index("rejected %")] == "40.0"
    assert rejecting.title.endswith("clean accuracy 71.43%, 28.57% of the clean images rejected")
    assert "rejected %" not in without.headers
    assert "rejected" not in without.title


def test_no_rejection_metrics_without_rejection() -> None:
    result = evaluate(brighter(0.1), Brightness().eval(), X, Y, BALL)
    assert (result.row["rejected"], result.row["clean_rejected"]) == (None, None)
    assert not [name for name in result.records if "accepted" in name]


def test_cached_result_keeps_rejection(tmp_path: Path) -> None:
    victim, spec = TargetModel("picky", Rejecting().eval()), parse_attack("noise-sign")
    first, cached = (ResultCache(tmp_path, X, Y).run(GridPoint(spec, victim, BALL)) for _ in range(2))
    assert first.row == cached.row
    assert first.row["clean_rejected"] == pytest.approx(2 / 7)
    assert torch.equal(first.records["clean_accepted"], cached.records["clean_accepted"])


class RejectingDark(nn.Module):
    """Two pixels: the first decides the class, at 0.5; images whose second pixel is below 0.6 are rejected."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(10.0))

    def forward(self, x: Tensor) -> Tensor:
        lead = self.scale * (x[:, 0, 0, 0] - 0.5)
        return torch.stack([-lead, lead], 1)

    def rejection_score(self, x: Tensor) -> Tensor:
        return 3 * (0.6 - x[:, 0, 0, 1])


def two_pixels(*pairs: tuple[float, float]) -> Tensor:
    return torch.tensor(pairs).view(-1, 1, 1, 2)


def test_attack_objective_includes_rejection_score() -> None:
    x = two_pixels(
        (0.4, 0.5), (0.6, 0.5), (0.6, 0.7)
    )  # correct; misclassified and rejected; misclassified and accepted
    gradient, state = loss_and_gradient(RejectingDark(), x, torch.zeros(3, dtype=torch.long), None, get_loss("margin"))
    assert torch.allclose(gradient, two_pixels((20.0, 0), (0, 3), (0, 3)))
    assert state.success.tolist() == [False, False, True]
    assert torch.allclose(state.loss, torch.tensor([-2.0, -0.3, 0.3]), atol=1e-5)
    assert state.rank.tolist() == sorted(state.rank.tolist())
    plain = loss_and_gradient(
        nn.Sequential(RejectingDark()), x, torch.zeros(3, dtype=torch.long), None, get_loss("margin")
    )
    assert torch.equal(plain[1].loss, plain[1].rank)
    assert plain[1].success.tolist() == [False, True, True]


ATTACK_SPECS = [
    "ifgsm",
    "mifgsm",
    "pgd:restarts=2",
    "apgd-ce",
    "apgd-ce:stop-on-success=false",
    "square",
    "hopskipjump-linf",
]
ATTACK_SPECS += ["carlini-wagner", "carlini-wagner:kappa=1", "lbfgs", "deepfool"]


@pytest.mark.parametrize("word", ATTACK_SPECS)
def test_evasive_attacks_end_accepted(word: str) -> None:
    # HopSkipJump needs a start that is answered: another image of the batch.
    x, y = two_pixels((0.46, 0.56), (0.45, 0.55), (0.7, 0.9)), torch.tensor([0, 0, 1])
    model = RejectingDark().eval()
    attack = make_attack(word, model, Threat("linf", 0.2), rng=torch.Generator().manual_seed(0))
    x_adv = attack(x, y)[:2]
    assert (model(x_adv).argmax(1) == 1).all()
    assert (model.rejection_score(x_adv) <= 0).all() == parse_attack(word).attack.handles_rejection


def test_noise_draws_until_accepted() -> None:
    x, y = two_pixels((0.48, 0.55)).repeat(20, 1, 1, 1), torch.zeros(20, dtype=torch.long)
    attack = make_attack(
        "noise-uniform:draws=60", RejectingDark(), Threat("linf", 0.2), rng=torch.Generator().manual_seed(0)
    )
    assert (RejectingDark().rejection_score(attack(x, y)) <= 0).all()
