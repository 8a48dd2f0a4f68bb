"""Reports of studies: every form is written from one declaration, the JSON file last."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from advgan.report.comparison import Picture
from advgan.report.page import Table, percent, with_interval
from advgan.report.study import Scalar, StudyReport

ENVIRONMENT = {
    **{"date": "today", "packages": {"torch": "2"}, "cpu": "a CPU", "gpu": None, "threads": 1, "commit": None},
    "command": ["study.py", "--eps", "0.1"],
}


def report(**changes: Any) -> StudyReport:
    target = {"label": "net", "name": "net", "dataset": "bars", "weights": "w", "sha256": "0" * 64}
    failed = {"attack": "fgsm", "target": "net", "norm": "linf", "eps": 0.1, "status": "failed: no gradient"}
    image = Picture("A title", "A caption", np.zeros((8, 8, 3), np.uint8))
    parts: dict[str, Any] = {
        "name": "study",
        "title": "A study",
        "summary": {"environment": ENVIRONMENT, "targets": [target], "asr": 0.5},
        "rows": [failed],
        "tables": [Table("Success", ["attack", "ASR %"], [["pgd", "50.0"]], "A note")],
        "figures": {"curve.png": image, "gallery/pgd.png": image},
        "columns": ("attack", "asr"),
        "csv_rows": [{"attack": "pgd", "asr": 0.5, "other": 1}, {"attack": "=sum"}],
        "scalars": [Scalar("pgd", "asr", 0.5, 3), Scalar("", "accuracy", 0.9)],
    }
    return StudyReport(**(parts | changes))


def test_one_declaration_gives_every_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report(html="<p>", notes=["a remark"], notes_tag="remarks").write(tmp_path)
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {"study.json", "study.md", "study.csv", "study.html", "curve.png", "gallery", "logs"}
    assert json.loads((tmp_path / "study.json").read_text())["asr"] == 0.5
    assert (tmp_path / "study.csv").read_text() == "attack,asr\npgd,0.5\n'=sum,\n"
    text = (tmp_path / "study.md").read_text()
    for part in ("# A study", "| pgd | 50.0 |", "A note", "a remark", "failed: no gradient", "](<gallery/pgd.png>)"):
        assert part in text
    log = EventAccumulator(str(tmp_path / "logs" / "study")).Reload()
    assert log.Tags()["images"] == ["curve", "gallery/pgd"]
    assert log.Tags()["tensors"] == ["tables/text_summary", "remarks/text_summary"]
    (point,) = EventAccumulator(str(tmp_path / "logs" / "study" / "pgd")).Reload().Scalars("asr")
    assert (point.step, point.value) == (3, 0.5)
    report().print(tmp_path, kept=2, total=5)
    assert "2 of 5 cells were kept" in (printed := capsys.readouterr().out)
    assert str(tmp_path / "study.md") in printed.replace("\n", "")


def test_a_second_report_replaces_figures_of_the_first(tmp_path: Path) -> None:
    report().write(tmp_path)
    report(figures={}, folders=["gallery"]).write(tmp_path)
    assert list((tmp_path / "gallery").iterdir()) == []


def test_nan_in_the_summary_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        report(summary={"asr": float("nan")}).write(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_numbers_as_text() -> None:
    row = {"asr": 0.5, "asr_low": 0.25, "asr_high": None, "auc": 0.5, "auc_low": 0.4, "auc_high": 0.6, "tpr": None}
    assert (percent(0.5), percent(None), percent(None, "–"), percent(0.12345, digits=2)) == (
        *("50.0", "failed", "–"),
        "12.35",
    )
    assert with_interval(row) == "50.0"
    assert with_interval(row, "auc", scale=1, digits=3) == "0.500 [0.400, 0.600]"
    assert with_interval(row, "tpr", missing="–") == "–"
