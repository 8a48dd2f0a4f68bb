"""Training of detectors in memory and as a program: a detector rejects at most the given fraction of clean images."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import mannwhitneyu
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from advgan.classifiers import load_target
from advgan.core.config import run
from advgan.core.errors import InputError, NotFiniteError
from advgan.data import load_data
from advgan.defenses import load_classifier, load_detector
from advgan.defenses.detection import scores
from advgan.evaluation.statistics import auc, roc
from advgan.models.discriminator import Discriminator
from advgan.models.generator import Generator
from advgan.training import detector as program_module
from advgan.training.detector import adversarial_images, named_attacks, train_detector
from tests.conftest import Run


@pytest.fixture
def words(digits: Path, classifier: Path, tmp_path: Path) -> list[str]:
    flags = {"dataset": "folder", "data-dir": digits, "target": "mnist-small", "target-weights": classifier}
    flags |= {"threads": 1, "output-dir": tmp_path / "out", "eps": 0.5}
    return [str(word) for name, value in flags.items() for word in (f"--{name}", value)]


def test_auc_is_mann_whitney_statistic() -> None:
    clean, adversarial = torch.tensor([0.1, 0.2, 0.2, 0.5, 0.9]), torch.tensor([0.2, 0.6, 0.7, 0.95])
    area, low, high = auc(clean, adversarial)
    assert area == pytest.approx(mannwhitneyu(adversarial, clean).statistic / 20)
    assert 0 < low < area < high <= 1
    assert auc(clean, clean + 1) == (1, 1, 1)
    assert auc(clean + 1, clean)[0] == 0
    assert auc(clean, clean)[0] == pytest.approx(0.5)
    assert auc(clean, adversarial[:1]) == (pytest.approx(2 / 5), 0, 1)


def test_roc_at_given_false_positive_rates() -> None:
    clean, adversarial = torch.arange(10.0), torch.tensor([8.5, 7.5, 3.0, 20.0])
    # None rejected: above 9; one: above 8; two: above 7; all.
    assert roc(clean, adversarial, (0, 0.05, 0.1, 0.2, 1)) == [0.25, 0.25, 0.5, 0.75, 1]


@pytest.fixture
def images(digits: Path) -> tuple[torch.Tensor, torch.Tensor]:
    return next(load_data("folder", digits).train.batches(120))


def shifted(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Far from its class: rows rolled, then cut to the ball of radius 0.5."""
    return (x + (x.roll(8, 2) - x).clamp(-0.5, 0.5)).clamp(0, 1)


def test_train_detector_in_memory(classifier: Path, images: tuple[torch.Tensor, torch.Tensor]) -> None:
    model = load_target("mnist-small", classifier).train()
    (x, y), before = images, torch.get_rng_state()
    settings = {"kind": "binary", "eps": 0.5, "fpr": 0.1, "steps": 60, "batch_size": 16}
    detector = train_detector(model, (x, y), x[:40], ["fgsm", shifted], **settings)
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)
    assert not detector.training
    assert scores(detector, model, x[:40]).gt(detector.threshold).sum() <= 4
    ((_, attack),) = named_attacks(["fgsm"], model.eval(), program_module.DetectorConfig(eps=0.5))
    x_adv, success = adversarial_images(attack, model, x, y)
    assert success.any()
    assert auc(scores(detector, model, x), scores(detector, model, x_adv[success]))[0] > 0.9
    again = train_detector(model, (x, y), x[:40], ["fgsm", shifted], **settings)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in detector.state_dict().items())


@pytest.mark.parametrize("progress", [True, False])
def test_log_file_shows_the_steps_of_a_detector(
    progress: bool,
    classifier: Path,
    images: tuple[torch.Tensor, torch.Tensor],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("advgan.core.progress.FIRST_LINE_SECONDS", 0)
    model = load_target("mnist-small", classifier)
    train_detector(model, images, images[0], [shifted], kind="binary", eps=0.5, steps=2, progress=progress)
    assert ("detector: 1 of 2 steps" in capsys.readouterr().out) == progress


def test_train_detector_of_function_and_generator(images: tuple[torch.Tensor, torch.Tensor], classifier: Path) -> None:
    model = load_target("mnist-small", classifier)
    detector = train_detector(lambda x: model(x), None, images, fpr=0.5)
    assert (detector.kind, detector.threshold.isfinite().item()) == ("feature-squeezing", True)
    made = Discriminator(1, width=8)
    detector = train_detector(model, None, images[0], discriminator=made, kind="discriminator")
    assert torch.equal(scores(detector, model, images[0][:4]), -made.eval()(images[0][:4]).detach())
    names = [name for name, _ in named_attacks([Generator(eps=0.3)], model, program_module.DetectorConfig())]
    assert names == ["advgan"]


def test_a_model_that_returns_no_logits_is_refused() -> None:
    with pytest.raises(InputError, match=r"must return a tensor of logits, got tuple with \[0\] \(2, 3\)"):
        train_detector(lambda x: (x.flatten(1)[:, :3],), None, torch.rand(9, 1, 4, 4))


def outside(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return 1 - x


@pytest.mark.parametrize(
    ("attacks", "settings", "message"),
    [
        ([outside], {}, "attack outside returns images that are no adversarial examples: linf"),
        ([], {}, "kind binary is trained on adversarial images"),
        (["sorcery"], {}, "unknown attack 'sorcery'"),
        ([Generator(eps=0.1)], {}, "eps"),
        (["fgsm"], {"kind": "discriminator", "steps": 600}, "kind discriminator: expected"),
        (["fgsm"], {"fpr": 2}, "fpr must be in"),
        ("fgsm", {"kind": "squeeze"}, "kind must be feature-squeezing or binary or discriminator, got 'squeeze'"),
        ("sorcery", {}, "unknown attack 'sorcery'"),
        (["fgsm"], {"fprs": 0.1}, "unknown setting 'fprs'; did you mean fpr"),
    ],
)
def test_train_detector_raises(
    attacks: list[Any],
    settings: dict[str, Any],
    message: str,
    classifier: Path,
    images: tuple[torch.Tensor, torch.Tensor],
) -> None:
    model = load_target("mnist-small", classifier)
    with pytest.raises(InputError, match=message):
        train_detector(model, images, images, attacks, **{"kind": "binary", "steps": 2} | settings)


def test_program_of_binary_detector(script: Run, words: list[str], digits: Path, tmp_path: Path) -> None:
    call = [
        "train/detector.py",
        *words,
        "--kind",
        "binary",
        "--attacks",
        "fgsm",
        "noise-sign",
        "--steps",
        "40",
        "--batch-size",
        "16",
    ]
    done = script(*call)
    assert "--defense reject:detector=" in done.stdout
    folder = tmp_path / "out" / "detector"
    assert {file.name for file in folder.iterdir()} == {
        "config.json",
        "model.safetensors",
        "README.md",
        "training.json",
    }
    summary = json.loads((folder / "training.json").read_text())
    assert summary["training_seconds"] > 0
    assert summary["losses"][-1] < summary["losses"][0]
    data, found = load_data("folder", digits), load_detector(tmp_path / "out")
    x, _ = next(data.validation.batches(48))
    clean = scores(found, torch.nn.Identity(), x)
    assert int((clean > found.threshold).sum()) == int(0.05 * 48) == round(summary["fpr_validation"] * 48)
    card = (folder / "README.md").read_text()
    for promise in ("AUC", "clean test images rejected (n = 48)", "--attacks fgsm noise-sign"):
        assert promise in card

    again = script(*call, code=2)
    assert "already holds a detector run: replace it with --overwrite" in again.stderr
    script(*call, "--overwrite")
    same = load_detector(tmp_path / "out")
    assert all(torch.equal(same.state_dict()[name], value) for name, value in found.state_dict().items())


def test_losses_are_logged_during_the_training(words: list[str], tmp_path: Path, monkeypatch: Any) -> None:
    def fail(values: dict[str, float], step: int, cause: str) -> None:
        if step == 22:
            raise NotFiniteError("stopped")

    monkeypatch.setattr(program_module.training, "check_finite", fail)
    with pytest.raises(SystemExit):
        run(program_module.main, program_module.Settings, [*words, "--kind", "binary", "--steps", "30"])
    events = EventAccumulator(str(tmp_path / "out" / "logs" / "detector")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [0, 10, 20]


def test_program_of_feature_squeezing_without_training(
    words: list[str], digits: Path, classifier: Path, tmp_path: Path
) -> None:
    run(program_module.main, program_module.Settings, [*words, "--fpr", "0.1", "--attacks", "fgsm"])
    summary = json.loads((tmp_path / "out" / "detector" / "training.json").read_text())
    assert (summary["training_seconds"], summary["losses"]) == (0, [])
    assert summary["fpr_validation"] <= 0.1
    defense = f"reject:detector={tmp_path / 'out'}"
    rejecting = load_classifier("mnist-small", classifier, defense, image_shape=(1, 28, 28), num_classes=3)
    x, _ = next(load_data("folder", digits).validation.batches(48))
    assert (rejecting.rejection_score(x) > 0).double().mean().item() == pytest.approx(summary["fpr_validation"])


def test_program_of_discriminator(words: list[str], classifier: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    made = Discriminator(1, width=8).eval()
    made.save(tmp_path / "run" / "discriminator")
    Generator(eps=0.5, width=8, depth=1).save_pretrained(tmp_path / "run" / "generator")
    words += ["--kind", "discriminator", "--discriminator", str(tmp_path / "run"), "--attacks", "fgsm"]
    run(program_module.main, program_module.Settings, words)
    found = load_detector(tmp_path / "out")
    x = torch.rand(4, 1, 28, 28)
    target = load_target("mnist-small", classifier)
    assert torch.equal(scores(found, target, x), -made(x).detach())
    summary = json.loads((tmp_path / "out" / "detector" / "training.json").read_text())
    assert [row["attack"] for row in summary["attacks"]] == ["fgsm", "advgan"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--fpr", "0"], "fpr must be in (0, 1), the fraction of clean images rejected, got 0.0"),
        (["--fpr", "1"], "fpr must be in (0, 1)"),
        (["--steps", "0"], "steps must be positive, got 0"),
        (["--max-samples", "1"], "max_samples must be at least 2"),
        (
            ["--kind", "binary", "--attacks", "fgsm", "pgd", "ifgsm", "--max-samples", "2"],
            "at least 3, an image for",
        ),
        (["--steps", "40"], "steps does nothing with kind feature-squeezing, got 40"),
        (["--kind", "discriminator"], "kind discriminator: expected a discriminator, got none"),
        (["--discriminator", "run"], "kind feature-squeezing: expected no discriminator, got run"),
        (["--kind", "discriminator", "--discriminator", "nowhere"], "no generator in nowhere"),
        (["--kind", "binary", "--attacks", "--threads", "1"], "kind binary is trained on adversarial images"),
        (["--kind", "binary", "--attacks", "noise-sign:magnitude=0.01"], "got none that fools it on any of 120 images"),
        (["--attacks", "sorcery"], "unknown attack 'sorcery'"),
        (["--defense", "reject:detector=nowhere"], "no detector in nowhere"),
    ],
)
def test_program_rejects_invalid_settings(
    flags: list[str], message: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit:
        run(program_module.main, program_module.Settings, [*words, *flags])
    assert exit.value.code == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("note: ")]
    assert message in error
