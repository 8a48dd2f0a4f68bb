"""train/classifier.py as its users run it: launched, stopped, resumed, on two processes, given nonsense."""

import importlib
import re
import signal
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from advgan.classifiers import build_target, finetune_target, load_target, save_target
from advgan.core.config import run
from tests.conftest import run_ranks, stop_after_first_state

STEPS = 24  # of 20 images: six make an epoch of `digits`


@pytest.fixture
def words(digits: Path) -> list[str]:
    """The flags of a run that takes seconds."""
    flags = ["--batch-size", "20", "--max-steps", str(STEPS), "--threads", "1"]
    return ["--dataset", "folder", "--data-dir", str(digits), *flags]


@pytest.fixture(scope="module")
def classifier() -> ModuleType:
    """The program as a module."""
    return importlib.import_module("advgan.training.classifier")


def weights(run_directory: Path) -> dict[str, torch.Tensor]:
    return load_file(run_directory / "classifier" / "model.safetensors")


def test_the_program_trains_a_classifier_with_card_and_log(script, words, tmp_path):
    done = script("train/classifier.py", *words, "--output-dir", tmp_path)
    assert "tensorboard --logdir" in done.stdout
    target = load_target("mnist-c", tmp_path)
    assert (target.image_shape, target.num_classes) == ((1, 28, 28), 3)

    events = EventAccumulator(str(tmp_path / "logs" / "classifier")).Reload()
    validated = [scalar.value for scalar in events.Scalars("accuracy/validation")]
    assert len(validated) == STEPS // 6
    assert max(validated) > 0.9
    for name in ("loss", "accuracy", "learning rate", "images per second"):
        assert len(events.Scalars(f"train/{name}")) >= STEPS // 10
    assert "settings/text_summary" in events.Tags()["tensors"]

    card = (tmp_path / "classifier" / "README.md").read_text()
    tested = re.search(r"test accuracy (\S+) \(n = 48\)", done.stdout)
    assert tested is not None
    assert f"accuracy, test (48 images, seen once) | {tested[1]} |" in card
    assert f"accuracy, validation (48 images, chosen on them) | {max(validated):.2%} |" in card
    for promise in ("120 images of folder, classes bottom, middle, top", "24 steps of 20 images", "--seed 0"):
        assert promise in card
    assert not [p for p in tmp_path.rglob("*") if p.name.startswith(".")]  # nothing half-written


@pytest.mark.program
def test_stopped_and_resumed_equals_uninterrupted(script, words, tmp_path):
    words += ["--max-steps", "60"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    script("train/classifier.py", *words, "--output-dir", whole)
    code, output = stop_after_first_state(
        "train/classifier.py",
        *words,
        "--output-dir",
        parts,
        states=parts / "state" / "classifier",
        number=signal.SIGTERM,
    )
    assert code == 143
    assert "of 60; the same command with --resume continues" in output
    assert "not measured (the run did not end)" in (parts / "classifier" / "README.md").read_text()
    script("train/classifier.py", *words, "--output-dir", parts, "--resume")
    first, second = weights(whole), weights(parts)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    logs = [EventAccumulator(str(d / "logs" / "classifier")).Reload().Scalars("train/loss") for d in (whole, parts)]
    assert [(s.step, s.value) for s in logs[0]] == [(s.step, s.value) for s in logs[1]]


def test_two_processes_share_the_work(words, tmp_path):
    words += ["--target", "cifar-resnet20", "--image-size", "16", "--max-steps", "12", "--flip"]
    folder, outputs = tmp_path / "run", tmp_path / "outputs"
    output = run_ranks("train/classifier.py", *words, "--output-dir", folder, outputs=outputs)
    assert output.count("test accuracy") == 1
    assert "test accuracy" not in (outputs / "1.txt").read_text()
    assert len(list((folder / "state" / "classifier").glob("step-*/random_states_*.pkl"))) == 2
    assert load_target("cifar-resnet20", folder).image_shape == (1, 16, 16)


def test_nan_stops_with_the_step_and_keeps_the_last_good_classifier(classifier, words, tmp_path, monkeypatch):
    steps, cross_entropy = [], F.cross_entropy

    def at_the_ninth(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        steps.append(1)
        return cross_entropy(logits, y) * (float("nan") if len(steps) == 9 else 1)

    monkeypatch.setattr(F, "cross_entropy", at_the_ninth)
    with pytest.raises(SystemExit, match=r"error: step 9: the loss is not finite.*last good classifier is in"):
        run(classifier.main, classifier.Settings, [*words, "--output-dir", str(tmp_path)])
    assert all(torch.isfinite(w).all() for w in weights(tmp_path).values())
    assert [p.name for p in (tmp_path / "state" / "classifier").iterdir()] == ["step-0000006"]


def test_nothing_made_is_lost_and_settings_stay_those_of_the_run(classifier, words, tmp_path, capsys):
    words += ["--max-steps", "2", "--output-dir", str(tmp_path)]
    run(classifier.main, classifier.Settings, words)
    made = weights(tmp_path)
    for extra, message in (
        ([], "already holds a classifier run: continue it with --resume"),
        (["--resume", "--weight-decay", "0.1"], "but weight_decay was 0.0001, now 0.1"),
        (["--resume", "--target", "mnist-a"], "but target was mnist-c, now mnist-a"),
    ):
        with pytest.raises(SystemExit) as exit_:
            run(classifier.main, classifier.Settings, words + extra)
        assert exit_.value.code == 2
        assert message in capsys.readouterr().err
    run(classifier.main, classifier.Settings, [*words, "--resume"])  # at its end already: tested again, no step more
    assert all(torch.equal(value, made[name]) for name, value in weights(tmp_path).items())
    run(classifier.main, classifier.Settings, [*words, "--overwrite", "--seed", "1"])
    assert not torch.equal(weights(tmp_path)["layers.0.weight"], made["layers.0.weight"])


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A residual net for five classes, its batch norm used to images."""
    torch.manual_seed(3)
    model = build_target("cifar-resnet20", (1, 28, 28), 5)
    model(torch.rand(20, 1, 28, 28))
    directory = tmp_path_factory.mktemp("pretrained")
    save_target(model.eval(), directory / "classifier", "# A test's")
    return directory


def test_a_frozen_backbone_stays_bit_for_bit_and_the_head_is_new_and_learns(classifier, words, pretrained, tmp_path):
    words += ["--target", "cifar-resnet20", "--init-weights", str(pretrained), "--max-steps", "6", "--output-dir"]
    run(classifier.main, classifier.Settings, [*words, str(tmp_path / "head"), "--freeze-backbone"])
    run(classifier.main, classifier.Settings, [*words, str(tmp_path / "all")])
    before, head, everything = (weights(path) for path in (pretrained, tmp_path / "head", tmp_path / "all"))
    assert head["linear.weight"].shape == (3, 64)
    torch.manual_seed(0)  # the run's seed: the head as it began
    first = finetune_target("cifar-resnet20", pretrained, (1, 28, 28), 3, freeze_backbone=True)
    assert [name for name, p in first.named_parameters() if p.requires_grad] == ["linear.weight", "linear.bias"]
    assert not torch.equal(head["linear.weight"], first.head.weight)
    for name, value in before.items():
        if not name.startswith("linear."):
            assert torch.equal(head[name], value), name
    assert not torch.equal(everything["conv1.weight"], before["conv1.weight"])
    assert not torch.equal(everything["bn1.running_mean"], before["bn1.running_mean"])
    assert "--init-weights" in (tmp_path / "head" / "classifier" / "README.md").read_text()
    assert "--freeze-backbone" in (tmp_path / "head" / "classifier" / "README.md").read_text()


@pytest.mark.parametrize(("name", "shape"), [("mnist-a", (1, 28, 28)), ("cifar-resnet20", (3, 16, 16))])
def test_the_head_is_the_layer_that_gives_the_logits(name, shape):
    model = build_target(name, shape, 7)
    assert model.head.out_features == 7
    assert sum(p.numel() for p in model.head.parameters()) == 7 * (model.head.in_features + 1)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--target", "mnist-z"], "unknown target 'mnist-z', expected one of mnist-a"),
        (["--target", "mnist-c", "--image-size", "12"], "12x12 is too small"),
        (["--dataset", "imagenet"], "unknown data set 'imagenet'"),
        (["--data-dir", "nowhere"], "nowhere"),
        (["--batch-size", "121"], "batch size must be in 1..120, the number of training images, got 121"),
        (["--batch-size", "0"], "batch.size must be .*, got 0"),
        (["--epochs", "0"], "epochs must be positive, got 0"),
        (["--max-steps", "0"], "max_steps must be at least 1, got 0"),
        (["--learning-rate", "nan"], "learning_rate must be positive, got nan"),
        (["--shift", "-1"], "shift must not be negative, got -1"),
        (["--seed", "-1"], "seed must not be negative, got -1"),
        (["--threads", "0"], "threads must be at least 1, got 0"),
        (["--freeze-backbone"], "freeze_backbone needs init_weights"),
        (["--init-weights", "nowhere"], "no target weights at nowhere: expected a file, .* found nothing"),
        (["--init-weights", "PRETRAINED"], "holds target cifar-resnet20, expected mnist-c"),
        (["--resume"], "nothing to resume"),
        (["--output-dir", "/proc/advgan"], "cannot write to output directory /proc/advgan"),
        (["--recipe", "nowhere.yaml"], "cannot read recipe nowhere.yaml"),
    ],
)
def test_nonsense_is_one_line_and_exit_code_2_and_leaves_nothing(
    classifier, words, pretrained, tmp_path, capsys, extra, message
):
    output = tmp_path / "run"
    extra = [str(pretrained) if word == "PRETRAINED" else word for word in extra]
    with pytest.raises(SystemExit) as exit_:
        run(classifier.main, classifier.Settings, [*words, "--output-dir", str(output), *extra])
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert re.search(message, error)
    assert not output.exists() or not list(output.iterdir())


def test_help_documents_every_flag_and_exit_code_2_reaches_the_shell(script, classifier):
    text = script("train/classifier.py", "--help").stdout
    for flag in classifier.Settings.__dataclass_fields__:
        assert f"--{flag.replace('_', '-')}" in text
    done = script("train/classifier.py", "--epochs", "-1", code=2)
    assert done.stderr.endswith("error: epochs must be positive, got -1\n")
