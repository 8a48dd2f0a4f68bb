"""eval/ablation.py: cells are trained, compared, kept, and never passed off as what they are not."""

import importlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest

from advgan.core.config import parse, run
from advgan.core.json_files import read_sealed, sealed
from advgan.experiments import trainings as programs
from advgan.training.detector import Settings as DetectorSettings
from tests.conftest import Run, no_figures

ablation = importlib.import_module("advgan.experiments.ablation.run")


@pytest.fixture(scope="session")
def words(digits: Path, classifier: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Flags of an ablation that takes seconds, of a recipe of four steps."""
    recipe = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    recipe.write_text(
        "dataset: folder\ntarget: mnist-small\nwidth: 8\ndepth: 1\nbatch-size: 20\nmax-steps: 4\n"
        "validate-every: 2\nthreads: 1\n"
    )
    return ["--train-recipe", str(recipe), "--data-dir", str(digits), "--target-weights", str(classifier)]


@pytest.fixture(scope="session")
def finished(script: Run, words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two cells, whose programs run in this process."""
    out = tmp_path_factory.mktemp("ablation")
    with no_figures(), patch.object(programs, "run_until_signal", lambda command: script(*command[1:]).returncode):
        run(ablation.main, ablation.Settings, [*words, "--variants", "full", "no-gan", "--output-dir", str(out)])
    return out


@pytest.fixture
def call(words: list[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[list[str]]]:
    """Run it in this process with programs that do nothing but end with `code`; returns what was started."""

    def run_it(*more: object, code: int = 0) -> list[list[str]]:
        started: list[list[str]] = []

        def start(command: list[str]) -> int:
            started.append(command[1:])
            return code

        monkeypatch.setattr(programs, "run_until_signal", start)
        run(ablation.main, ablation.Settings, [*words, *map(str, more)])
        return started

    return run_it


def test_cells_and_a_report(finished: Path) -> None:
    cells = json.loads((finished / "results.json").read_text())
    assert list(cells) == ["full", "no-gan"]
    (full,), (without,) = cells.values()
    assert (full["training"]["settings"]["alpha"], without["training"]["settings"]["alpha"]) == (0.1, 0)
    for cell in (full, without):
        assert (cell["training"]["steps"], cell["row"]["status"], cell["row"]["n"]) == (4, "ok", 48)
    assert (finished / "report.md").read_text().count("\n| ") == 2


def test_finished_cells_are_kept_as_a_user_runs_it(finished: Path, script: Run, words: list[str]) -> None:
    trained = (finished / "full-0" / "training.json").read_text()
    done = script("eval/ablation.py", *words, "--variants", "full", "--output-dir", finished)
    assert f"report: {finished / 'report.md'}" in done.stdout
    assert (finished / "full-0" / "training.json").read_text() == trained  # with the times of the first


def test_a_variant_or_a_seed_that_is_given_twice_counts_once(
    finished: Path, call: Callable[..., list[list[str]]], tmp_path: Path
) -> None:
    shutil.copytree(finished, tmp_path / "out")
    (compared,) = call("--variants", "full", "full", "--seeds", 0, 0, "--output-dir", tmp_path / "out")
    assert Path(compared[0]).name == "compare.py"  # not trained again
    (cell,) = json.loads((tmp_path / "out" / "results.json").read_text())["full"]
    assert cell["row"]["status"] == "ok"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--data-dir", "elsewhere"], "data_dir was "),
        (["--target-weights", "elsewhere"], "target_weights was "),
        (["--train-recipe", "wider.yaml"], "width was 8, now 9"),
    ],
)
def test_a_cell_trained_otherwise_is_not_passed_off(
    change: list[str],
    message: str,
    finished: Path,
    words: list[str],
    call: Callable[..., list[list[str]]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if change[1] == "wider.yaml":
        change = [change[0], str(tmp_path / "wider.yaml")]
        (tmp_path / "wider.yaml").write_text(Path(words[1]).read_text().replace("width: 8", "width: 9"))
    with pytest.raises(SystemExit) as stop:
        call("--variants", "full", "--output-dir", finished, *change)
    assert stop.value.code == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "full-0 was trained otherwise" in said
    assert message in said
    assert said.endswith("choose another --output-dir")


def test_a_generator_of_weights_that_were_replaced_is_not_passed_off(
    finished: Path, words: list[str], classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: Run
) -> None:
    """The results of the classifier that was at the same path before were shown."""
    shutil.copytree(finished / "full-0", tmp_path / "full-0")
    record = read_sealed(tmp_path / "full-0" / "training.json")
    record["settings"]["target_sha256"] = "0" * 64  # of the weights of then
    (tmp_path / "full-0" / "training.json").write_text(sealed(record))
    monkeypatch.setattr(programs, "run_until_signal", lambda command: script(*command[1:]).returncode)
    with no_figures(), pytest.raises(SystemExit) as stop:
        run(ablation.main, ablation.Settings, [*words, "--variants", "full", "--output-dir", str(tmp_path)])
    assert stop.value.code == 2


def test_a_training_that_was_stopped_is_not_compared(
    finished: Path, call: Callable[..., list[list[str]]], tmp_path: Path
) -> None:
    stopped = read_sealed(finished / "full-0" / "training.json") | {"steps": 3, "finished": False}
    cell = tmp_path / "full-0"
    (cell / "state" / "generator" / "step-0000003").mkdir(parents=True)
    (cell / "training.json").write_text(json.dumps(stopped))
    with pytest.raises(SystemExit, match="full-0 stopped before its end; the same command goes on"):
        call("--variants", "full", "--output-dir", tmp_path)
    assert not (cell / "results.json").exists()


@pytest.mark.parametrize(("code", "said"), [(2, 2), (3, "error: train/advgan.py ended with exit code 3")])
def test_a_program_that_fails_ends_it(
    code: int, said: object, call: Callable[..., list[list[str]]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        call("--variants", "full", "--output-dir", tmp_path / "out", code=code)
    assert stop.value.code == said
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--variants", "fuller"], "variants must be some of full, no-gan"),
        (["--variants", "full", "alpha=1,beta"], "or settings like alpha=1,beta=0, got 'alpha=1,beta'"),
        (["--variants", "alfa=1"], "alfa"),
        (["--train-recipe", "nowhere.yaml"], "cannot read recipe nowhere.yaml"),
        (["--output-dir", "{tmp}/file"], "cannot write to output directory"),
    ],
)
def test_what_it_says_when_it_cannot_run(
    more: list[str],
    message: str,
    call: Callable[..., list[list[str]]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").write_text("a file")
    with pytest.raises(SystemExit) as stop:
        call("--output-dir", tmp_path / "out", *(word.format(tmp=tmp_path) for word in more))
    assert stop.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_detector_of_each_cell(
    finished: Path, words: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The programs are replaced: the training is a finished one's, the detector writes its result alone."""
    started: list[DetectorSettings] = []

    def start(command: list[str]) -> int:
        if Path(command[1]).name == "compare.py":
            return 0
        assert Path(command[1]).name == "detector.py"
        started.append(parse(DetectorSettings, command[2:]))
        folder = started[-1].output_dir / "detector"
        folder.mkdir()
        (folder / "training.json").write_text(sealed({"attacks": [{"auc": 0.9907, "tpr": 0.5}]}))
        return 0

    shutil.copytree(finished / "no-gan-0", tmp_path / "alpha=0-0")
    monkeypatch.setattr(programs, "run_until_signal", start)
    flags = [*words, "--detector", "--variants", "alpha=0", "--output-dir", str(tmp_path)]
    for _ in range(2):  # the second finds it
        run(ablation.main, ablation.Settings, flags)
    (settings,) = started
    assert (settings.kind, settings.attacks, settings.generator) == ("binary", (), tmp_path / "alpha=0-0")
    assert (settings.target, settings.eps, settings.fpr) == ("mnist-small", 0.3, 0.01)
    header, _, row = (tmp_path / "report.md").read_text().splitlines()[:3]
    cells = dict(zip(*([cell.strip() for cell in line.split("|")[1:-1]] for line in (header, row)), strict=True))
    assert (cells["variant"], cells["D accuracy %"], cells["AUC %"], cells["detected %"]) == (
        "alpha=0",
        "–",
        "99.07",
        "50.00",
    )


def test_the_figures_are_those_of_the_generator_that_was_kept() -> None:
    history = [{"asr": asr, "hinge_active": i} for i, asr in enumerate([0.2, 0.9, 0.9, 0.5])]
    assert ablation.best_validation({"training": {"history": history}})["hinge_active"] == 2
