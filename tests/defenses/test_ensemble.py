"""Ensembles: votes and means computed by hand, gradients, transfer from one member, saved and loaded."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from advgan.attacks import parse_attack
from advgan.classifiers import build_target, save_target
from advgan.core.errors import InputError
from advgan.core.threat_model import Threat
from advgan.defenses import adaptive, defend, load_classifier
from advgan.defenses.ensemble import Ensemble, MajorityVote, MeanLogits, MeanProbabilities
from advgan.evaluation import GridPoint, ResultCache, TargetModel


class Constant(nn.Module):
    """Constant logits, with a zero gradient."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.register_buffer("values", torch.tensor(logits, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        return self.values + x.flatten(1).sum(1, keepdim=True) * 0


def ensemble_logits(kind: type[Ensemble], *members: nn.Module) -> Tensor:
    (logits,) = kind(members[0], members[1:])(torch.rand(1, 1, 2, 2))
    return logits


def test_majority_vote_counts() -> None:
    logits = ensemble_logits(MajorityVote, Constant(0, 5, 1), Constant(3, 0, 0), Constant(0, 0.1, 0), Constant(0, 9, 0))
    assert torch.equal(logits, torch.tensor([1.0, 3.5, 0.0]))


def test_majority_vote_tie_break_by_mean_probability() -> None:
    assert torch.equal(
        ensemble_logits(MajorityVote, Constant(1, 0, 0), Constant(0, 5, 0)), torch.tensor([1.0, 1.5, 0.0])
    )
    assert torch.equal(
        ensemble_logits(MajorityVote, Constant(5, 0, 0), Constant(0, 1, 0)), torch.tensor([1.5, 1.0, 0.0])
    )
    # Class 2 has the largest mean probability, and no vote.
    near = (Constant(1.0, -9, 0.99), Constant(-9, 1.0, 0.99))
    assert ensemble_logits(MeanProbabilities, *near).argmax() == 2
    assert torch.equal(ensemble_logits(MajorityVote, *near), torch.tensor([1.5, 1.0, 0.0]))


def test_mean_logits_and_probabilities() -> None:
    a, b = Constant(2, 0, -1), Constant(0, 1, 5)
    torch.testing.assert_close(ensemble_logits(MeanLogits, a, b), torch.tensor([1.0, 0.5, 2.0]))
    mean = (a.values.softmax(0) + b.values.softmax(0)) / 2
    torch.testing.assert_close(ensemble_logits(MeanProbabilities, a, b).softmax(0), mean)
    torch.testing.assert_close(ensemble_logits(MeanProbabilities, a, b).exp(), mean)
    far = ensemble_logits(MeanProbabilities, Constant(0, 500, 0), Constant(0, 300, 0))  # never log 0
    assert torch.isfinite(far).all()


def linear(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))


@pytest.mark.parametrize("kind", [MajorityVote, MeanLogits, MeanProbabilities])
def test_adaptive_view_is_mean(kind: type[Ensemble]) -> None:
    members, x = [linear(seed) for seed in range(3)], torch.rand(5, 1, 4, 4, requires_grad=True)
    ensemble = kind(members[0], members[1:])
    stand_in = (MeanLogits if kind is MeanLogits else MeanProbabilities)(members[0], members[1:])
    torch.testing.assert_close(adaptive(ensemble)(x), stand_in(x))
    gradient, adaptive_gradient = (
        torch.autograd.grad(model(x)[:, 0].sum(), x)[0] for model in (ensemble, adaptive(ensemble))
    )
    assert torch.equal(gradient, torch.zeros_like(x) if kind is MajorityVote else adaptive_gradient)


def test_adaptive_view_of_defended_members() -> None:
    members = [linear(0), defend(linear(1), "bit-depth")]
    x = torch.rand(4, 1, 4, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(adaptive(MeanLogits(members[0], members[1:]))(x)[:, 2].sum(), x)
    weights = (members[0][1].weight[2] + members[1].inner[1].weight[2]) / 2
    torch.testing.assert_close(gradient.flatten(1), weights.expand(4, -1))


def test_ensemble_white_box_and_transfer_from_member() -> None:
    """Opposite members: an attack on one of them leaves the mean of both unchanged."""
    plus, minus = nn.Linear(16, 2, bias=False), nn.Linear(16, 2, bias=False)
    w = torch.ones(2, 16) * torch.tensor([[1.0], [-1.0]])
    plus.weight.data = w * torch.where(torch.arange(16) < 8, 1.0, 0.0)
    minus.weight.data = w * torch.where(torch.arange(16) < 8, -1.2, 1.0)
    members = [nn.Sequential(nn.Flatten(), layer).requires_grad_(False) for layer in (plus, minus)]
    ensemble = MeanLogits(members[0], members[1:])
    x, y = torch.full((6, 1, 4, 4), 0.5), torch.zeros(6, dtype=torch.long)
    victim, cells = TargetModel("ensemble", ensemble), ResultCache(None, x, y)
    rows = {
        w: cells.run(GridPoint(parse_attack(w), victim, Threat("linf", 0.45))).row for w in ("fgsm", "fgsm@oblivious")
    }
    assert [(row["asr"], row["access"]) for row in rows.values()] == [(1, "gradients"), (0, "transfer")]
    assert all(row["forwards_per_image"] == row["backwards_per_image"] == 1 for row in rows.values())


# From the command line, saved and loaded


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A classifier, one behind two defenses, one of another image shape, one of another number of classes."""
    root, folders = tmp_path_factory.mktemp("members"), []
    kinds = (("mnist-a", 28, 4, None), ("mnist-b", 28, 4, "gaussian+bit-depth:bits=4"))
    for name, side, classes, defense in (*kinds, ("mnist-small", 20, 4, None), ("mnist-small", 28, 5, None)):
        torch.manual_seed(len(folders))
        model = defend(build_target(name, (1, side, side), classes).eval(), defense)
        save_target(model, root / str(len(folders)), "# card")
        folders.append(root / str(len(folders)))
    return folders


def test_members_are_loaded_and_saved_in_one_folder(folders: list[Path], tmp_path: Path) -> None:
    torch.manual_seed(9)
    target, x = build_target("mnist-small", (1, 28, 28), 4).eval(), torch.rand(3, 1, 28, 28)
    ensemble = defend(target, f"mean-logits:members={folders[0]},{folders[1]}+bit-depth:bits=5")
    coarse = (x * 31).round() / 31
    parts = [target(coarse), *(load_classifier(str(folder))(coarse) for folder in folders[:2])]
    torch.testing.assert_close(ensemble(x), torch.stack(parts).mean(0))

    save_target(ensemble, tmp_path / "saved", "# card")
    config = (tmp_path / "saved" / "config.json").read_text()
    assert str(folders[0].parent) not in config
    members = json.loads(config)["defenses"][0]["settings"]["members"]
    assert [member["name"] for member in members] == ["mnist-a", "mnist-b"]
    loaded = load_classifier(str(tmp_path / "saved"))
    assert torch.equal(loaded(x), ensemble(x))
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


@pytest.mark.parametrize("name", ["vote", "mean-logits", "mean-probabilities"])
def test_invalid_members_raise(name: str, folders: list[Path], tmp_path: Path) -> None:
    target = build_target("mnist-small", (1, 28, 28), 4).eval()
    for spec in (name, f"{name}:members=", f"{name}:members=,"):
        with pytest.raises(InputError, match=f"{name}:members must name at least one classifier to join, got none"):
            defend(target, spec)
    with pytest.raises(InputError, match="must be directories of saved classifiers, got 'nowhere'"):
        defend(target, f"{name}:members={folders[0]},nowhere")
    with pytest.raises(InputError, match=r"images of shape \(1, 28, 28\), got \(1, 20, 20\)"):
        defend(target, f"{name}:members={folders[2]}")
    with pytest.raises(InputError, match="must fit the classifier, expected classes 4, got 5"):
        defend(target, f"{name}:members={folders[3]}")


def test_rejecting_member_raises() -> None:
    rejecting = linear(0)
    rejecting.rejection_score = lambda x: x.flatten(1).sum(1)  # type: ignore[assignment]
    with pytest.raises(InputError, match="vote cannot join a classifier that rejects"):
        MajorityVote(linear(1), [rejecting])


@pytest.mark.parametrize("kind", [MajorityVote, MeanLogits, MeanProbabilities])
def test_in_place_member_does_not_affect_others(kind: type[Ensemble]) -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = linear(0)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.inner(x.neg_())
            return logits

    class Copying(InPlace):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.clone())

    x = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    before = x.clone()
    changing, copying = kind(InPlace(), [linear(1)]), kind(Copying(), [linear(1)])
    torch.testing.assert_close(changing(x), copying(x))
    torch.testing.assert_close(adaptive(changing)(x), adaptive(copying)(x))
    assert torch.equal(x, before)
