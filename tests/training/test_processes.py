"""Any number of processes, on one machine or two: the same weights, the same figures; and one of them may be killed."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from advgan.core.config import run
from advgan.experiments.comparison import run as compare
from tests.conftest import Run, program_module, ranks, run_ranks, wait, wait_for

# A generator that takes every question there is, and 47 validation images: neither 2 nor 4 processes divide them.
SMALL = ["--threads", "1", "--width", "8", "--depth", "1", "--batch-size", "24", "--max-steps", "12"]
SMALL += ["--validate-every", "4", "--validation-images", "47", "--seed", "1"]
SMALL += ["--any-class", "--eps-min", "0.1", "--noise", "2", "--guide", "--architecture", "unet"]


@pytest.fixture(scope="module")
def words(digits: Path, classifier: Path) -> list[str]:
    data = ["--dataset", "folder", "--data-dir", str(digits)]
    return [*data, "--target", "mnist-small", "--target-weights", str(classifier), *SMALL]


@pytest.fixture(scope="module")
def one(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    module = program_module("train/advgan.py")
    directory = tmp_path_factory.mktemp("one")
    run(module.main, module.Settings, [*words, "--output-dir", str(directory)])
    return directory


@pytest.fixture(scope="module")
def two(program: Run, words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of two processes, each of which takes its share in two micro-batches."""
    directory = tmp_path_factory.mktemp("two")
    done = program("train/advgan.py", *words, "--accumulate", 2, "--output-dir", directory, processes=2)
    assert "2 processes" in done.stdout
    return directory


def weights(directory: Path, net: str) -> dict[str, torch.Tensor]:
    return load_file(directory / net / "model.safetensors")


def history(directory: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((directory / "training.json").read_text())["history"]
    return found


def alike(first: Path, second: Path) -> None:
    """Every weight within 2e-2 after 12 steps, which is two of Adam's: a gradient near zero is all rounding, and Adam
    makes a whole step of it. In the mean within 2e-4. Losses and gradients, whose size Adam hides, within 1 %; every
    validation image counted once.
    """
    for net in ("generator", "discriminator"):
        found = weights(second, net)
        apart = torch.cat([(found[name] - weight).abs().flatten() for name, weight in weights(first, net).items()])
        assert apart.max() < 2e-2
        assert apart.mean() < 2e-4
    logs = [EventAccumulator(str(run / "logs" / "advgan")).Reload() for run in (first, second)]
    for tag in ("loss adversarial", "loss diversity", "loss discriminator", "D(fake)", "gradient norm"):
        values = [[event.value for event in log.Scalars(f"train/{tag}")] for log in logs]
        assert values[0] == pytest.approx(values[1], rel=1e-2, abs=1e-3), tag
    for a, b in zip(history(first), history(second), strict=True):
        assert (a["step"], a["n"], a["n_correct"]) == (b["step"], b["n"], b["n_correct"])
        assert (a["n"], a["l2"]) == (47, pytest.approx(b["l2"], rel=1e-3))
        assert a["asr"] == pytest.approx(b["asr"], abs=1.01 / a["n_correct"])


@pytest.mark.program
def test_two_processes_in_micro_batches_equal_one(one: Path, two: Path) -> None:
    alike(one, two)


def test_two_machines_of_one_process_equal_one_process(words: list[str], one: Path, tmp_path: Path) -> None:
    """Two processes that meet at an address, each the first of its machine, as on two that share a folder."""
    outputs = tmp_path / "outputs"
    wait(*ranks("train/advgan.py", *words, "--output-dir", tmp_path / "run", outputs=outputs, machines=2))
    alike(one, tmp_path / "run")


def test_after_the_kill_of_one_of_two_the_resumed_run_has_the_uninterrupted_weights(
    words: list[str], two: Path, tmp_path: Path
) -> None:
    run_ = tmp_path / "run"
    words = ["train/advgan.py", *words, "--accumulate", "2", "--output-dir", str(run_)]
    first, second = ranks(*words, outputs=tmp_path / "killed")
    wait_for(run_ / "state" / "generator", "step-*", second)
    second.kill()
    first.join(100)
    assert first.exitcode not in (0, None)
    run_ranks(*words, "--resume", outputs=tmp_path / "resumed")
    for net in ("generator", "discriminator"):
        found = weights(run_, net)
        assert all(torch.equal(found[name], weight) for name, weight in weights(two, net).items())
    for a, b in zip(history(two), history(run_), strict=True):
        assert {k: v for k, v in a.items() if k != "seconds"} == {k: v for k, v in b.items() if k != "seconds"}


@pytest.mark.usefixtures("undrawn")
def test_a_comparison_by_two_processes_is_that_of_one(digits: Path, classifier: Path, tmp_path: Path) -> None:
    words = ["--dataset", "folder", "--data-dir", digits, "--target", "mnist-small", "--target-weights", classifier]
    words += ["--attacks", "noise-sign", "fgsm", "pgd:steps=3", "--seeds", 0, 1]
    words += ["--threads", 1, "--max-samples", 31, "--batch-size", 10, "--fresh"]
    output = run_ranks("eval/compare.py", *words, "--output-dir", tmp_path / "two", outputs=tmp_path / "outputs")
    assert "report.html" in output
    assert "report.html" not in (tmp_path / "outputs" / "1.txt").read_text()
    assert "are cached from an earlier run" not in output
    run(compare.main, compare.Settings, [str(word) for word in (*words, "--output-dir", tmp_path / "one")])
    rows = []
    for directory in ("one", "two"):
        found = json.loads((tmp_path / directory / "results.json").read_text())["rows"]
        rows.append([{k: v for k, v in row.items() if "second" not in k} for row in found])
    assert rows[0] == rows[1]
    assert len(rows[0]) == 2 + 1 + 2
    for record in (tmp_path / "one" / "records").iterdir():
        assert record.read_text() == (tmp_path / "two" / "records" / record.name).read_text()
