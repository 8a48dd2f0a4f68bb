"""Defensive distillation: its mathematics, train/distill.py and eval/distillation.py."""

import csv
import importlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from advgan import Generator, training
from advgan.classifiers import load_target
from advgan.core.config import run
from advgan.core.errors import InputError
from advgan.core.json_files import read_sealed
from advgan.core.program import program_module
from advgan.data import load_data
from advgan.defenses.distillation import soft_cross_entropy, soft_labels
from advgan.evaluation.evaluate import Result
from advgan.evaluation.instrumentation import ModelSnapshot
from advgan.experiments.distillation.analysis import all_targets, amplitude, amplitude_statistics
from advgan.experiments.distillation.report import PUBLISHED
from advgan.report.figures.plot_groups import safe
from tests.conftest import ROOT, Run

distill, distillation = (
    importlib.import_module("advgan.training.distillation"),
    importlib.import_module("advgan.experiments.distillation.run"),
)
Call = Callable[..., dict[str, Any]]
CW = "carlini-wagner:steps=5:binary_steps=2"
STEPS = 9  # of 20 images, for each net: six make an epoch of `digits`


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# The mathematics


def test_soft_labels_by_hand() -> None:
    for temperature in (0.5, 1.0, 20.0, 100.0):
        z = temperature * torch.tensor([[3.0, 1.0], [1.0, 1.0]]).log()
        assert torch.allclose(soft_labels(z, temperature), torch.tensor([[0.75, 0.25], [0.5, 0.5]]))
    z = 5 * torch.randn(4, 10, generator=seeded())
    assert torch.equal(soft_labels(z, 1), z.softmax(1))
    assert torch.allclose(soft_labels(z, 1e6), torch.full((4, 10), 0.1), atol=1e-5)
    entropies = [-(p * p.log()).sum(1) for p in (soft_labels(z, t) for t in (1, 2, 5, 10, 100))]
    assert (torch.stack(entropies).diff(dim=0) > 0).all(), "the larger T, the softer"


@pytest.mark.parametrize("temperature", [0.5, 1.0, 20.0])
def test_the_soft_loss_and_its_gradient(temperature: float) -> None:
    z, q = (torch.randn(5, 7, generator=seeded(i)) for i in (0, 1))
    q, z = q.softmax(1), z.requires_grad_()
    loss = soft_cross_entropy(z, q, temperature)
    p = soft_labels(z, temperature)
    assert torch.allclose(loss, -(q * p.log()).sum(1), atol=1e-5)
    (gradient,) = torch.autograd.grad(loss.sum(), z)
    assert torch.allclose(gradient, (p - q) / temperature, atol=1e-6)
    y = torch.tensor([0, 6, 3, 3, 1])
    hard = soft_cross_entropy(z, F.one_hot(y, 7).float(), temperature)
    assert torch.allclose(hard, F.cross_entropy(z / temperature, y, reduction="none")), "the teacher's loss"
    (gradient,) = torch.autograd.grad(soft_cross_entropy(z, p.detach(), temperature).sum(), z)
    assert gradient.abs().max() < 1e-6, "a student that says what the teacher says has nothing to learn"


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_no_such_temperature(temperature: float) -> None:
    z = torch.zeros(1, 2)
    for call in (lambda: soft_labels(z, temperature), lambda: soft_cross_entropy(z, z, temperature)):
        with pytest.raises(InputError, match=f"temperature must be positive, got {temperature}"):
            call()


def test_the_amplitude_of_a_linear_models_softmax() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).eval()
    x = torch.rand(70, 1, 4, 4, generator=seeded())
    snapshot = ModelSnapshot(model)
    found = amplitude(model, x)
    assert snapshot.changes() == []
    with torch.no_grad():
        p, w = model(x).softmax(1), model[1].weight
        jacobian = p[:, :, None] * (w - (p @ w)[:, None])  # dp_j/dx = p_j (w_j - sum_i p_i w_i)
        assert torch.allclose(found, jacobian.abs().amax((1, 2)), atol=1e-6)
        model[1].weight *= 1e5
    told = amplitude_statistics(amplitude(model, x))
    assert (told["n"], told["zero"], told["small"], told["median"]) == (70, *[pytest.approx(1, abs=0.1)] * 2, 0)
    told = amplitude_statistics(torch.tensor([0.0, 5e-4, 2e-3, 1.0]))
    assert (told["zero"], told["small"], told["mean"]) == (0.25, 0.5, pytest.approx(0.250625))


def test_jsma_toward_every_class_taken_together() -> None:
    def toward(y_target: int, fooled: list[int], l0: list[int], status: str = "ok") -> Result:
        counts = (torch.tensor([0, 1, 2, 0]) != y_target) & torch.tensor([True, True, True, False])  # the last is wrong
        records = {"counts": counts, "fooled": torch.tensor(fooled).bool() & counts, "l0": torch.tensor(l0).float()}
        row = {"status": status, "n_attacked": int(counts.sum())}
        return Result(row, {} if status != "ok" else records, torch.empty(0))

    results = [toward(0, [1, 1, 0, 0], [0, 4, 0, 0]), toward(1, [1, 1, 0, 1], [8, 0, 0, 2])]
    results.append(toward(2, [0, 1, 1, 0], [0, 2, 0, 0]))
    found = all_targets(results, pixels=100, limit=14)
    assert (found["n"], found["asr"]) == (6, 0.5)
    assert found["changed"] == pytest.approx((4 + 8 + 2) / 3 / 100)
    assert found["robustness"] == pytest.approx((8 + 2 + 14) / 3 / 100), "the nearest class; never fooled: the limit"
    assert found["asr_low"] < 0.5 < found["asr_high"]
    none = all_targets([toward(t, [0] * 4, [0] * 4) for t in range(3)], pixels=100, limit=14)
    assert (none["asr"], none["changed"], none["robustness"]) == (0, None, pytest.approx(0.14))
    assert set(all_targets([*results, toward(0, [0] * 4, [0] * 4, "failed: no luck")], 100, 14).values()) == {None}
    nobody = Result({"status": "failed: no image to attack", "n_attacked": 0}, {}, torch.empty(0))
    assert all_targets([nobody, *results], 100, 14) == found
    assert set(all_targets([nobody], 100, 14).values()) == {None}


# train/distill.py


@pytest.fixture
def words(digits: Path) -> list[str]:
    """The flags of a run that takes seconds."""
    flags = ["--batch-size", "20", "--max-steps", str(STEPS), "--temperature", "20", "--threads", "1"]
    return ["--dataset", "folder", "--data-dir", str(digits), "--target", "mnist-b", *flags]


@pytest.fixture
def train(words: list[str], tmp_path: Path) -> Call:
    """Run it in this process and read training.json, {} where there is none."""

    def run_it(*more: object, out: str = "out") -> dict[str, Any]:
        run(distill.main, distill.Settings, [*words, "--output-dir", str(tmp_path / out), *map(str, more)])
        path = tmp_path / out / "classifier" / "training.json"
        return json.loads(path.read_text()) if path.exists() else {}

    return run_it


@pytest.fixture(scope="module")
def runs(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Runs by temperature, long enough for nets that are right."""
    found = {t: tmp_path_factory.mktemp("runs") / f"T-{t}" for t in (1, 100)}
    for temperature, directory in found.items():
        words = ["--dataset", "folder", "--data-dir", digits, "--target", "mnist-b", "--batch-size", 24, "--threads", 1]
        words += ["--max-steps", 25, "--temperature", temperature, "--output-dir", directory]
        run(distill.main, distill.Settings, [str(word) for word in words])
    return found


def test_the_program_leaves_a_student_and_a_teacher(script: Run, words: list[str], tmp_path: Path) -> None:
    done = script("train/distill.py", *words, "--output-dir", tmp_path)
    assert f"student in {tmp_path / 'classifier'}, teacher in {tmp_path / 'teacher'}" in done.stdout
    told = json.loads((tmp_path / "classifier" / "training.json").read_text())
    digest_and_progress = {"sha256", "finished", "total_steps"}
    assert set(told) - digest_and_progress == {"settings", "steps", "training_seconds", "temperature", "accuracies"}
    assert (told["steps"], told["temperature"]) == (2 * STEPS, 20)
    assert not (tmp_path / "training.json").exists(), "that name is a generator's"
    for phase, folder in {"teacher": "teacher", "student": "classifier"}.items():
        assert load_target("mnist-b", tmp_path / folder).num_classes == 3
        tested = told["accuracies"][phase]["test"]
        assert f"{phase}: test accuracy {tested:.2%} (n = 48)" in done.stdout
        card = (tmp_path / folder / "README.md").read_text()
        assert f"{phase} of a defensive distillation at temperature 20" in card
        assert f"accuracy, test (48 images, seen once) | {tested:.2%} |" in card
        assert "train/distill.py --dataset folder" in card
    log = EventAccumulator(str(tmp_path / "logs" / "distill")).Reload()
    assert [scalar.step for scalar in log.Scalars("teacher/validation accuracy")] == [6, 9]
    assert [scalar.step for scalar in log.Scalars("student/validation accuracy")] == [15, 18]
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]  # nothing half-written


def test_a_student_agrees_with_its_teacher_and_is_as_sure_as_t_says(runs: dict[int, Path], digits: Path) -> None:
    x, y = next(load_data("folder", digits).test.batches(48))
    lead = {}
    for temperature, directory in runs.items():
        teacher, student = (load_target("mnist-b", directory / name)(x) for name in ("teacher", "classifier"))
        assert (teacher.argmax(1) == student.argmax(1)).float().mean() > 0.9
        assert (student.argmax(1) == y).float().mean() > 0.9
        p, q = (soft_labels(z, temperature) for z in (student, teacher))
        assert (p - q).abs().mean() < 0.1
        top = student.topk(2, dim=1).values
        lead[temperature] = (top[:, 0] - top[:, 1]).median()
    assert lead[100] > 20 * lead[1]
    told = [json.loads((path / "classifier" / "training.json").read_text()) for path in runs.values()]
    assert all(each["accuracies"]["student"]["test"] > 0.9 for each in told)


def test_the_student_is_shown_soft_labels_and_the_teacher_hard_ones(
    train: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Tensor] = []

    def witness(logits: Tensor, q: Tensor, temperature: float) -> Tensor:
        assert temperature == 20
        shown.append(q)
        return soft_cross_entropy(logits, q, temperature)

    monkeypatch.setattr(distill, "soft_cross_entropy", witness)
    train()
    assert len(shown) == 2 * STEPS
    assert all((q.max(1).values == 1).all() for q in shown[:STEPS])
    assert all((q.max(1).values < 1).all() and torch.allclose(q.sum(1), torch.ones(20)) for q in shown[STEPS:])
    assert not any(q.requires_grad for q in shown)


def test_stopped_and_resumed_equals_uninterrupted(
    train: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = train(out="whole")
    # Asked after every step: in the teacher's midst, at its end, in the student's midst.
    stops = iter([*[False] * 3, True, *[False] * 4, True, *[False] * 2, True])
    monkeypatch.setattr(training.GracefulShutdown, "requested", lambda *_: next(stops, False))
    assert train(out="parts") == {}
    assert "stopped after step 4 of 18; the same command with --resume continues" in capsys.readouterr().out
    assert train("--resume", out="parts") == {}
    assert "stopped after step 9 of 18" in capsys.readouterr().out
    train("--resume", out="parts")
    assert "stopped after step 12 of 18" in capsys.readouterr().out
    parts = train("--resume", out="parts")
    assert parts["accuracies"] == whole["accuracies"]
    for folder in ("teacher", "classifier"):
        first, second = (load_file(tmp_path / out / folder / "model.safetensors") for out in ("whole", "parts"))
        assert all(torch.equal(first[name], second[name]) for name in first)
    assert parts == train("--resume", out="parts"), "at its end already: no step more"


def test_nan_stops_with_the_step_and_keeps_the_teacher(train: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []

    def at_the_fourteenth(logits: Tensor, q: Tensor, temperature: float) -> Tensor:
        steps.append(1)
        return soft_cross_entropy(logits, q, temperature) * (float("nan") if len(steps) == 14 else 1)

    monkeypatch.setattr(distill, "soft_cross_entropy", at_the_fourteenth)
    with pytest.raises(SystemExit, match=r"error: step 14: the loss is not finite.*nothing was kept yet"):
        train()


def test_nothing_made_is_lost_and_settings_stay_those_of_the_run(
    train: Call, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train("--max-steps", 1)
    made = load_file(tmp_path / "out" / "teacher" / "model.safetensors")
    for extra, message in (
        ([], "already holds a classifier run: continue it with --resume"),
        (["--resume", "--temperature", 10], "temperature was 20.0, now 10.0"),
        (["--resume", "--target", "mnist-small"], "but target was mnist-b, now mnist-small"),
    ):
        with pytest.raises(SystemExit) as stop:
            train("--max-steps", 1, *extra)
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
    train("--max-steps", 1, "--overwrite", "--seed", 1)
    after = load_file(tmp_path / "out" / "teacher" / "model.safetensors")
    assert not all(torch.equal(made[name], after[name]) for name in made)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--temperature", "0"], "temperature must be positive, got 0.0"),
        (["--temperature", "-1"], "temperature must be positive, got -1.0"),
        (["--temperature", "nan"], "temperature must be positive, got nan"),
        (["--target", "mnist-z"], "unknown target 'mnist-z'"),
        (["--batch-size", "121"], "batch size must be in 1..120"),
        (["--epochs", "0"], "epochs must be positive, got 0"),
        (["--max-steps", "0"], "max_steps must be at least 1, got 0"),
        (["--shift", "-1"], "shift must not be negative, got -1"),
        (["--resume"], "nothing to resume"),
    ],
)
def test_nonsense_is_one_line_and_exit_code_2_and_leaves_nothing(
    train: Call, tmp_path: Path, capsys: pytest.CaptureFixture[str], extra: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        train(*extra)
    assert stop.value.code == 2
    error = " ".join(capsys.readouterr().err.split())
    assert error.startswith("error: ")
    assert message in error
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


# eval/distillation.py


@pytest.fixture
def basics(digits: Path) -> list[object]:
    words = ["--dataset", "folder", "--data-dir", digits, "--target", "mnist-b", "--threads", 1]
    return [*words, "--max-samples", 12, "--few-samples", 2, "--attacks", "fgsm", CW]


@pytest.fixture
def call(basics: list[object], tmp_path: Path, undrawn: None) -> Call:
    """Run it in this process, on the bars, and read what it wrote."""

    def run_it(*words: object) -> dict[str, Any]:
        argv = [str(word) for word in (*basics, "--output-dir", tmp_path / "out", *words)]
        run(distillation.main, distillation.Settings, argv)
        return json.loads((tmp_path / "out" / "distillation.json").read_text())

    return run_it


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The programs that it starts run in this process; returns what was started."""
    started: list[list[str]] = []

    def start(path: str, *words: object) -> None:
        started.append([path, *map(str, words)])
        module = program_module(ROOT / path)
        run(module.main, module.Settings, [str(word) for word in words])

    monkeypatch.setattr(importlib.import_module("advgan.experiments.trainings"), "run_script", start)
    return started


def test_the_table_of_given_runs_as_a_user_makes_it(
    script: Run, basics: list[object], runs: dict[int, Path], tmp_path: Path
) -> None:
    out = tmp_path / "with space"
    done = script("eval/distillation.py", *basics, "--runs", runs[100], runs[1], "--output-dir", out)
    results = json.loads((out / "distillation.json").read_text())
    table = {row["label"]: row for row in results["table"]}
    assert list(table) == ["none", "1", "100"]
    assert {row["status"] for row in results["rows"]} == {"ok"}
    for label, row in table.items():
        assert list(row["jsma"]) == ["softmax", "logits", "probabilities"]
        assert row["change"] == row["accuracy"] - table["none"]["accuracy"]
        folder = runs[1] / "teacher" if label == "none" else runs[int(label)] / "classifier"
        phase = "teacher" if label == "none" else "student"
        told = json.loads((folder.parent / "classifier" / "training.json").read_text())
        assert row["accuracy"] == told["accuracies"][phase]["test"]
        for each in row["jsma"].values():
            assert each["n"] <= 2 * 2
            assert each["robustness"] <= 0.143
    one, hundred = (table[label]["jsma"] for label in ("1", "100"))
    assert one["softmax"]["asr"] > 0.3, "or the test shows nothing"
    assert hundred["softmax"]["asr"] == 0
    assert hundred["softmax"]["robustness"] == pytest.approx(112 / 784)
    assert hundred["logits"]["asr"] > 0.3
    assert hundred["probabilities"]["asr"] > 0.3
    assert table["100"]["gradients"]["median"] == 0 < table["1"]["gradients"]["median"]
    assert table["100"]["attacks"][CW]["protocol"] == "minimal-norm"
    assert table["100"]["attacks"]["fgsm"]["n"] > 4

    with (out / "distillation.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 3 * 5
    assert [(line["temperature"], line["published"]) for line in lines if line["published"]] == [
        *(("none", "0.9589"), ("1", "0.91"), ("100", "0.0045"))
    ]
    page = (out / "distillation.md").read_text()
    for title in ("JSMA against the temperature of defensive distillation", "Input gradients of the softmax against"):
        assert f"![{title}" in page
    assert all((out / name).stat().st_size > 5000 for name in ("success.png", "gradients.png"))
    assert "| none | 95.89 | " in page
    assert "JSMA on mnist-b, at most 14.3% of the pixels" in done.stdout
    log = EventAccumulator(str(out / "logs" / "distillation" / safe("jsma softmax"))).Reload()
    assert [each.step for each in log.Scalars("asr (step: temperature)")] == [0, 1, 100]


def test_what_is_missing_is_trained_and_nothing_twice(
    call: Call, programs: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(distillation, "GAMMA", 0.01)
    recipes = {"train": "batch-size: 20\nmax-steps: 4\n", "generator": "batch-size: 20\nmax-steps: 2\nwidth: 8\n"}
    for name, text in recipes.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    words = ["--temperatures", 20, 1, "--train-recipe", tmp_path / "train.yaml"]
    words += ["--generator-recipe", tmp_path / "generator.yaml", "--few-samples", 2, "--attacks", "fgsm"]
    out, stops = tmp_path / "out", iter([False, False, False, False, True])
    monkeypatch.setattr(training.GracefulShutdown, "requested", lambda *_: next(stops, False))
    with pytest.raises(SystemExit, match="T-1 stopped before its end; the same command goes on"):
        call(*words)  # it was the student's first step, of which there is no word yet
    first = call(*words)
    made = [(Path(words[0]).name, Path(words[-1]).name, "--resume" in words) for words in programs]
    assert made == [
        *(("distill.py", "T-1", False), ("distill.py", "T-1", True), ("distill.py", "T-20", False)),
        *(("advgan.py", f"generator-{label}", False) for label in ("none", "1", "20")),
    ]
    assert [row["label"] for row in first["table"]] == ["none", "1", "20"]
    assert all(row["attacks"]["advgan"]["n"] is not None for row in first["table"])
    assert [Path(each["path"]).name for each in first["generators"]] == [
        "generator-none",
        "generator-1",
        "generator-20",
    ]

    programs.clear()
    capsys.readouterr()

    assert call(*words)["table"] == first["table"]
    assert not programs
    done = sum(row["status"] == "ok" for row in first["rows"])  # where an untrained net is never right, there is none
    assert f"{done} results are cached" in capsys.readouterr().out

    generator = Generator.from_pretrained(out / "generator-20")
    for foreign in ({"target_sha256": "0"}, {"target_weights": "elsewhere"}):
        told = read_sealed(out / "generator-20" / "training.json")
        changed = told | {"settings": told["settings"] | foreign}
        (out / "generator-20" / "training.json").write_text(json.dumps(changed))
        with pytest.raises(SystemExit):
            call(*words)
        assert "trained on another classifier" in (said := capsys.readouterr().err) or "trained otherwise" in said
        (out / "generator-20" / "training.json").write_text(json.dumps(told))
    assert generator.threat.eps == 0.3
    (tmp_path / "train.yaml").write_text("batch-size: 20\nmax-steps: 4\nshift: 0\n")
    with pytest.raises(SystemExit):
        call(*words)
    assert "was trained otherwise (shift was 2, now 0): choose another --output-dir" in " ".join(
        capsys.readouterr().err.split()
    )
    assert not programs


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--temperatures", "2", "20"], "expected temperature 1, whose teacher is the undefended classifier, got 2 20"),
        (["--temperatures", "1", "0"], "temperature must be positive, got 0.0"),
        (["--few-samples", "0"], "few_samples must be at least 1, got 0"),
        (["--eps", "2"], r"eps must be in \(0, 1\]"),
        (["--attacks", "fgms"], "unknown attack 'fgms'"),
        (["--generator-recipe", "zz"], "cannot read recipe zz: no such file or shipped recipe"),
        (["--attacks", "advgan"], "attack advgan comes by itself with --generator-recipe"),
        (["--runs", "1", "1"], "expected one run of each temperature, got .*T-1 and .*T-1 of 1"),
        (["--runs", "100"], "expected a run of temperature 1"),
        (["--runs", "nowhere"], "expected a finished run of train/distill.py, with .*, got nowhere"),
    ],
)
def test_what_it_says_when_it_cannot_run(
    words: list[str],
    message: str,
    call: Call,
    runs: dict[int, Path],
    programs: list[list[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    if words[0] == "--runs":
        words = [str(runs.get(int(word), word)) if word.isdigit() else word for word in words]
    with pytest.raises(SystemExit) as stop:
        call(*words)
    assert stop.value.code == 2
    said = " ".join(capsys.readouterr().err.split())
    assert re.search(message, said)
    assert not programs


def test_the_published_figures_are_of_the_temperatures_that_are_asked_for() -> None:
    settings = SimpleNamespace(**{f.name: f.default for f in distillation.Settings.__dataclass_fields__.values()})
    assert list(PUBLISHED) == ["none", *(f"{each:g}" for each in settings.temperatures)]


@pytest.mark.parametrize("module", [distill, distillation], ids=["train", "eval"])
def test_help_documents_every_flag(module: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(module.main, module.Settings, ["--help"])
    text = capsys.readouterr().out
    for flag in module.Settings.__dataclass_fields__:
        assert f"--{flag.replace('_', '-')}" in text
