"""eval/defenses.py: rows from words, nothing run twice, a killed one goes on, and the pages say what the rows say."""

import csv
import importlib
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from advgan import Generator
from advgan.classifiers import build_target, fingerprint, save_target
from advgan.core.config import run
from advgan.core.errors import InputError
from advgan.data import load_data
from advgan.defenses import ClassifierSpec, load_classifier
from advgan.evaluation import GridPoint, ResultCache
from advgan.evaluation.runner import relative_time
from advgan.experiments.defenses import report as defenses_figures
from advgan.experiments.defenses.rows import MatrixRow, load_rows, parse_row, parse_rows
from tests.conftest import Run

matrix = importlib.import_module("advgan.experiments.defenses.run")
Call = Callable[..., dict[str, Any]]
NAME = "<b>coarse|&"
TIMES = {"seconds_per_image", "images_per_second", "relative_time"}


@pytest.fixture(scope="module")
def hardened(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of another classifier of the bars, that knows nothing yet, and how long it took."""
    torch.manual_seed(2)
    directory = tmp_path_factory.mktemp("runs") / "hardened"
    save_target(build_target("mnist-small", (1, 28, 28), 3).eval(), directory / "classifier", "# Hardened")
    (directory / "classifier" / "training.json").write_text(json.dumps({"training_seconds": 12.5}))
    return directory


@pytest.fixture
def basics(digits: Path, classifier: Path) -> list[object]:
    words = ["--dataset", "folder", "--data-dir", digits, "--target", "mnist-small", "--target-weights", classifier]
    return [*words, "--threads", 1, "--eps", 0.2, "--max-samples", 9]


@pytest.fixture
def call(basics: list[object], tmp_path: Path, undrawn: None) -> Call:
    """Run it in this process, on the bars, and read what it wrote."""

    def run_it(*words: object, out: str = "out") -> dict[str, Any]:
        argv = [str(word) for word in (*basics, "--output-dir", tmp_path / out, *words)]
        run(matrix.main, matrix.Settings, argv)
        found: dict[str, Any] = json.loads((tmp_path / out / "defenses.json").read_text())
        return found

    return run_it


def generator(folder: Path, weights: Path, seed: int = 0) -> Path:
    """A generator that says it was trained on the classifier in `weights`."""
    torch.manual_seed(seed)
    Generator(width=8, depth=1, eps=0.25).save_pretrained(folder / "generator")
    told = {"settings": {"target_sha256": fingerprint(load_classifier(str(weights)))}, "training_seconds": 3.0}
    (folder / "training.json").write_text(json.dumps(told))
    return folder


def timeless(found: Any) -> Any:
    """Without the environment and the times, which no two calls share."""
    if isinstance(found, dict):
        return {k: timeless(v) for k, v in found.items() if k not in TIMES | {"environment"}}
    return [timeless(each) for each in found] if isinstance(found, list) else found


def test_as_a_user_runs_it(script: Run, basics: list[object], tmp_path: Path) -> None:
    out, made = tmp_path / "with space", tmp_path / "made here"
    command = "train/classifier.py --dataset folder --target mnist-small --max-steps 2 --batch-size 20"
    command += f" --output-dir {shlex.quote(str(made))}"
    words = ["--rows", "none", f"{NAME}=bit-depth:bits=2", made, "--prepare", command, "--output-dir", out]
    words += ["--attacks", "noise-sign", "fgsm", "fgsm@naive", "fgsm@oblivious"]
    done = script("eval/defenses.py", *basics, *words)
    found = json.loads((out / "defenses.json").read_text())
    rows = {(row["target"], row["column"]): row for row in found["rows"]}
    labels, columns = ["none", NAME, "made here"], ["noise-sign", "fgsm", "fgsm@naive", "fgsm@oblivious"]
    assert (found["columns"], [each["label"] for each in found["defenses"]]) == (columns, labels)
    assert list(rows) == [(label, column) for label in labels for column in columns]
    assert {row["status"] for row in rows.values()} == {"ok"}
    assert [rows[NAME, column]["same_as"] for column in columns] == [None] * 4
    assert [rows["none", column]["same_as"] for column in columns] == [None, None, "fgsm", "fgsm"]
    assert rows["none", "fgsm@naive"]["asr"] == rows["none", "fgsm"]["asr"] > 0
    assert (rows[NAME, "fgsm@naive"]["asr"], rows[NAME, "fgsm@naive"]["linf_max"]) == (0, 0)
    assert rows[NAME, "fgsm@oblivious"]["access"] == "transfer"
    for each in found["defenses"]:
        own = [rows[each["label"], column] for column in columns]
        assert each["worst_case"]["asr"] >= max(row["asr"] for row in own)
        assert each["worst_case"]["robust_accuracy"] <= min(row["robust_accuracy"] for row in own)
        assert each["clean_accuracy"] == own[0]["clean_accuracy"]
        assert each["relative_time"] > 0
    none, coarse, _ = found["defenses"]
    assert none["relative_time"] == 1
    assert not any(rule["check"] == "Gradients reach the images" for rule in coarse["violated"]), "naive is not meant"

    with (out / "defenses.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    told = [(line["defense"], line["column"]) for line in lines]
    assert told == [*rows, *((label, "worst case") for label in labels)]
    assert float(lines[1]["asr"]) == rows["none", "fgsm"]["asr"]
    page = (out / "defenses.html").read_text()
    assert "<b>coarse" not in page
    assert page.count("&lt;b&gt;coarse|&amp;") >= 4
    assert not re.search(r"(src|href)=\"(?!data:|#)", page), "nothing is loaded"
    text = (out / "defenses.md").read_text()
    assert "&lt;b>coarse\\|&amp;" in text, "a bar would be another column, a tag a tag"
    for name in ("asr", "robust"):
        assert np.asarray(Image.open(out / f"{name}.png")).std() > 5
        assert f"(<{name}.png>)" in text
    events = EventAccumulator(str(out / "logs" / "defenses"))
    events.Reload()
    assert sorted(events.Tags()["images"]) == ["asr", "robust"]
    own = EventAccumulator(str(out / "logs" / "defenses" / "none"))
    own.Reload()
    assert own.Scalars("asr/worst-case")[0].value == pytest.approx(none["worst_case"]["asr"])
    assert "worst case" in done.stdout
    assert "making       1 of 1: train/classifier.py" in done.stdout
    assert json.loads((made / "prepared.json").read_text())["done"] is True


def test_bad_input_is_one_line_and_exit_code_2(call: Call, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        call("--rows", "armour")
    said = capsys.readouterr().err
    assert (stop.value.code, said.count("\n")) == (2, 1)
    assert said.startswith("error: row 'armour' must be none, a directory that is there, or a defense of bit")
    assert not (tmp_path / "out").exists()


def test_a_killed_one_goes_on_and_says_the_same(
    call: Call, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--rows", "none", "bit-depth:bits=2", "--attacks", "noise-sign", "fgsm", "fgsm@naive", "pgd:steps=2")
    whole = call(*words, out="whole")
    real, cells_run = ResultCache.run, []

    def killed(self: ResultCache, point: GridPoint, *given: Any) -> Any:
        if len(cells_run) == 4:
            raise KeyboardInterrupt
        cells_run.append((point.spec.label, point.target.label))
        return real(self, point, *given)

    monkeypatch.setattr(ResultCache, "run", killed)
    with pytest.raises(SystemExit) as stop:
        call(*words)
    assert stop.value.code == 130
    assert [label for label, victim in cells_run if victim == "none"] == ["noise-sign", "fgsm", "pgd:steps=2"]
    monkeypatch.setattr(ResultCache, "run", real)
    capsys.readouterr()
    again = call(*words)
    assert "4 of 7 results are cached from an earlier run" in capsys.readouterr().out
    assert timeless(again) == timeless(whole)


def test_generators_of_the_base_and_of_a_row_and_a_surrogate(
    call: Call, classifier: Path, hardened: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, own = generator(tmp_path / "ours", classifier), generator(tmp_path / "own", hardened, seed=1)
    torch.manual_seed(5)
    save_target(build_target("mnist-c", (1, 28, 28), 3).eval(), tmp_path / "other" / "classifier", "# Other")
    words = ["--rows", "none", "bit-depth:bits=2", f"hard={hardened}", "--attacks", "fgsm"]
    found = call(*words, "--generator", ours, own, "--surrogate", tmp_path / "other")
    rows = {(row["target"], row["column"]): row for row in found["rows"]}
    assert found["columns"] == ["fgsm", "transfer", "advgan, of the base", "advgan, trained on it"]
    told = {key: (row["access"], row["same_as"]) for key, row in rows.items() if "advgan" in key[1]}
    assert told == {
        ("none", "advgan, of the base"): ("generator", None),
        ("none", "advgan, trained on it"): ("generator", "advgan, of the base"),
        ("bit-depth:bits=2", "advgan, of the base"): ("transfer", None),
        ("hard", "advgan, of the base"): ("transfer", None),
        ("hard", "advgan, trained on it"): ("generator", None),
    }
    assert {row["access"] for (_, column), row in rows.items() if column == "transfer"} == {"transfer"}
    assert [each["training_seconds"] for each in found["defenses"]] == [None, None, 12.5]
    assert [(each["target"], each["training_seconds"]) for each in found["generators"]] == [("none", 3), ("hard", 3)]
    line = next(line for line in capsys.readouterr().out.splitlines() if line.strip().startswith("bit-depth:bits=2 "))
    assert " – " in line, "nobody says how long the base was trained"
    assert found["surrogate"]["name"] == "mnist-c"

    only = call("--rows", "none", "bit-depth:bits=2", "--attacks", "fgsm", "--generator", ours, out="only")
    assert only["columns"] == ["fgsm", "advgan, of the base"]
    assert {row["column"] for row in only["rows"]} == {"fgsm", "advgan, of the base"}
    for extra, message in (
        (["--rows", "none", "--generator", own], "was trained on neither the base nor any of the rows"),
        (["--rows", "none", "--generator", ours, ours], "expected one generator for none, got"),
        (["--generator", tmp_path / "nowhere"], "there is nothing at .*nowhere, expected a trained network"),
        (["--generator", ours, "--eps", 0.4], "trained for eps 0.25, got the larger 0.4"),
        (["--attacks", "advgan"], "expected attacks, without advgan, whose columns come from --generator"),
        (["--attacks", "pgd:steps=0"], "steps must be at least 1, got 0"),
        (["--surrogate", classifier], "the surrogate .* is one of the rows"),
        (["--batch-size", 0], "batch_size must be at least 1, got 0"),
    ):
        with pytest.raises(SystemExit):
            call(*extra, out="wrong")
        assert re.search(message, " ".join(capsys.readouterr().err.split()))


def test_the_heat_maps_say_what_the_rows_say(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    finish = defenses_figures.style.to_plot

    def keep(figure: Figure, *words: str) -> Any:
        drawn.append(figure)
        return finish(figure, *words)

    monkeypatch.setattr(defenses_figures.style, "to_plot", keep)
    found = call("--rows", "none", "bit-depth:bits=2", "--attacks", "noise-sign", "fgsm", "fgsm@naive")
    for figure, key, first in zip(drawn, ("asr", "robust_accuracy"), (0, 1), strict=True):
        texts = [text.get_text() for text in figure.axes[0].texts]
        grid = np.array(texts).reshape(-1, len(found["defenses"])).T  # drawn column by column
        for line, each in zip(grid, found["defenses"], strict=True):
            rows = [row for row in found["rows"] if row["target"] == each["label"]]
            assert [cell.removeprefix("=") for cell in line[first:-1]] == [f"{100 * row[key]:.0f}" for row in rows]
            assert [cell.startswith("=") for cell in line[first:-1]] == [row["same_as"] is not None for row in rows]
            assert line[-1] == f"{100 * each['worst_case'][key]:.0f}"
            assert first == 0 or line[0] == f"{100 * each['clean_accuracy']:.0f}"
        heads = [tick.get_text() for tick in figure.axes[0].get_xticklabels()]
        assert heads == [*["clean"][:first], "noise-sign", "fgsm", "fgsm@naive", "worst case"]
        assert all(isinstance(text, Text) for text in figure.axes[0].texts)


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ("none", MatrixRow("none", None, None)),
        ("none+bit-depth", MatrixRow("bit-depth", None, "bit-depth")),
        ("bit-depth:bits=2", MatrixRow("bit-depth:bits=2", None, "bit-depth:bits=2")),
        ("bit-depth+bit-depth:bits=2", MatrixRow("bit-depth+bit-depth:bits=2", None, "bit-depth+bit-depth:bits=2")),
        ("2 bits=bit-depth:bits=2", MatrixRow("2 bits", None, "bit-depth:bits=2")),
        ("runs/fast", MatrixRow("fast", Path("runs/fast"), None)),
        ("runs/fast/classifier", MatrixRow("fast", Path("runs/fast/classifier"), None)),
        ("runs/a=b", MatrixRow("a=b", Path("runs/a=b"), None)),
        ("quick=runs/fast", MatrixRow("quick", Path("runs/fast"), None)),
        ("runs/fast+bit-depth:bits=2", MatrixRow("fast + bit-depth:bits=2", Path("runs/fast"), "bit-depth:bits=2")),
        ("quick=runs/fast+bit-depth:bits=2", MatrixRow("quick", Path("runs/fast"), "bit-depth:bits=2")),
    ],
)
def test_what_a_row_may_say(text: str, row: MatrixRow) -> None:
    assert parse_row(text) == row


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "expected one row at least"),
        (["none", "none"], "expected rows of different names .*, got 'none' twice"),
        (["armour:bits=2"], "row 'armour:bits=2' must be none, a directory that is there, or a defense of bit-depth"),
        (["bit-depth:levels=2"], "defense bit-depth cannot take 'levels=2'"),
        (["bit-depth:bits=few"], "bit-depth:bits must be of type int, got 'few'"),
        (["none+armour"], "unknown defense 'armour'"),
        (["none+"], "unknown defense ''"),
    ],
)
def test_what_a_row_may_not_say(texts: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_rows(texts)


def test_a_directory_may_be_made_first(tmp_path: Path) -> None:
    later = tmp_path / "later"
    assert [row.label for row in parse_rows([str(later / "classifier")], [later])] == ["later"]
    with pytest.raises(InputError, match="a directory that is there"):
        parse_rows([str(later)], [tmp_path / "other"])


def test_rows_are_loaded_as_they_say(digits: Path, classifier: Path, hardened: Path) -> None:
    data = load_data("folder", digits)
    x, _ = next(data.test.batches(8))
    rows = parse_rows(["none", "bit-depth:bits=2", f"{hardened}+bit-depth:bits=2"])
    targets, _ = load_rows(rows, ClassifierSpec("mnist-small", classifier), data, torch.device("cpu"))
    coarse = (x * 3).round() / 3
    base, other = load_classifier(str(classifier)), load_classifier(str(hardened))
    expected = (base(x), base(coarse), other(coarse))
    assert all(torch.equal(t.model(x), logits) for t, logits in zip(targets, expected, strict=True))
    assert [target.label for target in targets] == [row.label for row in rows]
    again, _ = load_rows(rows, ClassifierSpec(str(classifier)), data, torch.device("cpu"))
    assert [t.sha256 for t in again] == [t.sha256 for t in targets]


def test_the_pace_is_taken_in_turn() -> None:
    calls: list[str] = []

    class Named(torch.nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            calls.append(self.name)
            return x

    assert relative_time(Named("model"), Named("base"), torch.rand(2, 3), rounds=3) > 0
    assert calls == ["model", "base"] * 4, "the first round is left out"
