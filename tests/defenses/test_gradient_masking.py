"""Defenses that mask gradients: attacks that fail and succeed against each, and the verdict that detects masking."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advgan.analysis.masking import masking
from advgan.attacks import fgsm, hopskipjump, parse_attack
from advgan.core.errors import InputError
from advgan.core.threat_model import Threat
from advgan.data import load_data
from advgan.defenses import adaptive, defend, reseed
from advgan.evaluation import GridPoint, Result, ResultCache, TargetModel
from advgan.models.losses import margin
from tests.analysis.test_sanity_checks import with_asr
from tests.analysis.test_statistics import result, strict_json

SPECS = ("labels-only", "saturated", "noisy-gradients", "truncated-gradients")
EPS = 0.2


def net(digits: Path, seed: int, eps: float = 0.0) -> nn.Module:
    """A small classifier of bar images, trained for two seconds; with `eps` adversarially by FGSM."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(1, 8, 5, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(1152, 3))
    x, y = next(load_data("folder", digits).train.batches(120))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(fgsm(model, x, y, eps=eps) if eps else x), y).backward()
        optimizer.step()
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def model(digits: Path) -> nn.Module:
    return net(digits, 0)


@pytest.fixture(scope="module")
def robust(digits: Path) -> nn.Module:
    return net(digits, 0, eps=0.15)


@pytest.fixture(scope="module")
def other(digits: Path) -> nn.Module:
    return net(digits, 1)


@pytest.fixture(scope="module")
def images(digits: Path) -> tuple[Tensor, Tensor]:
    return next(load_data("folder", digits).test.batches(48))


# Outputs


@pytest.mark.parametrize("word", SPECS)
def test_masks_keep_predictions(word: str, model: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    x, _ = images
    assert torch.equal(defend(model, word)(x).argmax(1), model(x).argmax(1))
    assert adaptive(defend(model, word)) is model
    assert defend(model, word)(x[:0]).shape == (0, 3)


def test_labels_only_logits_and_zero_gradient(model: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    x = images[0].clone().requires_grad_()
    logits = defend(model, "labels-only")(x)
    torch.testing.assert_close(logits.amax(1), torch.zeros(48))
    torch.testing.assert_close(logits.amin(1), torch.full((48,), 1e-12).log())
    (gradient,) = torch.autograd.grad(margin(logits, images[1]).sum(), x)
    assert torch.equal(gradient, torch.zeros_like(x))


def test_saturated_logits_and_gradient() -> None:
    z = torch.tensor([[0.5, 0.0, -0.5], [0.01, 0.0, -0.01]], requires_grad=True)
    logits = defend(nn.Identity(), "saturated")(z)
    torch.testing.assert_close(logits[1], (100 * z[1]).log_softmax(0))
    torch.testing.assert_close(logits[0], torch.tensor([1 - 1e-7, 1e-7, 1e-7]).log())
    (gradient,) = torch.autograd.grad(margin(logits, torch.zeros(2, dtype=torch.long)).sum(), z)
    assert torch.equal(gradient[0], torch.zeros(3))
    torch.testing.assert_close(gradient[1], torch.tensor([100.0, -100.0, 0.0]))


def linear() -> nn.Module:
    """Logits (0, w x) of 1 x 2 x 50 images, w = 1, 2, ..., 100."""
    layer = nn.Linear(100, 2, bias=False)
    layer.weight.data = torch.stack([torch.zeros(100), torch.arange(1.0, 101)])
    return nn.Sequential(nn.Flatten(), layer)


def test_noisy_gradients_norm_and_seed() -> None:
    model, x = linear(), torch.rand(3, 1, 2, 50, requires_grad=True)
    defense = defend(model, "noisy-gradients:sigma=4")
    true = torch.autograd.grad(model(x)[:, 1].sum(), x)[0].flatten(1)
    reseed(defense, 5)
    first, second = (torch.autograd.grad(defense(x)[:, 1].sum(), x)[0].flatten(1) for _ in range(2))
    torch.testing.assert_close((first - true).norm(dim=1), 4 * true.norm(dim=1))
    assert not torch.equal(first, second)
    reseed(defense, 5)
    assert torch.equal(first, torch.autograd.grad(defense(x)[:, 1].sum(), x)[0].flatten(1))
    assert torch.equal(defense(x), model(x))


def test_truncated_gradients_keep_largest_entries() -> None:
    x = torch.rand(2, 1, 2, 50, requires_grad=True)
    for spec, kept in (("share=0.05", 5), ("share=0.001", 1)):
        defense = defend(linear(), f"truncated-gradients:{spec}")
        gradient = torch.autograd.grad(defense(x)[:, 1].sum(), x)[0].flatten(1)
        expected = torch.arange(1.0, 101) * (torch.arange(100) >= 100 - kept)
        assert torch.equal(gradient, expected.expand(2, -1))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("saturated:scale=0", "saturated:scale must be positive, got 0.0"),
        ("noisy-gradients:sigma=-1", "noisy-gradients:sigma must be positive, got -1.0"),
        ("truncated-gradients:share=1", "share must be between 0 and 1, of the gradient's entries, got 1.0"),
    ],
)
def test_invalid_settings_raise(spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        defend(nn.Flatten(), spec)


# Attacks that fail and succeed, and the verdict

NAIVE = ("fgsm@naive", "pgd:steps=20@naive")
SQUARES = "square:queries=300"


def results_of(
    model: nn.Module, other: nn.Module, images: tuple[Tensor, Tensor], *attacks: str, eps: float = EPS
) -> dict[str, Result]:
    victim, threat, cells = TargetModel("net", model), Threat("linf", eps), ResultCache(None, *images)
    results = [cells.run(GridPoint(parse_attack(attack), victim, threat)) for attack in attacks]
    results.append(cells.run(GridPoint(parse_attack("mifgsm"), victim, threat, source=TargetModel("other", other))))
    assert {result.row["status"] for result in results} == {"ok"}
    return {result.row["attack"]: result for result in results}


def verdict_of(results: dict[str, Result], *attacks: str) -> dict[str, Any]:
    (verdict,) = strict_json(masking([r for name, r in results.items() if name in attacks or not attacks], 3))
    return verdict


@pytest.mark.parametrize("word", SPECS)
def test_masks_stop_naive_gradient_attacks_only(
    word: str, model: nn.Module, other: nn.Module, images: tuple[Tensor, Tensor]
) -> None:
    results = results_of(defend(model, word), other, images, *NAIVE, SQUARES, "fgsm", "pgd:steps=20")
    asr = {name: result.row["asr"] for name, result in results.items()}
    assert max(asr[name] for name in NAIVE) < 0.1
    assert min(asr[name] for name in ("fgsm", "pgd:steps=20", "mifgsm from other")) > 0.5
    if word in ("noisy-gradients", "truncated-gradients"):  # the others hide the scores too
        assert asr[SQUARES] > 0.3
        assert verdict_of(results, *NAIVE, SQUARES)["verdict"] == "masks its gradients"
    assert verdict_of(results)["verdict"] == "masks its gradients"
    assert verdict_of(results, *NAIVE, "fgsm", "pgd:steps=20")["verdict"] == "masks its gradients"
    without_adaptive = verdict_of(results, *NAIVE, "mifgsm from other")
    assert without_adaptive["verdict"] == "masks its gradients"
    assert "mifgsm from other" in without_adaptive["detail"]
    still = "leaves 48 of 48 images unchanged" in without_adaptive["detail"]
    assert still == (word in ("labels-only", "saturated"))


def test_decision_attack_is_unaffected_by_labels_only(model: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    x, y = images[0][:4], images[1][:4]

    def attacked(word: str | None) -> Tensor:
        rng = torch.Generator().manual_seed(0)
        return hopskipjump(defend(model, word), x, y, norm="linf", max_queries=1500, rng=rng)

    x_adv = attacked("labels-only")
    assert torch.equal(x_adv, attacked(None))
    assert (model(x_adv).argmax(1) != y).all()
    assert (x_adv - x).abs().max() < 0.3


@pytest.mark.parametrize("word", [None, "gaussian", "crop-resize"])
def test_no_masking_verdict_for_unmasked_defenses(
    word: str | None, model: nn.Module, robust: nn.Module, other: nn.Module, images: tuple[Tensor, Tensor]
) -> None:
    for net, eps in ((model, 0.16), (robust, 0.24)):  # where some images hold and some do not
        results = results_of(defend(net, word), other, images, NAIVE[1], SQUARES, "pgd:steps=20", eps=eps)
        assert 0.1 < results["pgd:steps=20"].row["asr"] < 0.99
        assert verdict_of(results)["verdict"] == "no masking found", verdict_of(results)
        assert verdict_of(results, "pgd:steps=20", SQUARES)["verdict"] == "no masking found"


def test_adversarially_trained_network_is_more_robust(
    model: nn.Module, robust: nn.Module, images: tuple[Tensor, Tensor]
) -> None:
    x, y = images
    hits = [(net(fgsm(net, x, y, eps=EPS)).argmax(1) != y).float().mean() for net in (model, robust)]
    assert hits[1] < hits[0] - 0.2


# The verdict on results made by hand

SQUARE, HOPSKIPJUMP = {"access": "scores"}, {"access": "decisions", "protocol": "minimal-norm"}
CASES = {
    "by transfer": ([with_asr("pgd", 10), with_asr("mifgsm from b", 40, access="transfer")], "masks its gradients"),
    "by scores": ([with_asr("pgd@naive", 10), with_asr("square", 40, **SQUARE)], "masks its gradients"),
    "by decisions": ([with_asr("pgd", 10), with_asr("hopskipjump-linf", 40, **HOPSKIPJUMP)], "masks its gradients"),
    "by its twin": ([with_asr("pgd@naive", 10), with_asr("pgd", 40)], "masks its gradients"),
    "by standing still": ([result("fgsm", "0" * 100, norms=[0.0] * 100)], "masks its gradients"),
    "the adaptive view is not its own": (
        [with_asr("pgd@naive", 10), with_asr("pgd", 60), with_asr("square", 60, **SQUARE)],
        "masks its gradients",
    ),
    "its own only": ([with_asr("pgd", 50), with_asr("fgsm", 40)], "not tested"),
    "twins alike, which they are without a defense": ([with_asr("pgd@naive", 50), with_asr("pgd", 50)], "not tested"),
    "one step cannot be expected to": ([with_asr("fgsm", 10), with_asr("square", 60, **SQUARE)], "not tested"),
    "other radii": ([with_asr("pgd", 10, eps=0.1), with_asr("square", 60, **SQUARE)], "not tested"),
    "a failed attack": ([with_asr("pgd", 10, status="failed: x"), with_asr("square", 60, **SQUARE)], "not tested"),
    "too few images": ([result("pgd", "000000"), result("square", "001111", **SQUARE)], "unclear"),
    "near enough": ([with_asr("pgd", 50), with_asr("square", 55, **SQUARE)], "no masking found"),
    "stronger": (
        [with_asr("pgd@naive", 50), with_asr("pgd", 52), with_asr("square", 30, **SQUARE)],
        "no masking found",
    ),
    "other attacks than its twin": (
        [with_asr("ifgsm@naive", 50), with_asr("pgd:steps=100", 60), with_asr("square", 40, **SQUARE)],
        "no masking found",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_masking_verdicts_of_constructed_results(case: str) -> None:
    results, verdict = CASES[case]
    (row,) = strict_json(masking(results, 10))
    assert set(row) == {"target", "verdict", "detail"}
    assert (row["target"], row["verdict"]) == ("net", verdict)


def test_masking_detail_names_both_attacks() -> None:
    results = [
        with_asr("pgd@naive", 10),
        with_asr("pgd", 50),
        with_asr("square", 60, **SQUARE),
        with_asr("pgd", 90, target="b"),
    ]
    assert strict_json(masking(results, 10)) == [
        {
            "target": "net",
            "verdict": "masks its gradients",
            "detail": "pgd@naive 10.0%, square 60.0% (linf eps 0.3)",
        },
        {
            "target": "b",
            "verdict": "not tested",
            "detail": "needs an iterative attack by its own gradients and one without gradients",
        },
    ]
    assert masking([], 10) == []


def test_minimum_norm_success_counts_up_to_same_eps() -> None:
    within_eps = result("hopskipjump-linf", "1" * 100, norms=[0.2] * 60 + [0.4] * 40, **HOPSKIPJUMP)
    (row,) = masking([with_asr("pgd", 30), within_eps], 10)
    assert row["detail"] == "pgd 30.0%, hopskipjump-linf 60.0% (linf eps 0.3)"
