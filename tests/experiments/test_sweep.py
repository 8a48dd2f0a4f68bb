"""eval/sweep.py as a user runs it: the curve starts at the clean accuracy, and each point is what `evaluate` gives."""

import csv
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from advgan import Generator
from advgan.attacks.registry import make_attack
from advgan.classifiers import load_target
from advgan.core.config import run
from advgan.core.errors import InputError
from advgan.core.threat_model import Threat
from advgan.data import load_data
from advgan.evaluation import ROW_KEYS, evaluate, wilson
from tests.conftest import Run

sweep = importlib.import_module("advgan.experiments.sweep.run")
Call = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def generators(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained generators by name, each in a run directory."""
    directory = tmp_path_factory.mktemp("generators")
    kinds = {"plain": {"eps": 0.2}, "l2": {"norm": "l2", "eps": 1.0}, "rgb": {"channels": 3}, "to-1": {"y_target": 1}}
    for name, settings in kinds.items():
        torch.manual_seed(0)
        Generator(**{"width": 8, "depth": 1, **settings}).save_pretrained(directory / name / "generator")
    return directory


@pytest.fixture
def drawn(digits: Path, classifier: Path, tmp_path: Path) -> Call:
    """Run it in this process, on the bars, and read what it wrote."""

    def run_it(*words: object) -> dict[str, Any]:
        basics = ["--dataset", "folder", "--data-dir", digits, "--target", "mnist-small", "--threads", 1]
        basics += ["--target-weights", classifier, "--output-dir", tmp_path / "out"]
        run(sweep.main, sweep.Settings, [str(word) for word in (*basics, *words)])
        return json.loads((tmp_path / "out" / "sweep.json").read_text())

    return run_it


@pytest.fixture
def call(drawn: Call, undrawn: None) -> Call:
    """The same without figures."""
    return drawn


def test_as_a_user_runs_it(script: Run, digits: Path, classifier: Path, generators: Path, tmp_path: Path) -> None:
    out = tmp_path / "with space"
    done = script(
        *("eval/sweep.py", "--dataset", "folder", "--data-dir", digits, "--target", "mnist-small", "--threads", 1),
        *("--target-weights", classifier, "--generator", generators / "plain", "--output-dir", out),
    )
    results = json.loads((out / "sweep.json").read_text())
    assert set(results) == {"environment", "target", "targets", "generators", "rows"}
    rows = results["rows"]
    linf = [0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3]
    wanted = {"noise-sign": linf, "fgsm": linf, "ifgsm": linf, "advgan": linf[:5]}  # the generator's own eps is 0.2
    assert [(row["attack"], row["eps"]) for row in rows] == [(name, eps) for name in wanted for eps in wanted[name]]
    for row in rows:
        assert tuple(row) == ROW_KEYS
        assert (row["status"], row["n"], row["norm"]) == ("ok", 48, "linf")
        if row["eps"] == 0:
            assert (row["robust_accuracy"], row["asr"]) == (row["clean_accuracy"], 0)
    at = {(row["attack"], row["eps"]): row for row in rows}
    assert all(at["noise-sign", eps]["asr"] <= at["fgsm", eps]["asr"] for eps in linf)

    with (out / "sweep.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(rows)
    for line, row in zip(lines, rows, strict=True):
        accuracy = row["robust_accuracy"]
        assert float(line["accuracy"]) == accuracy
        assert (float(line["low"]), float(line["high"])) == wilson(round(accuracy * 48), 48)
        assert (float(line["asr"]), float(line["asr_high"])) == (row["asr"], row["asr_high"])
    assert sorted(path.stem for path in (out / "gallery").iterdir()) == sorted(wanted)
    assert "![" in (out / "sweep.md").read_text()
    assert "Accuracy % on mnist-small, linf, against eps" in done.stdout
    assert "total" in done.stderr, "progress bars"

    events = EventAccumulator(str(out / "logs" / "sweep" / "fgsm"))
    events.Reload()
    points = events.Scalars("accuracy (step: 1000 eps)")
    assert [point.step for point in points] == [0, 50, 100, 150, 200, 250, 300]
    assert [point.value for point in points] == pytest.approx([at["fgsm", eps]["robust_accuracy"] for eps in linf])
    pictures = EventAccumulator(str(out / "logs" / "sweep"))
    pictures.Reload()
    assert sorted(pictures.Tags()["images"]) == ["curves", *(f"gallery/{name}" for name in sorted(wanted))]


def test_bad_input_is_one_line_and_exit_code_2(script: Run, tmp_path: Path) -> None:
    done = script("eval/sweep.py", "--attacks", "fgms", "--output-dir", tmp_path / "out", code=2)
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: unknown attack 'fgms'; did you mean ")
    assert not (tmp_path / "out").exists()


def test_a_point_is_what_evaluate_gives(call: Call, digits: Path, classifier: Path) -> None:
    rows = call("--attacks", "fgsm,ifgsm:steps=3", "--eps", 0.1, "8/255", "--max-samples", 24)["rows"]
    assert sorted({row["eps"] for row in rows}) == [0, 8 / 255, 0.1]
    model = load_target("mnist-small", classifier, image_shape=(1, 28, 28), num_classes=3).eval()
    x, y = next(load_data("folder", digits).test.first(24).batches(24))
    for row in rows:
        if row["eps"]:
            threat = Threat("linf", row["eps"])
            result = evaluate(make_attack(row["attack"], model, threat), model, x, y, threat)
            for name in ("asr", "robust_accuracy", "clean_accuracy", "linf_max"):
                assert row[name] == result.row[name]


def test_a_second_call_runs_nothing_and_says_the_same(call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--attacks", "noise-sign", "fgsm", "--eps", "0.1:0.2:0.1", "--max-samples", 9)
    first = call(*words)["rows"]
    assert "are cached from an earlier run" not in capsys.readouterr().out
    assert call(*words)["rows"] == first, "times included: nothing was measured again"
    assert "4 of 4 results are cached from an earlier run" in capsys.readouterr().out
    call(*words, "--fresh")
    assert "are cached from an earlier run" not in capsys.readouterr().out


def test_a_gallery_of_the_users_is_not_replaced(call: Call, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "gallery").mkdir()
    (tmp_path / "gallery" / "mine.png").touch()
    with pytest.raises(SystemExit) as stop:
        call("--attacks", "fgsm", "--output-dir", tmp_path)
    assert stop.value.code == 2
    assert f"a report would replace {tmp_path / 'gallery'}, which holds other files" in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*")] == ["gallery", "mine.png"]


def test_the_pictures_have_a_row_per_eps(drawn: Call, tmp_path: Path) -> None:
    heights = {}
    for words in (("0.1",), ("0.1", "0.2", "0.3")):
        drawn("--attacks", "fgsm", "--eps", *words, "--max-samples", 12)
        image = np.asarray(Image.open(tmp_path / "out" / "gallery" / "fgsm.png"))
        heights[1 + len(words)] = image.shape[0] / (1 + len(words))
        curves = np.asarray(Image.open(tmp_path / "out" / "curves.png"))
        assert curves.std() > 5, "something is drawn"
    assert max(heights.values()) - min(heights.values()) <= 1, "each eps is a row of the same height"


def test_a_minimal_norm_attack_is_run_once_and_judged_at_each_eps(call: Call, tmp_path: Path) -> None:
    rows = call("--attacks", "deepfool", "--norm", "l2", "--eps", "0:8:2", "--max-samples", 12)["rows"]
    assert {(row["status"], row["attack"]) for row in rows} == {("ok", "deepfool")}
    success = [row["asr"] for row in rows]
    assert success == sorted(success)
    assert success[-1] > 0
    assert len(list((tmp_path / "out" / "cells").iterdir())) == 1


def test_in_l2_with_its_own_radii_and_generator(call: Call, generators: Path) -> None:
    rows = call("--generator", generators / "l2", "--attacks", "advgan", "fgsm", "--max-samples", 9)["rows"]
    assert [row["eps"] for row in rows if row["attack"] == "fgsm"] == [0, 0.5, 1, 1.5, 2, 2.5, 3]
    assert [row["eps"] for row in rows if row["attack"] == "advgan"] == [0, 0.5, 1]
    assert {(row["norm"], row["status"]) for row in rows} == {("l2", "ok")}


def test_targeted(call: Call, generators: Path) -> None:
    results = call("--generator", generators / "to-1", "--eps", 0.3, "--max-samples", 18)
    assert {(row["targeted"], row["y_target"], row["status"]) for row in results["rows"]} == {(True, 1, "ok")}
    assert all(row["n_attacked"] <= 12 for row in results["rows"])
    assert results["generators"][0]["y_target"] == 1


@pytest.mark.parametrize(
    ("words", "norm", "expected"),
    [
        (["0.1", "0.05"], "linf", [0, 0.05, 0.1]),
        (["0:0.3:0.05"], "linf", [0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3]),
        (["0:8/255:2/255"], "linf", [0, 2 / 255, 4 / 255, 6 / 255, 8 / 255]),
        (["0.1,0.2:0.3:0.1"], "linf", [0, 0.1, 0.2, 0.3]),
        (["1:2:0.4", "5"], "l2", [0, 1, 1.4, 1.8, 5]),
    ],
)
def test_radii_and_ranges_of_them(words: list[str], norm: Any, expected: list[float]) -> None:
    assert sweep.parse_eps_values(words, norm) == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--attacks", "advgan"], "attack advgan needs a trained generator, expected --generator DIR"),
        (["--attacks", "deepfool", "--y-target", "1"], "attack deepfool has no targeted form"),
        (["--eps", "0"], "expected an eps above 0, got none"),
        (["--eps", "0.1", "2"], "eps must be in (0, 1]"),
        (["--eps", "-0.1"], "eps must be in (0, 1]"),
        (["--eps", "0.1", "0.1000000001"], "must differ in the digits of reports, got 0.1 and 0.1000000001"),
        (["--eps", "0:0.3"], "a range of eps must look like 0:0.3:0.05"),
        (["--eps", "0.3:0:0.1"], "a range of eps must go up in at most 1000 steps"),
        (["--eps", "0:1:1e-9"], "a range of eps must go up in at most 1000 steps"),
        (["--y-target", "3"], "y_target must be a class from 0 to 2, got 3"),
        (["--max-samples", "0"], "the number of images must be at least 1, got 0"),
        (["--batch-size", "0"], "batch_size must be at least 1, got 0"),
        (["--target", "mnist-z"], "unknown target 'mnist-z'"),
        (["--target-weights", "nowhere"], "no target weights at nowhere"),
        (["--generator", "plain", "--eps", "0.3"], "this generator was trained for eps 0.2"),
        (["--generator", "plain", "--norm", "l2"], "trained for norm linf, got l2"),
        (["--generator", "plain", "--y-target", "1"], "was trained untargeted"),
        (["--generator", "rgb"], "this generator expects float images (n, 3, h, w)"),
    ],
)
def test_what_it_says_when_it_cannot_run(
    words: list[str],
    message: str,
    call: Call,
    generators: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stop:
        call(*(generators / word if word in ("plain", "rgb") else word for word in words))
    assert stop.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_an_attack_that_fails_leaves_a_row_that_says_why(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(model: Any, x: torch.Tensor, *words: Any, **settings: Any) -> torch.Tensor:
        if not len(x):  # it is tried without images before any work
            return x
        raise InputError("no luck")

    attack = sweep.ATTACKS["fgsm"]
    monkeypatch.setitem(sweep.ATTACKS, "fgsm", type(attack)(broken))
    first, second = call("--attacks", "fgsm", "--eps", 0.1, "--max-samples", 9)["rows"]
    assert (first["robust_accuracy"], second["robust_accuracy"]) == (first["clean_accuracy"], None)
    assert second["status"] == "failed: InputError: no luck"
