"""Studies: a grid of attacks runs once and is cached; every form of a report is written from one declaration."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from advgan import Generator
from advgan.attacks.registry import parse_attack
from advgan.core.errors import InputError
from advgan.core.json_files import sealed
from advgan.core.threat_model import Threat
from advgan.defenses import ClassifierSpec
from advgan.evaluation import GridPoint
from advgan.experiments.study import Study, StudySettings
from advgan.report.comparison import Plot
from advgan.report.page import Table, percent, with_interval
from advgan.report.study import Scalar, StudyReport
from tests.conftest import ROOT

ENVIRONMENT = {
    **{"date": "today", "packages": {"torch": "2"}, "cpu": "a CPU", "gpu": None, "threads": 1, "commit": None},
    "command": ["study.py", "--eps", "0.1"],
}


def report(**changes: Any) -> StudyReport:
    target = {"label": "net", "name": "net", "dataset": "bars", "weights": "w", "sha256": "0" * 64}
    failed = {"attack": "fgsm", "target": "net", "norm": "linf", "eps": 0.1, "status": "failed: no gradient"}
    image = Plot("A title", "A caption", np.zeros((8, 8, 3), np.uint8))
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
    report().print(tmp_path, cache_hits=2, total=5)
    assert "2 of 5 results are cached" in (printed := capsys.readouterr().out)
    assert str(tmp_path / "study.md") in printed.replace("\n", "")


def test_a_folder_without_figures_is_neither_made_nor_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report(folders=["gallery"]).write(tmp_path)
    assert (tmp_path / "gallery" / "pgd.png").is_file()
    later = report(figures={}, folders=["gallery", "norms"])
    later.write(tmp_path)
    assert not {"gallery", "norms"} & {path.name for path in tmp_path.iterdir()}
    report(figures={"curve.png": report().figures["curve.png"]}, folders=["gallery"]).print(tmp_path, cache_hits=0)
    assert "gallery" not in capsys.readouterr().out


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


@pytest.fixture
def settings(digits: Path, tmp_path: Path) -> StudySettings:
    return StudySettings(dataset="folder", data_dir=digits, max_samples=9, threads=1, output_dir=tmp_path / "out")


def open_study(settings: StudySettings, classifier: Path) -> Study:
    study = Study("study", settings)
    spec = ClassifierSpec("mnist-small", classifier)
    study.init_run(0, spec)
    study.load_targets([spec])
    study.prepare_output_dir()
    return study


def test_a_grid_runs_once_and_its_labels_name_the_results(settings: StudySettings, classifier: Path) -> None:
    study = open_study(settings, classifier)
    specs = [parse_attack(name) for name in ("noise-sign", "fgsm")]
    points = [
        GridPoint(spec=spec, target=study.targets[0], threat=Threat("linf", eps), label=f"{spec.label} {eps}")
        for spec in specs
        for eps in (0.1, 0.2)
    ]
    results = study.run(points)
    assert [result.row["attack"] for result in results] == [point.label for point in points]
    assert [result.row["eps"] for result in results] == [0.1, 0.2, 0.1, 0.2]
    assert (len(study.x), study.cache_hits) == (9, 0)
    again = open_study(settings, classifier)
    assert [result.row for result in again.run(points)] == [result.row for result in results]
    assert again.cache_hits == 4
    with again.progress(1):
        few = again.run_point(points[-1], 4)
    assert (few.row["n"], len(again.results)) == (4, 5)


def test_attacks_and_generators_that_do_not_fit_are_errors_before_the_grid(
    settings: StudySettings, classifier: Path, tmp_path: Path
) -> None:
    Generator(width=8, depth=1, eps=0.2).save_pretrained(tmp_path / "run" / "generator")
    study = open_study(settings, classifier)
    study.load_generators([tmp_path / "run"], ["mnist-small"])
    study.check_generator_threats([Threat("linf", 0.1), Threat("linf", 0.3)])
    with pytest.raises(InputError, match=r"run: this generator was trained for eps 0\.2, got the larger 0\.3"):
        study.check_generator_threats([Threat("linf", 0.3)])
    study.check_attacks([parse_attack("fgsm"), parse_attack("advgan")], [Threat("linf", 0.3)])
    with pytest.raises(InputError, match="steps must be at least 1"):
        study.check_attacks([parse_attack("pgd:steps=0")], [Threat("linf", 0.3)])


def test_embedded_digits_are_noted_as_training_images_of_mnist(
    settings: StudySettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Generator(width=8, depth=1, eps=0.2).save_pretrained(tmp_path / "run" / "generator")
    for dataset, noted in (("mnist", True), ("mnist5k", False)):
        (tmp_path / "run" / "training.json").write_text(sealed({"settings": {"dataset": dataset}}))
        study = Study("grid", replace(settings, dataset="mnist5k", data_dir=Path("data")))
        study.load_generators([tmp_path / "run"], ["mnist-c"])
        spec = ClassifierSpec("mnist-c", ROOT / "checkpoints" / "mnist-c-classifier")
        study.init_run(0, spec)
        study.load_targets([spec])
        assert ("the training images of mnist, on which run was trained" in capsys.readouterr().err) == noted
