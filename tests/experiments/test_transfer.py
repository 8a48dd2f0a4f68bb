"""eval/transfer.py as a user runs it: the diagonal is the white box, noise the floor, kept cells are not run again."""

import csv
import importlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from advgan import Generator
from advgan.attacks.registry import make_attack
from advgan.classifiers import build_target, fingerprint, load_target, save_target
from advgan.core.config import run
from advgan.core.errors import note
from advgan.core.threat_model import Threat
from advgan.data import load_data
from advgan.evaluation import GridPoint, ResultCache, TargetModel, evaluate, predict
from advgan.experiments.transfer.report import pairs
from tests.conftest import Run

transfer = importlib.import_module("advgan.experiments.transfer.run")
Call = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def other(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another classifier of the bars, of another kind; it is right most of the time."""
    torch.manual_seed(1)
    model = build_target("mnist-c", (1, 28, 28), 3)
    x, y = next(load_data("folder", digits).train.batches(120))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(12):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    directory = tmp_path_factory.mktemp("other")
    save_target(model.eval(), directory / "classifier", "# Another of a test's classifiers")
    return directory


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("generator")
    torch.manual_seed(0)
    Generator(width=8, depth=1, eps=0.25).save_pretrained(directory / "generator")
    return directory


@pytest.fixture
def basics(digits: Path, classifier: Path, other: Path) -> list[object]:
    words = ["--dataset", "folder", "--data-dir", digits, "--target", "mnist-small", "mnist-c", "--threads", 1]
    return [*words, "--target-weights", classifier, other, "--eps", 0.2, "--curve-eps", "0.1", "0.2"]


@pytest.fixture
def call(basics: list[object], tmp_path: Path, undrawn: None) -> Call:
    """Run it in this process, on the bars, and read what it wrote."""

    def run_it(*words: object) -> dict[str, Any]:
        argv = [str(word) for word in (*basics, "--output-dir", tmp_path / "out", *words)]
        run(transfer.main, transfer.Settings, argv)
        return json.loads((tmp_path / "out" / "transfer.json").read_text())

    return run_it


def test_as_a_user_runs_it(script: Run, basics: list[object], generator: Path, tmp_path: Path) -> None:
    out = tmp_path / "with space"
    words = ("--generator", generator, "--generator-source", "mnist-c", "--output-dir", out)
    done = script("eval/transfer.py", *basics, *words)
    results = json.loads((out / "transfer.json").read_text())
    assert set(results) == {"environment", "targets", "generators", "matrix", "curve"}
    assert [target["label"] for target in results["targets"]] == ["mnist-small", "mnist-c"]
    assert results["generators"][0]["target"] == "mnist-c"
    assert {row["status"] for row in (*results["matrix"], *results["curve"])} == {"ok"}
    a, b = "mnist-small", "mnist-c"
    assert [(row["attack"], row["source"], row["victim"]) for row in results["matrix"]] == [
        *(("mifgsm", source, victim) for source in (a, b) for victim in (a, b)),
        *(("advgan", b, victim) for victim in (a, b)),
        *(("noise-sign", None, victim) for victim in (a, b)),
    ]
    assert all(row["eps"] == 0.2 for row in results["matrix"])
    fgsm = {(row["source"], row["victim"], row["eps"]): row for row in results["curve"] if row["attack"] == "fgsm"}
    assert set(fgsm) == {(source, victim, eps) for source in (a, b) for victim in (a, b) for eps in (0.1, 0.2)}
    noise = {(row["victim"], row["eps"]): row for row in results["curve"] if row["attack"] == "noise-sign"}
    assert all(noise[victim, eps]["asr"] <= row["asr"] for (_, victim, eps), row in fgsm.items())

    with (out / "transfer.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["part"] for line in lines] == ["matrix"] * 8 + ["curve"] * len(results["curve"])
    assert [float(line["asr"]) for line in lines[:8]] == [row["asr"] for row in results["matrix"]]
    for name in ("matrix.png", "curve.png"):
        assert np.asarray(Image.open(out / name)).std() > 5
        assert f"(<{name}>)" in (out / "transfer.md").read_text()
    printed = " ".join(done.stdout.split())
    for subset in ("the victim classifies", "source and victim both classify"):
        title = f"over the images that {subset} correctly, source (rows) x victim (columns), mifgsm, linf eps 0.2"
        assert title in printed
    assert "advgan for mnist-c" in done.stdout
    assert "total" in done.stderr, "progress bars"
    events = EventAccumulator(str(out / "logs" / "transfer"))
    events.Reload()
    assert sorted(events.Tags()["images"]) == ["curve", "matrix"]
    curve = EventAccumulator(str(out / "logs" / "transfer" / "fgsm on another classifier"))
    curve.Reload()
    points = curve.Scalars("asr (step: 1000 eps)")
    assert [point.step for point in points] == [0, 100, 200]
    mean = (fgsm[a, b, 0.2]["asr"] + fgsm[b, a, 0.2]["asr"]) / 2
    assert points[-1].value == pytest.approx(mean)


def test_bad_input_is_one_line_and_exit_code_2(script: Run, tmp_path: Path) -> None:
    done = script("eval/transfer.py", "--target", "mnist-c", "--output-dir", tmp_path / "out", code=2)
    assert done.stderr == "error: expected at least two targets, sources and victims, got 1\n"
    assert not (tmp_path / "out").exists()


def test_a_cell_is_the_attack_on_its_source_judged_on_its_victim(
    call: Call, digits: Path, classifier: Path, other: Path
) -> None:
    results = call("--attack", "ifgsm:steps=3", "--max-samples", 24, "--curve-attacks", "fgsm")
    x, y = next(load_data("folder", digits).test.first(24).batches(24))
    models = {
        name: load_target(name, path, image_shape=(1, 28, 28), num_classes=3).eval()
        for name, path in (("mnist-small", classifier), ("mnist-c", other))
    }
    threat = Threat("linf", 0.2)
    for row in (row for row in results["matrix"] if row["source"]):
        source, victim = models[row["source"]], models[row["victim"]]
        result = evaluate(make_attack("ifgsm:steps=3", source, threat), victim, x, y, threat)
        assert (row["asr"], row["linf_max"]) == (result.row["asr"], result.row["linf_max"])
        assert row["access"] == ("gradients" if source is victim else "transfer")
        both = result.records["counts"] & (predict(source, x).argmax(1) == y)
        assert row["n_both"] == both.sum()
        assert row["asr_both"] == (result.records["success"] & both).sum() / both.sum()
        if source is victim:
            assert (row["n_both"], row["asr_both"]) == (row["n_attacked"], row["asr"])


def test_images_that_the_source_has_wrong_are_left_out_of_the_shared_share(classifier: Path, digits: Path) -> None:
    x, y = next(load_data("folder", digits).test.first(24).batches(24))

    class Blind(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tensor([[1.0, 0.0, 0.0]]).expand(len(x), 3)

    victim = TargetModel(
        "victim", load_target("mnist-small", classifier, image_shape=(1, 28, 28), num_classes=3).eval()
    )
    cells, threat = ResultCache(None, x, y), Threat("linf", 0.2)
    records = cells.run(GridPoint(transfer.parse_attack("fgsm"), victim, threat)).records
    row = transfer.jointly_correct(cells, records, TargetModel("blind", Blind().eval()))
    assert row["n_both"] == (records["counts"] & (y == 0)).sum() < records["counts"].sum()
    assert row["asr_both"] == records["success"][y == 0].sum() / row["n_both"]
    rejecting: Any = SimpleNamespace(
        clean=lambda source: replace(cells.clean(source), accepted=torch.arange(len(y)) > 0)
    )
    fewer = transfer.jointly_correct(rejecting, records, victim)
    assert fewer["n_both"] == records["counts"][1:].sum(), (
        "an image that the source rejects is not classified correctly"
    )
    assert transfer.jointly_correct(cells, {}, victim) == dict.fromkeys(transfer.BOTH_COLUMNS)


def test_a_second_call_runs_nothing_and_says_the_same(call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--max-samples", 9, "--pair", "mnist-c", "mnist-small", "--curve-attacks", "mifgsm")
    first = call(*words)
    assert "are cached from an earlier run" not in capsys.readouterr().out
    again = call(*words)
    assert (again["matrix"], again["curve"]) == (first["matrix"], first["curve"])
    assert "10 of 10 results are cached from an earlier run" in capsys.readouterr().out, (
        "those of both parts count once"
    )
    tried = {(row["source"], row["victim"]) for row in first["curve"] if row["source"]}
    assert tried == {("mnist-c", "mnist-small"), ("mnist-c", "mnist-c")}


def test_all_on_one_victim_by_itself_and_by_a_substitute_with_its_generator_and_its_queries(
    call: Call, digits: Path, classifier: Path, other: Path, generator: Path, tmp_path: Path, capsys: Any
) -> None:
    victim, stand_in = "mnist-small", "mnist-c"
    substitute, own = tmp_path / "substitute", tmp_path / "own"
    shutil.copytree(other, substitute)
    shutil.copytree(generator / "generator", substitute / "generator")
    told = {
        "substitute": {"sha256": fingerprint(load_target(stand_in, other))},
        "settings": {"black_box_sha256": fingerprint(load_target(victim, classifier))},
        "queries": 1234,
    }
    (substitute / "training.json").write_text(json.dumps(told))
    torch.manual_seed(1)
    Generator(width=8, depth=1, eps=0.2).save_pretrained(own / "generator")
    told = {"settings": {"target_sha256": fingerprint(load_target(victim, classifier))}}
    (own / "training.json").write_text(json.dumps(told))

    words = ["--target-weights", classifier, substitute, "--generator", substitute, own, "--max-samples", 12]
    results = call(*words, "--victim", victim, "--curve-attacks", "fgsm", "ifgsm:steps=3", "--curve-eps", "0.1", "0.25")
    assert [(row["attack"], row["source"], row["access"], row["queries"]) for row in results["matrix"]] == [
        ("mifgsm", victim, "gradients", None),
        ("mifgsm", stand_in, "transfer", 1234),
        ("advgan", stand_in, "transfer", 1234),
        ("advgan", victim, "generator", None),
        ("noise-sign", None, "nothing", None),
    ]
    assert {row["victim"] for row in (*results["matrix"], *results["curve"])} == {victim}
    assert [each["target"] for each in results["generators"]] == [stand_in, victim]
    lines = {(row["attack"], row["source"], row["eps"]) for row in results["curve"]}
    assert {eps for attack, source, eps in lines if (attack, source) == ("advgan", stand_in)} == {0.1, 0.25}
    assert {eps for attack, source, eps in lines if (attack, source) == ("advgan", victim)} == {0.1}, "0.25 is too far"
    assert {(attack, source) for attack, source, _ in lines} == {
        ("noise-sign", None),
        *((attack, source) for attack in ("fgsm", "ifgsm:steps=3", "advgan") for source in (victim, stand_in)),
    }
    text = (tmp_path / "out" / "transfer.md").read_text()
    assert "| source | mnist-small | queries |" in text
    assert "| advgan for mnist-c | " in text
    assert text.count("| 1,234 |") == 4, "the substitute and its generator, in both tables"
    assert "failed" not in text, "beyond its eps a generator is not tried"
    assert text.index("against eps, source mnist-small, white box") < text.index("source mnist-c, 1,234 queries")
    assert "1,234" in capsys.readouterr().out
    for extra, message in (
        (["--generator-source", victim, stand_in], "trained on another classifier than mnist-small"),
        (["--generator-source", victim], "expected one generator_source for each generator, got 1 for 2"),
        (
            ["--generator", own, own],
            "expected one generator for each source, or runs of different names, got own twice",
        ),
        (["--victim", "mnist-b"], "victim must be one of mnist-small, mnist-c, without a pair, got mnist-b"),
        (["--victim", victim, "--pair", victim, stand_in], "victim must be one of"),
    ):
        with pytest.raises(SystemExit):
            call(*words, *extra)
        assert message in " ".join(capsys.readouterr().err.split())


def test_several_generators_and_attacks_of_one_source(
    call: Call, classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lines of two generators of one source, by the names of their runs, with steps and times; the one that was trained
    on the test images is marked, in the warning too."""
    runs = []
    for name, steps, train_on in (("relativistic", 20, "train"), ("audit", 30, "test")):
        Generator(width=8, depth=1, eps=0.25).save_pretrained(tmp_path / name / "generator")
        told = {
            "settings": {"target_sha256": fingerprint(load_target("mnist-small", classifier)), "train_on": train_on}
        }
        (tmp_path / name / "training.json").write_text(json.dumps(told | {"steps": steps}))
        runs.append(tmp_path / name)
    words = ["--source", "mnist-small", "--baselines", "fgsm", "--curve-attacks", "--repeats", 1, "--max-samples", 12]
    results = call("--generator", *runs, *words)
    small, lines = "mnist-small", []
    for row in results["matrix"]:
        lines.append((row["attack"], row["source"], row["steps"], row["trained_on_test"]))
        assert row["access"] == (
            "nothing" if row["source"] is None else
            "transfer" if row["victim"] != small else
            "generator" if row["generator"] else "gradients"
        )  # fmt: skip
        assert 0 < row["time_low"] <= row["time"] <= row["time_high"]
    assert (
        lines[::2]
        == lines[1::2]
        == [
            ("mifgsm", small, None, False),
            ("fgsm", small, None, False),
            ("advgan relativistic", small, 20, False),
            ("advgan audit", small, 30, True),
            ("noise-sign", None, None, False),
        ]
    )
    assert results["curve"] == []
    text = (tmp_path / "out" / "transfer.md").read_text()
    assert "| source | mnist-small | mnist-c | steps | time |" in text
    assert text.count("| advgan audit for mnist-small, trained on the test images |") == 2
    assert text.count(" * |") == 8, "four white boxes in two tables"
    assert not (tmp_path / "out" / "curve.png").exists()
    assert "warning: audit was trained on the test images" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        call(*words[:2], "--curve-attacks", "fgsm")
    assert "source is of the matrix alone" in capsys.readouterr().err


def test_settings_of_a_curve_without_one_are_noted(capsys: pytest.CaptureFixture[str]) -> None:
    note.cache_clear()
    transfer.check(transfer.Settings(target=("a", "b"), curve_attacks=(), curve_eps=("0.1", "0.2"), pair=("a", "b")))
    notes = ["note: curve_eps does nothing without curve_attacks, got 0.1 0.2", "note: pair does nothing without"]
    assert [line[: len(text)] for line, text in zip(capsys.readouterr().err.splitlines(), notes, strict=True)] == notes


def test_the_generator_of_an_ensemble_is_white_box_on_each_of_its_sources(
    call: Call, classifier: Path, other: Path, tmp_path: Path
) -> None:
    Generator(width=8, depth=1, eps=0.25).save_pretrained(tmp_path / "both" / "generator")
    first, second = (
        fingerprint(load_target(name, path)) for name, path in (("mnist-small", classifier), ("mnist-c", other))
    )
    (tmp_path / "both" / "training.json").write_text(
        json.dumps({"settings": {"target_sha256": first, "ensemble_sha256": [second]}})
    )
    results = call("--generator", tmp_path / "both", "--curve-attacks", "--max-samples", 12)
    rows = [row for row in results["matrix"] if row["attack"] == "advgan"]
    assert [(row["source"], row["access"]) for row in rows] == [("mnist-small", "generator")] * 2


def test_a_mean_of_curves_counts_the_pairs_that_did_not_fail() -> None:
    rows = [
        {"attack": "fgsm", "eps": 0.1, "source": source, "victim": victim, "status": "ok"}
        for source, victim in (("a", "b"), ("b", "a"), ("a", "c"))
    ]
    assert pairs(rows) == "mean of 3 pairs"
    rows[2]["status"] = "failed: no gradient"
    assert pairs(rows) == "mean of 3 pairs less failed ones, at least 2"


def test_targeted_in_l2(call: Call) -> None:
    words = ("--norm", "l2", "--eps", 2, "--curve-eps", 1, "--y-target", 1, "--max-samples", 12)
    results = call(*words, "--curve-attacks", "fgsm")
    for row in (*results["matrix"], *results["curve"]):
        assert (row["status"], row["norm"], row["y_target"]) == ("ok", "l2", 1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--attack", "fgms"], "unknown attack 'fgms'"),
        (["--attack", "deepfool"], "expected a bounded attack with a source classifier, like mifgsm, got deepfool"),
        (["--curve-attacks", "noise-sign"], "expected a bounded attack with a source classifier"),
        (["--curve-eps", "0"], "expected curve_attacks and a curve_eps above 0"),
        (["--eps", "0"], "eps must be in (0, 1]"),
        (["--pair", "mnist-c", "mnist-b"], "pair must be a source and a victim of mnist-small, mnist-c"),
        (["--pair", "mnist-c", "mnist-c"], "pair must be a source and a victim"),
        (["--target-weights", "nowhere"], "expected one target-weights for each target, got 1 for 2 targets"),
        (["--generator", "trained", "--eps", "0.3"], "this generator was trained for eps 0.25"),
        (["--generator", "trained", "--generator-source", "mnist-b"], "generator_source must be one of mnist-small"),
        (["--generator-source", "mnist-c"], "expected one generator_source for each generator, got 1 for 0"),
        (["--source", "mnist-a", "--curve-attacks"], "source must be one of mnist-small, mnist-c, got mnist-a"),
        (["--repeats", "-1"], "repeats must be at least 0, got -1"),
        (["--prepare", "train/nothing.py"], "expected a command of a program train/*.py"),
        (["--batch-size", "0"], "batch_size must be at least 1, got 0"),
        (["--y-target", "3"], "y_target must be a class from 0 to 2, got 3"),
    ],
)
def test_what_it_says_when_it_cannot_run(
    words: list[str], message: str, call: Call, generator: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        call(*(generator if word == "trained" else word for word in words))
    assert stop.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()
