"""The contract of every defense: a classifier again, deterministic or declared random, saved and loaded.

The mathematics of each is tested in test_preprocessing.py, test_ensemble.py, test_detectors.py, and others.
"""

from pathlib import Path

import pytest
import torch

from advgan.attacks import fgsm, parse_attack
from advgan.classifiers import build_target, check_target, fingerprint, load_target, save_target
from advgan.core.errors import InputError
from advgan.core.threat_model import Threat
from advgan.data import load_data
from advgan.defenses import (
    DEFENSES,
    adaptive,
    attack_view,
    defend,
    is_random,
    load_classifier,
    parse_classifiers,
    reseed,
    unwrap,
)
from advgan.defenses.detection import FeatureSqueezing
from advgan.evaluation import GridPoint, ResultCache, TargetModel
from advgan.evaluation.loading import load_targets

SPECS = {"bit-depth": "bit-depth:bits=2"}  # settings under which a defense is tried here, where it needs some


@pytest.fixture(autouse=True, scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A detector directory for `reject`."""
    directory = tmp_path_factory.mktemp("detector")
    save_target(FeatureSqueezing((1, 28, 28)), directory, "# card", {})
    SPECS["reject"] = f"reject:detector={directory}"


@pytest.fixture(scope="module", autouse=True)
def members(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Saved classifiers for the ensembles."""
    torch.manual_seed(1)
    directory = tmp_path_factory.mktemp("member")
    save_target(defend(build_target("mnist-b", (1, 28, 28), 4).eval(), "gaussian"), directory, "# card")
    SPECS.update({name: f"{name}:members={directory}" for name in ("vote", "mean-logits", "mean-probabilities")})


@pytest.fixture
def target() -> torch.nn.Module:
    torch.manual_seed(0)
    return build_target("mnist-small", (1, 28, 28), 4).eval()


@pytest.fixture
def x() -> torch.Tensor:
    return torch.rand(5, 1, 28, 28, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", DEFENSES)
def test_defended_classifier_passes_check_target(name: str, target: torch.nn.Module, x: torch.Tensor) -> None:
    defended = defend(target, SPECS.get(name, name))
    logits = check_target(defended, x, 4)(x)
    assert logits.shape == (5, 4)
    assert logits.dtype == torch.float32
    assert unwrap(defended) is target
    assert (defended.name, defended.image_shape, defended.num_classes) == ("mnist-small", (1, 28, 28), 4)
    assert not any(module.training for module in defended.modules())


@pytest.mark.parametrize("name", DEFENSES)
def test_output_is_deterministic_or_declared_random(name: str, target: torch.nn.Module, x: torch.Tensor) -> None:
    defended = defend(target, SPECS.get(name, name))
    reseed(defended, 3)
    first, second = defended(x), defended(x)
    assert torch.equal(first, second) != is_random(defended)
    reseed(defended, 3)
    assert torch.equal(first, defended(x))


@pytest.mark.parametrize("name", DEFENSES)
def test_adaptive_view_has_input_gradient(name: str, target: torch.nn.Module, x: torch.Tensor) -> None:
    view = adaptive(defend(target, SPECS.get(name, name)))
    x = x.requires_grad_()
    assert view(x).shape == (5, 4)
    (gradient,) = torch.autograd.grad(view(x).logsumexp(1).sum(), x)
    assert gradient.flatten(1).abs().amax(1).gt(0).all()


@pytest.mark.parametrize("name", DEFENSES)
def test_save_and_load_keep_logits_and_fingerprint(
    name: str, target: torch.nn.Module, x: torch.Tensor, tmp_path: Path
) -> None:
    defended = defend(target, SPECS.get(name, name))
    save_target(defended, tmp_path / "saved", "# card")
    for loaded in (load_classifier("mnist-small", tmp_path / "saved"), load_classifier(str(tmp_path / "saved"))):
        for model in (defended, loaded):
            reseed(model, 0)
        assert torch.equal(loaded(x), defended(x))
        assert fingerprint(loaded) == fingerprint(defended) != fingerprint(target)
    with pytest.raises(InputError, match="behind a defense"):
        load_target("mnist-small", tmp_path / "saved")


def test_last_defense_is_applied_first(target: torch.nn.Module, x: torch.Tensor) -> None:
    defended = defend(target, "bit-depth:bits=1+bit-depth:bits=3")
    assert [d["settings"]["bits"] for d in defended.config["defenses"]] == [1, 3]
    coarse = ((x * 7).round() / 7).round()
    assert torch.equal(defended(x), target(coarse))


def test_attack_views(target: torch.nn.Module, x: torch.Tensor) -> None:
    defended, y = defend(target, "bit-depth"), torch.zeros(5, dtype=torch.long)
    moved = {view: (fgsm(attack_view(defended, view), x, y, eps=0.1) - x).abs().max() for view in ("naive", "adaptive")}
    assert moved == {"naive": 0, "adaptive": pytest.approx(0.1)}
    assert attack_view(defended, "oblivious") is target
    assert attack_view(target, "adaptive") is attack_view(target, "naive") is attack_view(target, "oblivious") is target


def test_gradient_attacks_are_adaptive_by_default(target: torch.nn.Module, x: torch.Tensor) -> None:
    defended = defend(target, "bit-depth")
    victim, y = TargetModel("defended", defended), defended(x).argmax(1)
    rows = {}
    for word in ("fgsm", "fgsm@naive", "fgsm@oblivious"):
        rows[word] = ResultCache(None, x, y).run(GridPoint(parse_attack(word), victim, Threat("linf", 0.1))).row
    assert [row["linf_max"] for row in rows.values()] == [pytest.approx(0.1), 0, pytest.approx(0.1)]
    assert [row["access"] for row in rows.values()] == ["gradients", "gradients", "transfer"]
    assert all(row["forwards_per_image"] == row["backwards_per_image"] == 1 for row in rows.values())


@pytest.mark.parametrize("word", ["square:queries=20", "noise-sign:draws=20"])
def test_gradient_free_attacks_query_the_defense(word: str, target: torch.nn.Module, x: torch.Tensor) -> None:
    defended, n_forwards = defend(target, "labels-only"), {"defense": 0, "behind it": 0}
    for name, model in zip(n_forwards, (defended, target), strict=True):

        def count(module: object, inputs: object, logits: torch.Tensor, name: str = name) -> None:
            n_forwards[name] += len(logits)

        model.register_forward_hook(count)
    ResultCache(None, x, defended(x).argmax(1)).run(
        GridPoint(parse_attack(word), TargetModel("it", defended), Threat("linf", 0.05))
    )
    assert n_forwards["defense"] == n_forwards["behind it"] > 5 * 20


def test_random_defense_repeats_with_same_seed_only(target: torch.nn.Module, x: torch.Tensor, tmp_path: Path) -> None:
    torch.manual_seed(5)
    other, threat = build_target("mnist-b", (1, 28, 28), 4).eval(), Threat("linf", 0.1)
    cells = {
        "kept": ResultCache(tmp_path, x, target(x).argmax(1), keep=5),
        "new": ResultCache(None, x, target(x).argmax(1), keep=5),
    }
    drawing = {"target": TargetModel("it", defend(target, "noisy-gradients"))}, {
        "target": TargetModel("plain", target), "source": TargetModel("source", defend(other, "random-pad"))
    }  # fmt: skip
    for who in drawing:
        x_advs = [cells[where].run(GridPoint(parse_attack("fgsm@naive"), threat=threat, seed=seed, **who)).x_adv
                   for where, seed in (("kept", 0), ("new", 0), ("kept", 1))]  # fmt: skip
        assert torch.equal(x_advs[0], x_advs[1])
        assert not torch.equal(x_advs[0], x_advs[2])
    assert not cells["kept"].cache_hits


def test_labels_of_saved_classifiers_use_folder_names(tmp_path: Path) -> None:
    data = load_data("mnist5k")
    for name in ("first", "second"):
        save_target(build_target("mnist-b").eval(), tmp_path / name, "# card")
    names = [str(tmp_path / "first"), "mnist-b", f"mnist-b@{tmp_path / 'second'}"]
    specs = parse_classifiers(names, [tmp_path / "second"], ["none", "bit-depth", "none"])
    targets, _ = load_targets(specs, data, torch.device("cpu"))
    labels = [target.label for target in targets]
    assert labels == ["mnist-b first", "mnist-b second + bit-depth", "mnist-b second"]


def test_fingerprint_depends_on_defenses(x: torch.Tensor) -> None:
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 4))
    prints = {fingerprint(defend(model, spec)) for spec in (None, "bit-depth:bits=1", "bit-depth:bits=2", "prune")}
    assert len(prints) == 4


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("labels-only:settings=1", "cannot take 'settings=1', expected setting=value with settings none"),
        ("bit-depth:bits=0", "bits must be from 1 to 8, got 0"),
        ("bit-depth:bits=x", "bit-depth:bits must be of type int, got 'x'"),
        ("bit-depth:levels=3", "cannot take 'levels=3', expected setting=value with settings bits"),
        ("armour", "unknown defense 'armour', expected some of bit-depth"),
    ],
)
def test_invalid_defense_spec_raises(target: torch.nn.Module, spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        defend(target, spec)


def test_view_of_gradient_free_attack_raises() -> None:
    for word in ("square@naive", "fgsm@hopeful"):
        with pytest.raises(InputError, match="has no such view"):
            parse_attack(word)
