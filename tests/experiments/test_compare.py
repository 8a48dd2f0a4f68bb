"""eval/compare.py as a user runs it, and what it says when it cannot run."""

import csv
import importlib
import json
import signal
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from advgan import Generator
from advgan.classifiers import fingerprint, load_target, save_target
from advgan.core.config import run
from advgan.evaluation import ROW_KEYS
from tests.conftest import ROOT, Run, fork, wait, wait_for

compare = importlib.import_module("advgan.experiments.comparison.run")


@pytest.fixture(scope="module")
def generators(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained generators by name, each in a run directory."""
    directory = tmp_path_factory.mktemp("generators")
    kinds = {"plain": {"eps": 0.25}, "l2": {"norm": "l2", "eps": 2.0}, "rgb": {"channels": 3}, "to-1": {"y_target": 1}}
    kinds |= {"narrow": {"eps": 0.25, "width": 4}}
    for name, settings in kinds.items():
        torch.manual_seed(0)
        Generator(**{"width": 8, "depth": 1, **settings}).save_pretrained(directory / name / "generator")
    return directory


@pytest.fixture
def call(digits: Path, classifier: Path, tmp_path: Path, undrawn: None) -> Callable[..., list[dict]]:
    """Run it in this process, on the bars, and read its rows."""

    def run_it(*words: object) -> list[dict]:
        basics = ["--dataset", "folder", "--data-dir", digits, "--target", "mnist-small", "--threads", 1]
        basics += ["--target-weights", classifier, "--output-dir", tmp_path / "out"]
        run(compare.main, compare.Settings, [str(word) for word in (*basics, *words)])
        return json.loads((tmp_path / "out" / "results.json").read_text())["rows"]

    return run_it


@pytest.mark.program
def test_as_a_user_runs_it(program: Run, digits: Path, classifier: Path, generators: Path, tmp_path: Path) -> None:
    out = tmp_path / "with space"
    done = program(
        *("eval/compare.py", "--dataset", "folder", "--data-dir", digits, "--target", "mnist-small"),
        *("--target-weights", classifier, "--generator", generators / "plain", "--output-dir", out, "--threads", 1),
    )
    results = json.loads((out / "results.json").read_text())
    assert set(results) == {
        *("environment", "target", "targets", "generators", "rows"),
        *("worst_case", "mcnemar", "sanity", "optimality", "cost", "seeds"),
    }
    assert results["targets"] == [results["target"]]
    assert results["target"]["sha256"] == fingerprint(load_target("mnist-small", classifier))
    generator = Generator.from_pretrained(generators / "plain")
    assert results["generators"] == [
        {
            **{"path": str(generators / "plain"), "parameters": sum(p.numel() for p in generator.parameters())},
            **{"sha256": fingerprint(generator), "eps": 0.25, "norm": "linf", "y_target": None},
            **{"target": "mnist-small", "training_seconds": None},
        }
    ]
    rows = {row["attack"]: row for row in results["rows"]}
    wanted = ["noise-uniform", "noise-sign", "fgsm", "ifgsm", "ifgsm-projected", "deepfool"]
    wanted += ["advgan", "advgan:steps=2"]
    assert list(rows) == wanted
    for row in rows.values():
        assert tuple(row) == ROW_KEYS
        assert (row["status"], row["n"], row["norm"], row["eps"]) == ("ok", 48, "linf", 0.25)
        assert row["clean_accuracy"] >= 0.9
        assert row["linf_max"] <= 0.25 + 1e-6 or row["protocol"] == "minimal-norm"
    assert rows["ifgsm"]["asr"] >= rows["fgsm"]["asr"] > rows["noise-sign"]["asr"]
    assert rows["deepfool"]["asr_any_norm"] == 1
    assert (rows["deepfool"]["attack_norm"], rows["fgsm"]["attack_norm"]) == ("l2", "linf")
    assert (rows["advgan"]["forwards_per_image"], rows["advgan"]["backwards_per_image"]) == (0, 0)
    assert rows["advgan:steps=2"]["backwards_per_image"] == 2
    assert (rows["advgan"]["access"], rows["advgan:steps=2"]["access"]) == ("generator", "gradients")
    assert results["environment"]["settings"]["output_dir"] == str(out)

    assert "Bounded attacks on mnist-small, linf eps 0.25" in done.stdout
    assert str(out / "results.json") in done.stdout
    assert f"tensorboard --logdir '{out / 'logs'}' --samples_per_plugin images=100" in done.stdout
    assert "total" in done.stderr
    assert "8/8" in done.stderr
    assert "advgan" in (out / "report.md").read_text()
    assert (out / "report.html").read_text().startswith("<!DOCTYPE html>")
    assert len(list(csv.DictReader((out / "results.csv").open()))) == len(wanted)
    (file,) = (out / "records").glob("*_ifgsm_*.csv")
    with file.open(newline="") as lines:
        records = list(csv.DictReader(lines))
    assert [int(record["id"]) for record in records] == list(range(48))
    counts = [record for record in records if record["counts"] == "True"]
    assert sum(record["success"] == "True" for record in counts) / len(counts) == pytest.approx(rows["ifgsm"]["asr"])
    assert all(float(record["linf"]) <= 0.25 + 1e-6 for record in records)
    events = EventAccumulator(str(out / "logs" / "compare" / "ifgsm"))
    events.Reload()
    assert events.Scalars("asr/mnist-small linf 0.25")[0].value == pytest.approx(rows["ifgsm"]["asr"])
    schema = json.loads((ROOT / "advgan/evaluation/results.schema.json").read_text())
    jsonschema.validate(results, schema)


def test_bad_input_is_one_line_and_exit_code_2(script: Run, tmp_path: Path) -> None:
    done = script("eval/compare.py", "--attacks", "fgms", "--output-dir", tmp_path / "out", code=2)
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: unknown attack 'fgms'; did you mean ")
    assert not (tmp_path / "out").exists()


def test_attacks_can_be_chosen_with_commas_and_spaces(call: Callable[..., list[dict]]) -> None:
    rows = call("--attacks", "fgsm,noise-sign", "deepfool-linf", "--eps", "8/255", "--max-samples", 9)
    assert [row["attack"] for row in rows] == ["fgsm", "noise-sign", "deepfool-linf"]
    assert {row["eps"] for row in rows} == {8 / 255}
    assert {row["n"] for row in rows} == {9}


def test_every_attack_against_two_targets_in_two_norms(
    call: Callable[..., list[dict]], classifier: Path, generators: Path, tmp_path: Path
) -> None:
    words = ["--target", "mnist-small", "mnist-small", "--target-weights", classifier, classifier / "classifier"]
    words += ["--attacks", "fgsm", "deepfool", "noise-sign", "advgan", "--generator", generators / "plain"]
    words += ["--eps", "0.1", "0.3", "l2:1.5", "--seeds", 0, 1, "--max-samples", 12]
    rows = call(*words)
    balls = {(row["norm"], row["eps"]) for row in rows}
    assert balls == {("linf", 0.1), ("linf", 0.3), ("l2", 1.5)}
    assert {row["target"] for row in rows} == {f"mnist-small {classifier.name}", "mnist-small classifier"}
    assert len(rows) == 2 * (3 * (1 + 1 + 2) + 1), "a generator trained for 0.25 has no answer at 0.3, or in l2"
    assert all(row["status"] == "ok" for row in rows)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {(entry["attack"], entry["seeds"]) for entry in results["seeds"]} == {("noise-sign", 2)}
    assert len(results["worst_case"]) == 6


def test_what_the_sanity_checks_need(call: Callable[..., list[dict]], classifier: Path, tmp_path: Path) -> None:
    other = load_target("mnist-small", classifier)
    with torch.no_grad():
        next(other.parameters()).mul_(1.1)
    save_target(other, tmp_path / "other", "# Another classifier")
    words = ["--surrogate", "mnist-small", "--surrogate-weights", tmp_path / "other"]
    rows = call("--attacks", "fgsm", "--eps", "0.05", "0.2", "--sanity", "--max-samples", 12, *words)
    assert {(row["eps"], row["attack"]) for row in rows if row["eps"] == 0.5} == {(0.5, "pgd:steps=40")}
    assert {row["access"] for row in rows} == {"nothing", "gradients", "scores", "transfer"}
    verdicts = json.loads((tmp_path / "out" / "results.json").read_text())["sanity"]
    assert all(
        verdict["verdict"] != "not tested" for verdict in verdicts if "generator" not in verdict["check"].lower()
    )


@pytest.mark.usefixtures("undrawn")
def test_a_killed_comparison_goes_on_with_what_is_missing(
    script: Run, digits: Path, classifier: Path, tmp_path: Path
) -> None:
    words = ["eval/compare.py", "--dataset", "folder", "--data-dir", digits, "--target", "mnist-small"]
    words += [
        "--target-weights",
        classifier,
        "--attacks",
        "noise-sign",
        "pgd:steps=150",
        "--max-samples",
        24,
        "--threads",
        1,
    ]
    killed = fork(*words, "--output-dir", tmp_path / "killed", output=tmp_path / "output.txt")
    wait_for(tmp_path / "killed", "cells/[!.]*/cell.json", killed)  # not one that is being written
    killed.kill()
    wait(killed, code=-signal.SIGKILL)
    assert not (tmp_path / "killed" / "results.json").exists()

    done = script(*words, "--output-dir", tmp_path / "killed")
    assert "1 of 2 results are cached from an earlier run" in done.stdout, done.stdout[-700:]
    script(*words, "--output-dir", tmp_path / "whole")
    rows = []
    for directory in ("killed", "whole"):
        results = json.loads((tmp_path / directory / "results.json").read_text())
        rows.append([{k: v for k, v in row.items() if "second" not in k} for row in results["rows"]])
        assert all(path.suffix == ".csv" for path in (tmp_path / directory / "records").iterdir())
    assert rows[0] == rows[1]
    for one, other in zip(*(sorted((tmp_path / d / "records").iterdir()) for d in ("killed", "whole")), strict=True):
        assert (one.name, one.read_text()) == (other.name, other.read_text())


def test_a_smaller_eps_than_the_generators(call: Callable[..., list[dict]], generators: Path) -> None:
    (row,) = call("--generator", generators / "plain", "--attacks", "advgan", "--eps", 0.1)
    assert 0 < row["linf_max"] <= 0.1 + 1e-6


def test_in_l2(call: Callable[..., list[dict]], generators: Path) -> None:
    rows = call("--generator", generators / "l2", "--max-samples", 12)
    assert {(row["norm"], row["eps"], row["status"]) for row in rows} == {("l2", 2.0, "ok")}


def test_targeted(call: Callable[..., list[dict]], generators: Path) -> None:
    rows = call("--generator", generators / "to-1", "--eps", 0.3, "--max-samples", 18)
    assert [row["attack"] for row in rows] == [
        *("noise-uniform", "noise-sign", "fgsm", "ifgsm", "ifgsm-projected", "advgan", "advgan:steps=2")
    ]
    assert {(row["targeted"], row["y_target"], row["status"]) for row in rows} == {(True, 1, "ok")}
    assert {row["y_target_name"] for row in rows} == {"middle"}
    assert all(row["n_attacked"] <= 12 for row in rows)


def test_the_same_seed_gives_the_same_noise(call: Callable[..., list[dict]]) -> None:
    first, again, other = (
        call("--attacks", "noise-uniform", "--max-samples", 6, "--seeds", seed)[0] for seed in (3, 3, 4)
    )
    assert first["l2_mean"] == again["l2_mean"] != other["l2_mean"]


def test_several_generators_and_defenses_share_the_baselines(
    call: Callable[..., list[dict]], generators: Path, tmp_path: Path
) -> None:
    words = ["--attacks", "fgsm,advgan", "--defense", "none", "bit-depth:bits=3", "--max-samples", 9, "--eps", 0.2]
    both = call(*words, "--generator", generators / "plain", generators / "narrow")
    assert len({row["target"] for row in both}) == 2
    assert both[3]["target"].endswith("+ bit-depth:bits=3")
    assert [row["attack"] for row in both] == ["fgsm", "advgan (plain)", "advgan (narrow)"] * 2
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [each["attack"] for each in results["generators"]] == ["advgan (plain)", "advgan (narrow)"] * 2
    schema = json.loads((ROOT / "advgan/evaluation/results.schema.json").read_text())
    jsonschema.validate(results, schema)
    cells = sorted(path.name for path in (tmp_path / "out" / "cells").iterdir())
    assert sum("fgsm" in name for name in cells) == 2  # once for each defense
    plain, narrow = (row["l2_mean"] for row in both[1:3])
    assert plain != narrow


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--eps", "linf:0.1", "l2:2", "--norm", "l2"], "each eps has its norm, expected no norm, got l2"),
        (["--eps", "l3:1"], "eps must look like 0.3, 8/255, linf:0.3 or l2:2, got 'l3:1'"),
        (["--attacks", "pgd:stepz=3"], "attack pgd cannot take 'stepz=3'"),
        (["--target", "mnist-a", "mnist-b"], "one target-weights for each target, got 1 for 2 targets"),
        (["--generator", "plain", "plain"], "expected generators in runs of different names, got plain, plain"),
        (["--surrogate", "mnist-a"], "a surrogate needs a name and weights"),
        (["--surrogate", "mnist-small", "--surrogate-weights", "target"], "is one of the targets"),
        (["--attacks", "fgsm", "pgd:steps=0"], "steps must be at least 1, got 0"),
        (["--attacks", "fgsm:loss=difference"], "loss difference compares the target class with the true one"),
        (["--attacks", "advgan"], "attack advgan needs a trained generator, expected --generator DIR"),
        (["--attacks", "deepfool", "--y-target", "1"], "attack deepfool has no targeted form"),
        (["--eps", "0"], "eps must be in (0, 1]"),
        (["--eps", "2"], "eps must be in (0, 1]"),
        (["--eps", "8/0"], "8/0"),
        (["--y-target", "3"], "y_target must be a class from 0 to 2, got 3"),
        (["--y-target", "midle"], "has no class 'midle'; did you mean middle?"),
        (["--max-samples", "0"], "the number of images must be at least 1, got 0"),
        (["--batch-size", "0"], "batch_size must be at least 1, got 0"),
        (["--seeds", "-1"], "seeds must be one or more from 0 to 4294967295, got (-1,)"),
        (["--threads", "0"], "threads must be at least 1, got 0"),
        (["--target", "mnist-z"], "unknown target 'mnist-z'"),
        (["--target-weights", "nowhere"], "no target weights at nowhere"),
        (["--dataset", "mnist6k"], "unknown data set 'mnist6k'"),
        (["--data-dir", "nowhere"], "no folder or list of images nowhere; expected train/"),
        (["--generator", "nowhere"], "no generator in nowhere"),
        (["--generator", "plain", "--eps", "0.3"], "this generator was trained for eps 0.25"),
        (["--generator", "plain", "--norm", "l2"], "trained for norm linf, got l2"),
        (["--generator", "plain", "--y-target", "1"], "was trained untargeted"),
        (["--generator", "rgb"], "this generator expects float images (n, 3, h, w)"),
    ],
)
def test_what_it_says_when_it_cannot_run(
    words: list[str],
    message: str,
    call: Callable[..., list[dict]],
    generators: Path,
    classifier: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [str(generators / word) if word in ("plain", "rgb") else word for word in words]
    words = [str(classifier) if word == "target" else word for word in words]
    with pytest.raises(SystemExit) as stop:
        call(*words)
    assert stop.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_an_output_directory_that_cannot_be_written(
    call: Callable[..., list[dict]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(SystemExit):
        call("--attacks", "fgsm")
    assert "cannot write to output directory" in capsys.readouterr().err
