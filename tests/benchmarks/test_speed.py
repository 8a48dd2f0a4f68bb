"""benchmarks/speed.py: pairs, tables, errors. No test looks at the times."""

import importlib
import json
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advgan import Generator
from advgan.classifiers import load_target
from advgan.core.config import run
from advgan.core.threat_model import Threat

speed = importlib.import_module("benchmarks.speed")
libraries = importlib.import_module("benchmarks.libraries")
timing = importlib.import_module("benchmarks.timing")
interleaved = importlib.import_module("benchmarks.interleaved")
attacks = importlib.import_module("benchmarks.sections.attacks")
imports = importlib.import_module("benchmarks.sections.imports")
large = importlib.import_module("benchmarks.sections.large")
training_steps = importlib.import_module("benchmarks.sections.training_steps")
Call = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def call(digits: Path, classifier: Path, tmp_path: Path) -> Call:
    """Run it in this process, on 4 of the bars, against foolbox alone; returns the rows that it wrote.

    `kind` makes an untrained generator for it.
    """

    def run_it(*words: object, **kind: Any) -> list[dict[str, Any]]:
        basics = ["--dataset", "folder", "--data-dir", digits, "--target", "mnist-small", "--threads", 1]
        basics += ["--target-weights", classifier, "--rounds", 2, "--images", 4, "--batch-sizes", 3, 100, "--eps", 0.1]
        basics += ["--output-dir", tmp_path / "out", "--peers", "foolbox"]
        if kind:
            torch.manual_seed(0)
            Generator(**{"width": 8, "depth": 1, "eps": 0.25, **kind}).save_pretrained(tmp_path / "generator")
            basics += ["--generator", tmp_path]
        run(speed.main, speed.Settings, [str(word) for word in (*basics, *words)])
        rows: list[dict[str, Any]] = json.loads((tmp_path / "out/speed.json").read_text())["rows"]
        return rows

    return run_it


@pytest.fixture
def model(classifier: Path) -> nn.Module:
    target = load_target("mnist-small", classifier, image_shape=(1, 28, 28), num_classes=3)
    return target.eval().requires_grad_(False)


def sides(rows: list[dict[str, Any]], section: str) -> dict[str, dict[str, Any]]:
    return {row["side"]: row for row in rows if row["section"] == section}


# What is timed, against whom


def test_every_side_attacks_in_every_round_with_every_batch_size(
    call: Call, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    rows = call(width=8)
    foolbox = f"foolbox {metadata.version('foolbox')}"
    stop = ["ours", "ours, stop on success", foolbox]
    assert {name: list(sides(rows, name)) for name in speed.SECTIONS} == {
        "fgsm": ["ours", foolbox],
        "ifgsm": stop,
        "pgd": stop,
        "deepfool": ["ours", foolbox],
        "overhead": ["ifgsm, 10 steps", "pgd, 40 steps"],
        "generator": ["advgan, one pass", "fgsm", "ifgsm, 10 steps", f"{foolbox}, fgsm", "target forward alone"],
    }
    for row in rows:
        assert (row["status"], row["rounds"]) == ("ok", 2)
        times = row["seconds"]
        parts = ["attack", "evaluate", "forward"] if row["section"] == "overhead" else ["3", "4"]
        assert {part: len(times[part]) for part in sorted(times)} == dict.fromkeys(parts, 2), "100 images are all 4"
        assert row.get("violations", []) == []
    assert sorted(row["batch_size"] for row in rows if row["section"] == "overhead") == [3, 3, 4, 4]
    assert list(sides(rows, "ifgsm")[foolbox]["times"]) == ["ours", "ours, stop on success"]
    assert list(sides(rows, "generator")[f"{foolbox}, fgsm"]["times"]) == ["advgan, one pass"]
    assert "asr" not in sides(rows, "generator")["target forward alone"]
    shown, written = " ".join(capsys.readouterr().out.split()), (tmp_path / "out/speed.md").read_text()
    for title in speed.SECTIONS.values():
        assert title in shown
        assert f"## {title}" in written


def test_same_results_where_they_must_be(call: Call) -> None:
    rows = call(
        "--sections", "fgsm,ifgsm", "deepfool", "--rounds", 1, "--images", 48, "--batch-sizes", 48, "--eps", 0.25
    )
    # Theirs raise cross-entropy, whose gradient is zero in float32 where the model is sure: ours turn as many or more.
    for section, least in {"fgsm": 0.5, "ifgsm": 1.0, "deepfool": 1.0}.items():
        ours, theirs = (row for side, row in sides(rows, section).items() if "stop" not in side)
        assert ours["asr"] >= theirs["asr"] >= least
    assert ours["l2_mean"] <= 1.001 * theirs["l2_mean"], "ours is DeepFool's, drawn back to the boundary"
    stopped = sides(rows, "ifgsm")["ours, stop on success"]
    assert stopped["asr"] == sides(rows, "ifgsm")["ours"]["asr"]
    assert stopped["linf_mean"] < sides(rows, "ifgsm")["ours"]["linf_mean"]


def test_each_takes_its_turn(model: nn.Module) -> None:
    asked: list[tuple[str, int]] = []

    def side(name: str) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda x, y: asked.append((name, len(x))) or x

    x, y = torch.rand(9, 1, 28, 28), torch.zeros(9, dtype=torch.int64)
    bench = timing.BenchmarkSetup(model, x, y, model(x), [4, 9], rounds=2, budget=1e9)
    found = timing.interleave(bench, {"a": side("a"), "b": side("b")})
    warm_up = [*(("a", n) for n in (8, 4, 9)), *(("b", n) for n in (8, 4, 9))]
    once = [("a", 4), ("a", 4), ("a", 1), ("b", 4), ("b", 4), ("b", 1), ("a", 9), ("b", 9)]
    assert asked == warm_up + 2 * once
    assert all(torch.equal(answer, x) for answer in found.outputs.values())


def test_who_has_used_up_the_budget_has_one_round(call: Call) -> None:
    rows = call("--sections", "fgsm", "overhead", "--budget", "1e-9", "--rounds", 5)
    assert {row["rounds"] for row in rows} == {1}


def test_peers_that_cannot_take_part_are_named_with_the_reason(
    call: Call, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def needs_more(*_: object) -> dict[str, Any]:
        raise ModuleNotFoundError("No module named 'plotter'")

    def crash(x: Tensor, y: Tensor) -> Tensor:
        raise RuntimeError("out of\nluck")

    def leave(x: Tensor, y: Tensor) -> Tensor:
        return x + 0.5

    for name, make in {
        "needy": needs_more,
        "frail": lambda *_: {"fgsm": crash},
        "wild": lambda *_: {"fgsm": leave},
    }.items():
        monkeypatch.setitem(libraries.LIBRARIES, name, libraries.Library(make, "torch"))
    absent = libraries.Library(needs_more, "no-such-distribution", "pip install it")
    monkeypatch.setitem(libraries.LIBRARIES, "absent", absent)
    rows = call("--sections", "fgsm", "ifgsm", "--peers", "absent", "needy", "frail", "wild")
    version = metadata.version("torch")
    said = {side: row["status"] for side, row in sides(rows, "fgsm").items()}
    assert said == {
        "ours": "ok",
        f"frail {version}": "failed: RuntimeError: out of luck",
        f"wild {version}": "ok",
        "absent": "skipped: not installed: pip install it",
        "needy": "skipped: cannot be used: ModuleNotFoundError: No module named 'plotter'",
    }
    assert len(sides(rows, "fgsm")[f"wild {version}"]["violations"]) == 2
    assert sides(rows, "ifgsm")[f"frail {version}"]["status"] == "skipped: has no such attack"
    shown = " ".join(capsys.readouterr().out.split())
    assert all(word in shown for word in ("absent", "needy", "plotter", "luck", "exceeds"))


def test_no_generator_and_no_peers(call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    rows = call("--peers", "none", "--rounds", 1, "--images", 2)
    assert list(sides(rows, "fgsm")) == ["ours"]
    assert sides(rows, "generator")["advgan, one pass"]["status"] == "skipped: no --generator DIR given"
    assert "no --generator DIR given" in capsys.readouterr().out


@pytest.mark.parametrize("name", libraries.LIBRARIES)
@pytest.mark.parametrize("threat", [Threat("linf", 0.1), Threat("l2", 1.0), Threat("linf", 0.1, targeted=True)])
def test_peers_do_the_work_that_they_are_asked_for(name: str, threat: Threat, model: nn.Module) -> None:
    torch.manual_seed(0)
    x, y = torch.rand(3, 1, 28, 28), model(torch.rand(3, 1, 28, 28)).argmax(1)
    y_target, able = 1 if threat.targeted else None, set()
    for section in ("fgsm", "ifgsm", "pgd", "pgd10", "deepfool"):
        present, absent = libraries.load_attacks([name], section, model, threat, y_target)
        if name in absent:
            pytest.skip(f"{name} is {absent[name]}")
        assert len(present | absent) == 1
        limits = Threat("linf", 1.0) if section == "deepfool" else threat  # any distance, within the box
        for attack in present.values():
            assert limits.violations(attack(x.clone(), y.clone()).detach(), x) == []
            able.add(section)
    everything = {"fgsm", "ifgsm", "pgd", "deepfool"}
    if threat == Threat("linf", 0.1):
        wanted = {"torchattacks": everything | {"pgd10"}, "adv-lib": {"pgd", "deepfool"}}
        assert able == wanted.get(name, everything)
    assert not (threat.targeted and "deepfool" in able)


# The generator's section


@pytest.mark.parametrize("kind", [{"norm": "l2", "eps": 3.0}, {"y_target": 1}, {"norm": "l2", "y_target": 1}])
def test_all_attacks_have_the_generators_ball_and_aim(
    kind: dict[str, Any], call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    for name in ("fgsm", "ifgsm"):
        attack = getattr(attacks, name)
        monkeypatch.setattr(attacks, name, lambda *a, attack=attack, **k: asked.append(k) or attack(*a, **k))
    rows = call("--sections", "generator", "--batch-sizes", 4, "--peers", "art", **kind)
    for words in asked:
        assert (words["norm"], words["eps"]) == (kind.get("norm", "linf"), kind.get("eps", 0.25))
        assert words["y_target"] is None if "y_target" not in kind else set(words["y_target"].tolist()) == {1}
    assert all(row["status"] == "ok" and row.get("violations", []) == [] for row in rows)
    words = f"{kind.get('norm', 'linf')} eps {kind.get('eps', 0.25):g}" + (
        " toward class 1" if "y_target" in kind else ""
    )
    assert {row["threat"] for row in rows} == {words}


def test_success_toward_a_class_is_that_class() -> None:
    class Answer(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)

    x, y = torch.eye(3)[[0, 0, 1, 1]].view(4, 1, 1, 3), torch.tensor([0, 0, 2, 1])  # the third is wrong from the start
    x_adv = torch.eye(3)[[1, 2, 1, 1]].view(4, 1, 1, 3)
    bench = timing.BenchmarkSetup(Answer(), x, y, Answer()(x), [4], 1, 1.0)
    any_class = timing.success_and_norms(bench, x_adv, Threat("linf", 1.0), None, False)
    assert any_class["asr"] == pytest.approx(2 / 3)
    assert any_class["l2_mean"] == pytest.approx(2 * 2**0.5 / 3)
    assert timing.success_and_norms(bench, x_adv, Threat("linf", 1.0), None, True)["l2_mean"] == pytest.approx(2**0.5)
    assert timing.success_and_norms(bench, x_adv, Threat("linf", 1.0), 1, False)["asr"] == 0.5, (
        "the last is of that class already"
    )


# What has networks of its own


def test_in_turn_each_measures_itself_until_it_fails_or_the_time_is_up(model: nn.Module) -> None:
    x, y = torch.rand(2, 1, 28, 28), torch.zeros(2, dtype=torch.int64)
    bench = timing.BenchmarkSetup(model, x, y, model(x), [2], rounds=3, budget=1e9)
    asked: list[str] = []
    took = {"slow": [4.0, 6.0, 10.0], "fast": [2.0, 2.0, 2.0], "frail": [1.0]}

    def side(name: str) -> Callable[[], float]:
        def measure() -> float:
            asked.append(name)
            if not took[name]:
                raise interleaved.MeasurementFailed("out of luck")
            return took[name].pop(0)

        return measure

    slow, fast, frail = interleaved.interleave_measurements(
        bench, {name: side(name) for name in took}, "fast", "a step"
    )
    assert asked == ["slow", "fast", "frail"] * 2 + ["slow", "fast"]
    assert (slow["seconds"], slow["median"], slow["times"]) == ([4.0, 6.0, 10.0], 6.0, {"fast": [3.0, 2.0, 5.0]})
    assert fast["times"] == {"fast": [1.0, 1.0, 1.0]}
    assert frail == {"side": "frail", "status": "failed: out of luck", "unit": "a step"}

    took["slow"], took["fast"] = [1.0], [1.0]
    spent = timing.BenchmarkSetup(model, x, y, model(x), [2], rounds=3, budget=1e-9)
    assert (
        interleaved.interleave_measurements(spent, {"slow": side("slow"), "fast": side("fast")}, "fast", "a step")[0][
            "rounds"
        ]
        == 1
    )


def test_one_pass_beside_a_large_target(
    call: Call, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def tiny(weights: None) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 4, 16, 16), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14 * 14, 5))

    monkeypatch.setattr(large, "resnet50", tiny)
    monkeypatch.setattr(large, "IMAGES", {"cpu": 2})
    rows = call("--sections", "large")
    theirs = f"torchattacks {metadata.version('torchattacks')}, pgd, 10 steps"
    assert list(sides(rows, "large")) == ["advgan, one pass", "pgd, 10 steps", "target forward alone", theirs]
    for row in rows:
        assert (row["status"], row["rounds"], list(row["seconds"])) == ("ok", 2, ["2"])
        assert "asr" not in row
        assert list(row["times"]) == ["advgan, one pass"]
    assert "One pass at 224 x 224" in capsys.readouterr().out


@pytest.mark.parametrize("section", ["compile", "processes", "import"])
def test_what_runs_in_processes_of_its_own(
    section: str, call: Call, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    asked: list[tuple[str, ...]] = []

    def step(launch: tuple[str, ...], flags: tuple[str, ...]) -> float:
        asked.append((*launch[-2:], *flags))
        if len(asked) > 3:
            raise interleaved.MeasurementFailed("error: no compiler")
        return 0.5

    monkeypatch.setattr(training_steps, "seconds_a_step", step)
    monkeypatch.setattr(imports, "seconds_of", lambda statement: 1.0 if statement == "import torch" else 1.25)
    monkeypatch.setattr(imports, "heavy_imports", lambda statement: ["scipy"] if "attacks" in statement else [])
    found = sides(call("--sections", section), section)
    shown, written = capsys.readouterr().out, (tmp_path / "out/speed.md").read_text()
    if section == "import":
        assert list(found) == ["import torch", *imports.STATEMENTS]
        assert {row["median"] for row in found.values()} == {1.0, 1.25}
        assert found["import advgan"]["times"] == {"import torch": [1.25, 1.25, 1.25]}
        assert "| import advgan | 1.250 | 1.25 (1.25 to 1.25) | 2 |  |" in written
        assert "imports scipy" in shown
        return
    one, two = ("--threads", "1"), ("--threads", "2")
    wanted = {
        "compile": [one, (*one, "--compile")],
        "processes": [(training_steps.LAUNCH[-1], "--cpu", *two), ("--nproc-per-node", "2", *one)],
    }[section]
    assert asked == wanted * 2, "each in turn"
    rows = list(found.values())
    assert [row["status"] for row in rows] == ["ok", "failed: error: no compiler"]
    assert "no compiler" in shown


def test_a_training_says_how_long_its_steps_took(script: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(training_steps, "STEPS", 1)
    with monkeypatch.context() as here:
        here.setattr(training_steps.subprocess, "run", lambda command, **_: script(*command[1:]))
        assert training_steps.seconds_a_step((), ("--threads", "1", "--width", "8", "--batch-size", "16")) > 0
    (tmp_path / "train").mkdir()
    stub = "import sys; print('a warning\\nerror: no way', file=sys.stderr); sys.exit(2)"
    (tmp_path / "train/advgan.py").write_text(stub)
    monkeypatch.setattr(training_steps, "ROOT", tmp_path)
    with pytest.raises(interleaved.MeasurementFailed, match=r"^train/advgan.py --compile: error: no way$"):
        training_steps.seconds_a_step((), ("--compile",))


def test_importing_the_library_brings_nothing_heavy() -> None:
    assert imports.seconds_of("import sys") >= 0
    assert imports.heavy_imports("from advgan import Generator, InputError, Threat") == []
    library = "attacks, advgan.bridges, advgan.data, advgan.defenses, advgan.evaluation, advgan.classifiers"
    extras = {"timm", "transformers", "datasets", "onnx", "onnxruntime", "onnxscript", "torchvision"}
    extras |= {"foolbox", "torchattacks", "art"}
    assert not extras & set(imports.heavy_imports(f"import advgan.{library}"))
    with pytest.raises(interleaved.MeasurementFailed, match="import nothing_like_it: ModuleNotFoundError"):
        imports.seconds_of("import nothing_like_it")


# Bad input


@pytest.mark.parametrize(
    ("words", "kind", "message"),
    [
        (["--rounds", 0], {}, "images and rounds must be at least 1 and budget positive, got 4, 0 and 600"),
        (["--images", 0], {}, "images and rounds must be at least 1"),
        (["--budget", 0], {}, "budget positive, got 4, 2 and 0"),
        (["--batch-sizes", 100, 0], {}, "batch_sizes must be one number or more, each at least 1, got (100, 0)"),
        (["--eps", "300/255"], {}, "eps must be in (0, 1]"),
        (["--sections", "fgsm", "cw"], {}, "unknown section 'cw', expected some of fgsm, ifgsm, pgd"),
        (["--peers", "cleverhans"], {}, "unknown peer 'cleverhans', expected some of foolbox, torchattacks"),
        (["--sections", "fgsm,generator"], {}, "expected --generator DIR, got none"),
        (["--threads", 0], {}, "threads must be at least 1, got 0"),
        (["--generator", "nowhere"], {}, "no generator in nowhere"),
        (["--data-dir", "nowhere"], {}, "no folder or list of images nowhere"),
        (["--target-weights", "nowhere"], {}, "no target weights at nowhere"),
        (["--output-dir", "/dev/null/out"], {}, "cannot write to output directory /dev/null/out"),
        ([], {"channels": 3}, "this generator expects float images (n, 3, h, w)"),
        ([], {"y_target": 7}, "y_target must be a class from 0 to 2, got 7"),
        (["--images", 1], {"y_target": 1}, "none of 1 images correctly that are not of class 1"),
    ],
)
def test_what_it_says_when_it_cannot_run(
    words: list[object], kind: dict[str, Any], message: str, call: Call, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        call(*words, **kind)
    assert stop.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("note: ")]
    assert line.startswith("error: ")
    assert message in line


@pytest.mark.program
def test_as_a_user_runs_it(program: Any, digits: Path, classifier: Path) -> None:
    done = program(
        *("benchmarks/speed.py", "--dataset", "folder", "--data-dir", digits, "--target", "mnist-small"),
        *("--target-weights", classifier, "--sections", "fgsm", "--rounds", 1, "--images", 4, "--threads", 1),
    )
    assert "FGSM: linf eps 0.3, mnist-small, 4 images" in done.stdout
