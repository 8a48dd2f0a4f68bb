"""Programs that another one runs: in order, each once, and never somebody else's."""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from advgan.core.errors import InputError
from advgan.experiments import trainings as programs
from advgan.experiments.trainings import parse_commands, run_all


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What would have been started; each "fails" with the code in `started.code` of that program, none by default."""
    found: list[list[str]] = []

    def ended(command: list[str]) -> int:
        found.append(command[2:])
        return 1 if "--epochs" in command and command[command.index("--epochs") + 1] == "666" else 0

    monkeypatch.setattr(programs, "run_until_signal", ended)
    return found


def line(out: Path, *more: object) -> str:
    return " ".join(map(str, ("train/classifier.py", *more, "--output-dir", out)))


def test_a_finished_one_is_not_run_again(started: list[list[str]], tmp_path: Path) -> None:
    lines = [line(tmp_path / "a"), line(tmp_path / "b", "--epochs", 2)]
    for _ in range(2):
        run_all(parse_commands(lines), "--threads", 1)
    assert started == [
        ["--threads", "1", "--output-dir", str(tmp_path / "a")],
        ["--threads", "1", "--epochs", "2", "--output-dir", str(tmp_path / "b")],
    ]
    assert json.loads((tmp_path / "b" / "prepared.json").read_text())["command"] == lines[1]


def test_a_changed_one_runs_anew_and_so_does_what_takes_its_run(started: list[list[str]], tmp_path: Path) -> None:
    recipe = tmp_path / "fast.yaml"

    def ask() -> None:
        first = line(tmp_path / "a", "--recipe", recipe)
        second = f"train/advgan.py --target {tmp_path / 'a'} --output-dir {tmp_path / 'b'}"
        run_all(parse_commands([first, second, line(tmp_path / "c")]))

    recipe.write_text("epochs: 2\n")
    ask()
    recipe.write_text("epochs: 3\n")
    ask()
    assert [words[-1] for words in started[3:]] == ["--overwrite"] * 2
    assert [str(tmp_path / name) in words for name, words in zip("ab", started[3:], strict=True)] == [True] * 2
    ask()
    assert len(started) == 5


def test_another_guide_is_another_run_and_so_is_one_trained_anew(tmp_path: Path) -> None:
    def last(guide: str, *more: object) -> str:
        text = f"train/advgan.py --guide-dir {tmp_path / guide} --output-dir {tmp_path / 'b'}"
        return parse_commands([line(tmp_path / "a", *more), text])[-1].sha256

    assert len({last("a"), last("a"), last("other"), last("a", "--epochs", 3)}) == 3


def test_an_interrupted_one_goes_on_and_what_was_made_stays(started: list[list[str]], tmp_path: Path) -> None:
    lines = [line(tmp_path / "a"), line(tmp_path / "b", "--epochs", 666)]
    with pytest.raises(SystemExit, match=r"train/classifier.py ended with exit code 1"):
        run_all(parse_commands(lines))
    assert json.loads((tmp_path / "b" / "prepared.json").read_text())["done"] is False
    with pytest.raises(SystemExit):
        run_all(parse_commands(lines))
    (tmp_path / "b" / "state" / "classifier" / "step-0000003").mkdir(parents=True)
    with pytest.raises(SystemExit):
        run_all(parse_commands(lines))
    endings = [words[-1] for words in started if str(tmp_path / "b") in words]
    assert endings == [str(tmp_path / "b"), "--overwrite", "--resume"], "without a saved state it begins again"
    assert sum(str(tmp_path / "a") in words for words in started) == 1


def test_one_that_was_stopped_alone_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal to the child alone: it saves and ends with exit code 0, before its last step."""
    words: list[list[str]] = []

    def stopped(command: list[str]) -> int:
        state = tmp_path / "a" / "state" / "classifier" / "step-0000003"
        state.mkdir(parents=True, exist_ok=True)
        (state / "progress.json").write_text(json.dumps({"step": 3, "steps": 3 if words else 4}))
        words.append(command)
        return 0

    monkeypatch.setattr(programs, "run_until_signal", stopped)
    with pytest.raises(SystemExit, match=r"train/classifier.py was stopped before its end; the same command goes on"):
        run_all(parse_commands([line(tmp_path / "a")]))
    assert json.loads((tmp_path / "a" / "prepared.json").read_text())["done"] is False
    run_all(parse_commands([line(tmp_path / "a")]))
    assert words[1][-1] == "--resume"
    assert json.loads((tmp_path / "a" / "prepared.json").read_text())["done"] is True


def test_somebody_elses_run_is_left_alone(started: list[list[str]], tmp_path: Path) -> None:
    (tmp_path / "a" / "classifier").mkdir(parents=True)
    with pytest.raises(InputError, match=r"a has contents that are not of .*, expected an empty directory"):
        run_all(parse_commands([line(tmp_path / "first"), line(tmp_path / "a")]))
    assert started == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rm -rf data", "expected a command of a program train/.* got 'rm -rf data'"),
        ("eval/compare.py --output-dir {out}", "expected a command of a program train/"),
        ("train/../eval/compare.py", "expected a command of a program train/"),
        ("train/armour.py --output-dir {out}", "expected a command of a program train/"),
        ("", "expected a command of a program train/"),
        ("train/classifier.py 'x", "cannot read the command .* No closing quotation"),
        ("train/classifier.py --armour 3", "train/classifier.py does not take the flags of"),
        ("train/classifier.py --output-dir {out} --overwrite", "without --resume and --overwrite"),
        ("train/classifier.py --recipe {out}/none.yaml", "cannot read recipe"),
    ],
)
def test_only_trainings_of_this_repository(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        parse_commands([text.format(out=tmp_path)])


def test_each_has_a_directory_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected an --output-dir for each command"):
        parse_commands([line(tmp_path / "a"), line(tmp_path / "a", "--epochs", 2)])


def test_who_is_stopped_waits_until_the_program_has_saved(tmp_path: Path) -> None:
    ready, saved = tmp_path / "ready", tmp_path / "saved"
    code = (
        "import pathlib, signal, sys, time\n"
        f"signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path({str(saved)!r}).touch(), sys.exit(143)))\n"
        f"pathlib.Path({str(ready)!r}).touch()\n"
        "time.sleep(60)\n"
    )

    def stop() -> None:
        while not ready.exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop).start()
    with pytest.raises(SystemExit) as ending:
        programs.run_until_signal([sys.executable, "-c", code])
    assert (ending.value.code, saved.exists()) == (143, True)
