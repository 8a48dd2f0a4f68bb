"""Progress bars fit a terminal of 80 columns."""

import io

import pytest
from accelerate import Accelerator
from rich.console import Console
from rich.progress import Progress

from advgan.report.progress import _columns, result_progress
from advgan.training.display import LEFT_OF_METRICS, first_that_fit
from advgan.training.runtime.loop import progress_bar

WIDTH = 80


def lines_of(bar: Progress) -> list[str]:
    console = Console(width=WIDTH, record=True, file=io.StringIO(), force_terminal=True)
    console.print(bar.get_renderable())
    return console.export_text().splitlines()


def test_result_progress_fits_and_keeps_its_numbers() -> None:
    bar = Progress(*_columns(WIDTH), console=Console(width=WIDTH, file=io.StringIO()))
    bar.add_task("pgd:steps=100:restarts=10:loss=dlr: mnist-c@checkpoints/runs/x, linf eps 0.3", total=10_000)
    (line,) = lines_of(bar)
    assert len(line) <= WIDTH
    assert line.startswith("pgd:steps=100:restarts")
    assert "0/10000" in line


@pytest.mark.parametrize("total", [8, 600, 30_000])
def test_training_bar_fits_with_whole_metrics(total: int) -> None:
    bar = progress_bar(Accelerator(cpu=True))
    parts = ["12.3 step/s", "ASR 98.0%", "L_adv 12.34", "L_D 0.25", "L_GAN 0.31", "L_hinge 1.05"]
    text = first_that_fit(parts, WIDTH - LEFT_OF_METRICS - 2 * len(str(total)))
    bar.add_task("advgan", total=total, completed=total - 1, metrics=text)
    (line,) = lines_of(bar)
    assert len(line) <= WIDTH
    assert line.rstrip().endswith(text)
    assert text.startswith("12.3 step/s ASR 98.0% L_adv")


def test_first_that_fit() -> None:
    assert first_that_fit(["a", "bb", "c"], 4) == "a bb"
    assert first_that_fit(["a", "bb", "c"], 80) == "a bb c"
    assert first_that_fit(["long"], 3) == ""


def test_without_a_terminal_a_comparison_has_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("FIRST_LINE_SECONDS", "LINE_SECONDS"):
        monkeypatch.setattr(f"advgan.core.progress.{name}", 0)
    with result_progress(3) as start_result:
        start_result("fgsm", 100)(100)
        start_result("pgd:steps=40", 100)(30)
    lines = [line for line in capsys.readouterr().err.splitlines() if " of 3 results" in line]
    assert lines[1] == "total: 0 of 3 results  fgsm 100/100"
    assert lines[3] == "total: 1 of 3 results  about 0:00:00 left  pgd:steps=40 30/100"
