"""The reports: what the tables, pictures and event files show is what was measured."""

from __future__ import annotations

import csv
import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from advgan.errors import InputError
from advgan.evaluation import ROW_KEYS
from advgan.report.files import write_results
from advgan.report.gallery import caption, gallery, round_factor
from advgan.report.table import markdown, picture, sections, terminal
from advgan.report.tensorboard import command


def row(attack: str, **more: Any) -> dict[str, Any]:
    """A row of results.json, with figures that are easy to find again."""
    figures = {
        **{"attack": attack, "protocol": "bounded", "attack_norm": "linf", "norm": "linf", "eps": 0.3},
        **{"targeted": False, "y_target": None, "batch_size": 100, "n": 1000, "n_correct": 990, "n_attacked": 990},
        **{"clean_accuracy": 0.99, "asr": 0.7, "asr_low": 0.65, "asr_high": 0.75, "asr_8bit": 0.68},
        **{"asr_any_norm": 0.7, "robust_accuracy": 0.29, "l0_mean": 400.0, "l2_mean": 6.12, "l2_median": 6.0},
        **{"linf_mean": 0.3, "linf_max": 0.3, "ssim_mean": 0.25},
        **{"seconds_per_image": 0.001, "images_per_second": 1000.0},
        **{"forwards_per_image": 1.0, "backwards_per_image": 1.0, "violations": [], "status": "ok"},
    }
    return {key: (figures | more)[key] for key in ROW_KEYS}


def failed(attack: str, reason: str) -> dict[str, Any]:
    figures = ("asr", "robust", "l0", "l2", "linf", "ssim", "seconds", "images_per", "forwards", "backwards")
    empty = {key: None for key in ROW_KEYS if key.startswith(figures)}
    return row(attack, **empty, violations=[reason], status=f"failed: {reason}")


ROWS = [
    row("deepfool", protocol="minimal-norm", asr=0.1, asr_any_norm=1.0, l2_median=2.11, images_per_second=50.0),
    row("fgsm"),
    failed("cheat", "linf 0.4 exceeds eps 0.3"),
    row("advgan", asr=0.985, images_per_second=8000.0, forwards_per_image=0.0, backwards_per_image=0.0),
]


def results(rows: list[dict[str, Any]]) -> dict[str, Any]:
    environment = {
        **{"date": "2026-01-01T00:00:00+00:00", "command": ["compare.py"], "commit": None, "cpu": "a cpu", "gpu": None},
        **{"threads": 2, "packages": {"torch": "2.15"}},
    }
    return {"environment": environment, "target": {"name": "mnist-c", "dataset": "mnist5k"}, "rows": rows}


def shown(rows: list[dict[str, Any]], width: int) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(terminal(rows, width))
    return console.export_text()


# Tables


def test_bounded_and_minimal_norm_attacks_never_share_a_table() -> None:
    bounded, minimal = sections(ROWS)
    assert [line[0] for line in bounded.lines] == ["fgsm", "cheat", "advgan"]
    assert [line[0] for line in minimal.lines] == ["deepfool"]
    assert "Bounded" in bounded.title
    assert "median l2" not in bounded.heads
    assert "Minimal-norm" in minimal.title
    assert dict(zip(minimal.heads, minimal.lines[0], strict=True))["median l2"] == "2.11"


def test_other_balls_and_targets_get_tables_of_their_own() -> None:
    rows = [row("fgsm"), row("fgsm", eps=0.1), row("fgsm", norm="l2"), row("fgsm", targeted=True, y_target=0)]
    titles = [section.title for section in sections(rows)]
    assert len(titles) == 4
    assert sum("toward class 0" in title for title in titles) == 1


def test_cells_say_what_was_measured() -> None:
    bounded = sections(ROWS)[0]
    cells = dict(zip(bounded.heads, bounded.lines[2], strict=True))
    assert cells == {
        **{"attack": "advgan", "ASR % [95 %]": "98.5 [65.0, 75.0]", "8-bit %": "68.0", "robust %": "29.0"},
        **{"mean l2": "6.12", "max linf": "0.3000", "SSIM": "0.250"},
        **{"images/s": "8,000", "x FGSM": "8", "fwd+bwd": "0+0"},
    }
    assert bounded.failures == {1: "cheat failed: linf 0.4 exceeds eps 0.3"}
    assert set(bounded.lines[1][1:]) == {"failed"}


def test_without_fgsm_there_is_no_relative_speed() -> None:
    section = sections([row("ifgsm")])[0]
    assert dict(zip(section.heads, section.lines[0], strict=True))["x FGSM"] == "–"


@pytest.mark.parametrize("width", [80, 120])
def test_the_terminal_shows_every_cell_whole(width: int) -> None:
    text = shown(ROWS, width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for words in ("98.5 [65.0, 75.0]", "8,000", "cheat failed: linf 0.4 exceeds eps 0.3", "deepfool", "2.11"):
        assert words in text


def test_markdown_is_two_tables_and_what_they_mean() -> None:
    text = markdown(ROWS)
    assert text.count("|---|") == 2
    assert "| advgan | 98.5 [65.0, 75.0] |" in text
    assert "- cheat failed: linf 0.4 exceeds eps 0.3" in text
    assert "Wilson" in text


def test_the_picture_of_the_table_is_one() -> None:
    image = picture(ROWS)
    assert image.dtype == np.uint8
    assert image.shape[2] == 3
    assert image.shape[1] > image.shape[0] > 100
    assert (image < 128).any()


# Galleries


def attacked(n: int, channels: int = 1, size: int = 12) -> tuple[torch.Tensor, ...]:
    rng = torch.Generator().manual_seed(0)
    x = torch.rand(n, channels, size, size, generator=rng)
    x_adv = (x + 0.1 * torch.randn(x.shape, generator=rng)).clamp(0, 1)
    return x, x_adv, torch.arange(n) % 3, torch.randn(n, 3, generator=rng), torch.randn(n, 3, generator=rng)


@pytest.mark.parametrize(("n", "channels", "size"), [(1, 1, 12), (3, 3, 12), (9, 1, 28), (2, 3, 300)])
def test_a_gallery_is_a_picture(n: int, channels: int, size: int) -> None:
    image = gallery(*attacked(n, channels, size), classes=["cat", "dog", "a rather long name"], title="FGSM")
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert image.shape[2] == 3
    assert image.shape[0] >= 3 * min(size, 112)
    assert len(np.unique(image)) > 50


def test_a_gallery_shows_the_images_and_the_magnified_perturbation() -> None:
    x = torch.full((1, 3, 8, 8), 0.25)
    x_adv = x + torch.tensor([0.02, 0.0, -0.02]).view(1, 3, 1, 1)
    image = gallery(x, x_adv, torch.tensor([0]), torch.eye(2)[:1], torch.eye(2)[1:], magnify=10)
    colours = {tuple(colour) for colour in image.reshape(-1, 3)}
    as_bytes = [tuple((255 * np.float32(v)).astype(np.uint8) for v in rgb) for rgb in ([0.25] * 3, [0.7, 0.5, 0.3])]
    for wanted in as_bytes:
        assert any(np.abs(np.subtract(colour, wanted, dtype=int)).max() <= 1 for colour in colours)


def test_a_gallery_wraps_after_its_columns() -> None:
    one, two = gallery(*attacked(4), columns=4), gallery(*attacked(4), columns=2)
    assert two.shape[0] > 1.8 * one.shape[0]
    assert two.shape[1] < one.shape[1]


def test_captions_say_before_and_after() -> None:
    clean, adversarial = torch.tensor([0.0, 10.0, 0.0]), torch.tensor([0.87, 0.1, 0.03]).log()
    assert caption(clean, adversarial, ["3", "7", "9"]) == "7 1.00 → 3 .87"
    assert caption(adversarial, clean, ["3", "7", "9"], "\n→ ") == "3 .87\n→ 7 1.00"


@pytest.mark.parametrize(("factor", "rounded"), [(0.3, 1), (1.67, 1), (4.9, 2), (15.9, 10), (50, 50), (700, 500)])
def test_magnification_is_a_round_number(factor: float, rounded: float) -> None:
    assert round_factor(factor) == rounded


@pytest.mark.parametrize("shape", [(0, 1, 8, 8), (2, 2, 8, 8)])
def test_no_gallery_of_nothing_or_of_two_channels(shape: tuple[int, ...]) -> None:
    x = torch.zeros(shape)
    with pytest.raises(InputError, match="a gallery needs at least one image of 1 or 3 channels"):
        gallery(x, x, torch.zeros(len(x), dtype=torch.long), torch.zeros(len(x), 3), torch.zeros(len(x), 3))


# Files


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("results")
    records = {"linf": torch.tensor([0.3, 0.25]), "success": torch.tensor([True, False])}
    write_results(directory, results([row("fgsm", asr=0.1)]), {"old": gallery(*attacked(1))}, {"old": records})
    galleries = {"fgsm": gallery(*attacked(2)), "advgan": gallery(*attacked(3))}
    write_results(directory, results(ROWS), galleries, {"fgsm": records})
    return directory


def test_results_are_whole_and_replace_older_ones(written: Path) -> None:
    assert json.loads((written / "results.json").read_text()) == results(ROWS)
    made = ["galleries", "logs", "records", "report.md", "results.json"]
    assert sorted(path.name for path in written.iterdir()) == made
    assert sorted(path.name for path in (written / "galleries").iterdir()) == ["advgan.png", "fgsm.png"]
    assert len(list((written / "logs" / "compare").iterdir())) == 1


def test_records_are_one_line_per_image(written: Path) -> None:
    (path,) = (written / "records").iterdir()
    with path.open(newline="") as file:
        assert list(csv.reader(file)) == [["id", "linf", "success"], ["0", "0.3", "True"], ["1", "0.25", "False"]]


@pytest.mark.parametrize("found", [None, "/usr/bin/tensorboard"])
def test_tensorboards_command_can_be_typed(found: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: found)
    monkeypatch.setattr("sys.executable", "/my envs/bin/python")
    executable = "tensorboard" if found else "/my envs/bin/tensorboard"
    words = [executable, "--logdir", "run 1/logs", "--samples_per_plugin", "images=100"]
    assert shlex.split(command(Path("run 1/logs"))) == words


def test_the_report_shows_tables_and_galleries(written: Path) -> None:
    text = (written / "report.md").read_text()
    assert text.startswith("# Attacks on mnist-c (mnist5k)")
    assert "| advgan | 98.5" in text
    for name in ("fgsm", "advgan"):
        assert f"![{name}](galleries/{name}.png)" in text
        assert np.asarray(Image.open(written / "galleries" / f"{name}.png")).ndim == 3


def test_tensorboard_reads_it_all_back(written: Path) -> None:
    events = EventAccumulator(str(written / "logs" / "compare"), size_guidance={"images": 0, "tensors": 0})
    events.Reload()
    tags = events.Tags()
    assert tags["images"][0] == "1_table/comparison"
    assert set(tags["images"]) == {"1_table/comparison", "2_gallery/fgsm", "2_gallery/advgan"}
    assert events.Scalars("asr/advgan")[0].value == pytest.approx(0.985)
    assert events.Scalars("images_per_second/fgsm")[0].value == 1000
    assert "asr/cheat" not in tags["scalars"]
    text = events.Tensors("comparison/text_summary")[0].tensor_proto.string_val[0].decode()
    assert text == markdown(ROWS)
    size = events.Images("2_gallery/advgan")[0]
    assert (size.height, size.width) == Image.open(written / "galleries" / "advgan.png").size[::-1]


def test_results_hold_no_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_results(tmp_path, results([row("fgsm", l2_mean=float("nan"))]), {}, {})
    assert list(tmp_path.iterdir()) == []
