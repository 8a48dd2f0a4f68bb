"""Whether a checkpoint's training was finished, as its run's files record it, and who warns of it."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from advgan import Generator
from advgan.classifiers import load_target
from advgan.core import training_record as runs
from advgan.core.training_record import checkpoint_folder, describe_checkpoint, unfinished, warn_unfinished
from advgan.evaluation.loading import load_generators
from advgan.report.sections import unfinished_trainings

DONE = {"finished": True, "steps": 8, "total_steps": 8}
BEGUN = {"finished": False, "steps": 3, "total_steps": 8}
OLD = {"steps": 8}  # an earlier version's, which did not record it


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def state(run: Path, artefact: str, step: int, steps: Any) -> None:
    write(run / "state" / artefact / f"step-{step:07d}" / "progress.json", {"step": step, "steps": steps})


@pytest.mark.parametrize(
    ("record", "progress", "expected"),
    [
        (DONE, (8, 8), None),
        (DONE, None, None),
        (BEGUN, None, "step 3 of 8"),  # killed before the first state
        (BEGUN, (5, 8), "step 5 of 8"),
        (BEGUN, (8, 8), None),  # killed between the last state and the last training.json
        (None, (5, 8), "step 5 of 8"),
        (None, (8, 8), None),
        (DONE, (3, 100), "step 3 of 100"),  # training.json is of an earlier run
        (OLD, (3, 100), "step 3 of 100"),
        (OLD, (8, 8), None),
        (OLD, None, None),
        (None, None, None),  # nothing is known of it
    ],
)
def test_the_state_decides_and_without_one_the_record(
    record: Mapping[str, Any] | None, progress: tuple[int, int] | None, expected: str | None, tmp_path: Path
) -> None:
    for artefact, of in (("generator", tmp_path), ("classifier", tmp_path / "classifier")):
        (tmp_path / artefact).mkdir()
        if record is not None:
            write(of / "training.json", record)
        if progress is not None:
            state(tmp_path, artefact, *progress)
        assert unfinished(tmp_path / artefact) == expected


def test_a_run_killed_while_it_saves_its_first_state(tmp_path: Path) -> None:
    (tmp_path / "generator").mkdir()
    (tmp_path / "state" / "generator" / ".step-0000020").mkdir(parents=True)
    assert unfinished(tmp_path / "generator") == "before its first saved state"


def test_a_generators_run_says_nothing_of_the_classifier_beside_it(tmp_path: Path) -> None:
    (tmp_path / "classifier").mkdir()
    write(tmp_path / "training.json", BEGUN)
    state(tmp_path, "generator", 3, 8)
    assert unfinished(tmp_path / "classifier") is None
    assert unfinished(tmp_path / "teacher") is None


def test_a_substitute_is_as_far_as_its_generator(tmp_path: Path) -> None:
    (tmp_path / "classifier").mkdir()
    write(tmp_path / "training.json", {**BEGUN, "substitute": {}})
    assert unfinished(tmp_path / "classifier") == "step 3 of 8"
    state(tmp_path, "generator", 8, 8)
    assert unfinished(tmp_path / "classifier") is None


def test_a_teacher_is_as_far_as_its_distillation(tmp_path: Path) -> None:
    state(tmp_path, "classifier", 12, 24)
    assert unfinished(tmp_path / "teacher") == "step 12 of 24"


@pytest.mark.parametrize("content", ["{", "[]", "null", '{"step": "x", "steps": []}', "[" * 100_000])
def test_files_that_record_nothing_readable(content: str, tmp_path: Path) -> None:
    write(tmp_path / "state" / "generator" / "step-0000003" / "progress.json", content)
    write(tmp_path / "training.json", content)
    assert unfinished(tmp_path / "generator") is None


def test_what_a_path_means(tmp_path: Path) -> None:
    write(tmp_path / "generator" / "model.safetensors", "")
    assert checkpoint_folder(tmp_path, "generator") == tmp_path / "generator"
    assert checkpoint_folder(tmp_path / "generator", "generator") == tmp_path / "generator"
    assert checkpoint_folder(tmp_path / "generator" / "model.safetensors", "generator") == tmp_path / "generator"


def test_whoever_loads_one_is_warned_once(
    classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Generator(width=4, depth=0).save(tmp_path / "generator", "card")
    source = classifier / "classifier" if (classifier / "classifier").is_dir() else classifier
    shutil.copytree(source, tmp_path / "classifier")
    for artefact in ("generator", "classifier"):
        state(tmp_path, artefact, 20, 100)
    (trained,) = load_generators([tmp_path])
    load_target("mnist-small", tmp_path)
    load_target("mnist-small", tmp_path / "classifier" / "model.safetensors")
    Generator.from_pretrained(tmp_path / "generator")
    assert describe_checkpoint(tmp_path / "generator")["training"] == "not finished: step 20 of 100"
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    for line, artefact in zip(lines, ("generator", "classifier"), strict=True):
        assert line.startswith("warning: the training of ")
        assert f"{artefact} was not finished (step 20 of 100)" in line
        assert "--resume (resume=True) continues it" in line
    target: Any = type("T", (), {"label": "t", "sha256": "0"})
    described = trained.describe(target)
    assert described["unfinished"] == "step 20 of 100"
    described_twice = {"targets": [{"label": "t"}], "generators": [described, described]}
    assert unfinished_trainings(described_twice) == [
        f"The training of the generator {tmp_path} was not finished (step 20 of 100): "
        "--resume (resume=True) continues it."
    ]
    monkeypatch.setattr(runs, "_warned", set())
    monkeypatch.setenv("RANK", "1")
    warn_unfinished(tmp_path / "generator")  # the first process has printed it
    assert capsys.readouterr().err == ""
