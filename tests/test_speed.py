"""eval/speed.py: what it puts beside each other, and what it says when it cannot run. No test looks at the times."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from advgan import Generator
from advgan.settings import run

speed = importlib.import_module("eval.speed")


@pytest.fixture
def call(
    digits: Path, classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, Any]]:
    """Run it in this process, on the bars with an untrained generator, and return what its table is made of."""
    shown: dict[str, Any] = {}
    table = speed.table
    monkeypatch.setenv("COLUMNS", "200")

    def look(title: str, seconds: dict, asr: dict, images: int) -> Any:
        shown.update(title=title, seconds=seconds, asr=asr, images=images)
        return table(title, seconds, asr, images)

    monkeypatch.setattr(speed, "table", look)

    def run_it(*words: object, **kind: Any) -> dict[str, Any]:
        torch.manual_seed(0)
        Generator(**{"width": 8, "depth": 1, "eps": 0.25, **kind}).save_pretrained(tmp_path / "generator")
        basics = ["--dataset", "folder", "--data-dir", digits, "--target", "mnist-tutorial", "--threads", 1]
        basics += ["--target-weights", classifier, "--generator", tmp_path, "--rounds", 2]
        run(speed.main, speed.Settings, [str(word) for word in (*basics, *words)])
        return shown

    return run_it


def test_each_attack_is_timed_in_each_round(
    call: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    shown = call("--batch-size", 100)
    assert {name: len(times) for name, times in shown["seconds"].items()} == dict.fromkeys(
        ["fgsm", "ifgsm, 10 steps", "advgan", "target forward alone"], 2
    )
    assert shown["images"] == 48, "all there are"
    assert shown["title"] == "mnist-tutorial, linf eps 0.25, batch 48, 2 rounds, 1 threads"
    assert shown["asr"]["ifgsm, 10 steps"] >= shown["asr"]["fgsm"] > 0
    assert shown["title"] in capsys.readouterr().out


@pytest.mark.parametrize("kind", [{"norm": "l2", "eps": 3.0}, {"y_target": 1}, {"norm": "l2", "y_target": 1}])
def test_all_attacks_have_the_generators_ball_and_aim(
    kind: dict[str, Any], call: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    for name in ("fgsm", "ifgsm"):
        attack = getattr(speed, name)
        monkeypatch.setattr(speed, name, lambda *a, attack=attack, **k: asked.append(k) or attack(*a, **k))
    shown = call("--batch-size", 9, **kind)
    for words in asked:
        assert (words["norm"], words["eps"]) == (kind.get("norm", "linf"), kind.get("eps", 0.25))
        assert words["y_target"] is None if "y_target" not in kind else words["y_target"].tolist() == [1] * 9
    assert f"{kind.get('norm', 'linf')} eps" in shown["title"]
    assert ("toward class 1" in shown["title"]) == ("y_target" in kind)


def test_success_toward_a_class_is_that_class() -> None:
    class Answer(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)

    x_adv, y = torch.eye(3)[[1, 2, 1, 1]].view(4, 1, 1, 3), torch.tensor([0, 0, 2, 1])
    counts = torch.tensor([True, True, False, False])
    assert speed.success(Answer(), x_adv, y, None, counts) == 1
    assert speed.success(Answer(), x_adv, y, torch.full_like(y, 1), counts) == 0.5


@pytest.mark.parametrize(
    ("words", "kind", "message"),
    [
        (["--rounds", 0], {}, "rounds must be at least 1, got 0"),
        (["--batch-size", 0], {}, "batch_size must be at least 1, got 0"),
        (["--threads", 0], {}, "threads must be at least 1, got 0"),
        (["--generator", "nowhere"], {}, "no generator in nowhere"),
        (["--data-dir", "nowhere"], {}, "no folder nowhere/train"),
        (["--target-weights", "nowhere"], {}, "no target weights at nowhere"),
        ([], {"channels": 3}, "this generator expects float images (n, 3, h, w)"),
        ([], {"y_target": 7}, "the generator aims at class 7, expected one from 0 to 2"),
        (["--batch-size", 1], {"y_target": 0}, "none of 1 images correctly that are not of class 0"),
    ],
)
def test_what_it_says_when_it_cannot_run(
    words: list[object],
    kind: dict[str, Any],
    message: str,
    call: Callable[..., dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stop:
        call(*words, **kind)
    assert stop.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())
