"""eval/detection.py as a user runs it: who knows the detector, and figures that can be made again from the images."""

import csv
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from scipy.stats import mannwhitneyu
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from advgan import Generator
from advgan.attacks import fgsm
from advgan.classifiers import fingerprint, load_target, save_target
from advgan.core.config import run
from advgan.data import load_data
from advgan.defenses import load_classifier
from advgan.defenses.detection import BinaryDetector, Detector, FeatureSqueezing, scores, threshold_at
from advgan.experiments.detection import report
from tests.conftest import Run

detection = importlib.import_module("advgan.experiments.detection.run")
Call = Callable[..., dict[str, Any]]
EPS = 0.5


@pytest.fixture(scope="module")
def made(digits: Path, classifier: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two calibrated detectors, an untrained generator, and the same one said to be trained against the first."""
    directory = tmp_path_factory.mktemp("detectors")
    x, _ = next(load_data("folder", digits).validation.batches(48))
    target = load_target("mnist-small", classifier)
    for kind in (FeatureSqueezing, BinaryDetector):
        torch.manual_seed(0)
        detector: Detector = kind((1, 28, 28)).eval()
        detector.threshold.fill_(threshold_at(scores(detector, target, x), 0.05))
        save_target(detector, directory / kind.kind / "detector", "# card", {"fpr_validation": 2 / 48})
    torch.manual_seed(0)
    for name in ("before", "after"):
        Generator(eps=EPS, width=8, depth=1).save_pretrained(directory / name / "generator")
    words = f"reject:detector={directory / 'feature-squeezing'}"
    rejecting = load_classifier("mnist-small", classifier, words)
    settings = {"settings": {"target_sha256": fingerprint(rejecting)}, "training_seconds": 1.0}
    (directory / "after" / "training.json").write_text(json.dumps(settings))
    settings["settings"] = {"target_sha256": fingerprint(target)}
    (directory / "before" / "training.json").write_text(json.dumps(settings))
    return directory


@pytest.fixture
def basics(digits: Path, classifier: Path, tmp_path: Path) -> list[str]:
    flags = {"dataset": "folder", "data-dir": digits, "target": "mnist-small", "target-weights": classifier}
    flags |= {"threads": 1, "eps": EPS, "output-dir": tmp_path / "out"}
    return [str(word) for name, value in flags.items() for word in (f"--{name}", value)]


def test_as_a_user_runs_it(
    script: Run, basics: list[str], made: Path, digits: Path, classifier: Path, tmp_path: Path
) -> None:
    detectors = [made / "feature-squeezing", made / "binary"]
    words = ["--detector", *detectors, "--generator", made / "before", made / "after"]
    words += ["--attacks", "noise-sign", "fgsm@oblivious", "fgsm", "deepfool-linf:steps=3"]
    done = script("eval/detection.py", *basics, *words)
    out = tmp_path / "out"
    results = json.loads((out / "detection.json").read_text())
    at = {(row["target"], row["attack"]): row for row in results["rows"]}
    assert len(at) == len(results["rows"]) == 12
    assert all(row["status"] == "ok" for row in at.values())
    for name in ("noise-sign", "fgsm@oblivious", "fgsm", "deepfool-linf:steps=3", "before"):
        assert at["feature-squeezing", name]["knows"] == at["binary", name]["knows"] == (name == "fgsm")
    assert [at[kind, "after"]["knows"] for kind in ("feature-squeezing", "binary")] == [True, False]

    # Oblivious FGSM, made again: its images, their scores, and what both say.
    target, data = load_target("mnist-small", classifier), load_data("folder", digits)
    x, y = next(data.test.batches(48))
    x_adv = fgsm(target, x, y, eps=EPS)
    fooling = (target(x).argmax(1) == y) & (target(x_adv).argmax(1) != y)
    detector = load_classifier("mnist-small", classifier, f"reject:detector={detectors[0]}").detector
    clean, found = scores(detector, target, x), scores(detector, target, x_adv[fooling])
    row = at["feature-squeezing", "fgsm@oblivious"]
    assert row["n_fooled"] == int(fooling.sum()) > 0
    assert row["auc"] == pytest.approx(mannwhitneyu(found, clean).statistic / len(found) / len(clean), abs=1e-6)
    assert row["tpr"] == pytest.approx((found > detector.threshold).double().mean().item())
    accepted = clean <= detector.threshold
    assert row["clean_rejected"] == pytest.approx(1 - accepted.double().mean().item())
    hits = int((scores(detector, target, x_adv) <= detector.threshold)[fooling & accepted].sum())
    assert row["asr"] == pytest.approx(hits / row["n_attacked"])
    assert results["detectors"][0]["fpr"] == row["clean_rejected"]
    for each in at.values():
        if each["roc"] is not None:
            assert len(each["roc"]) == len(results["rates"])
            assert each["roc"] == sorted(each["roc"])
            assert each["roc"][-1] == 1

    with (out / "detection.csv").open(newline="") as file:
        assert [line["attack"] for line in csv.DictReader(file)] == [row["attack"] for row in results["rows"]]
    report = (out / "detection.md").read_text()
    for promise in ("feature-squeezing, linf eps 0.5", "attacks, linf eps 0.5](<roc.png>)", "| yes |"):
        assert promise in report
    assert Image.open(out / "roc.png").width > 800
    assert EventAccumulator(str(out / "logs" / "detection")).Reload().Tags()["images"] == ["roc"]
    assert "AUC [95 %]" in done.stdout
    again = script("eval/detection.py", *basics, *words)
    assert "12 of 12 results are cached" in again.stdout
    second = json.loads((out / "detection.json").read_text())
    assert second["rows"] == results["rows"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "expected a --detector, made by train/detector.py, got none"),
        (["--detector", "nowhere"], "no detector in nowhere"),
        (["--detector", "{made}/binary", "{made}/binary"], "detectors in folders of different names"),
        (["--detector", "{made}/binary", "--attacks", "advgan"], "attack advgan needs a trained generator"),
        (["--detector", "{made}/binary", "--attacks", "fgsm@hopeful"], "has no such view"),
        (["--detector", "{made}/binary", "--generator", "{made}/before", "--eps", "0.6"], "trained for eps 0.5"),
        (["--detector", "{made}/binary", "--batch-size", "0"], "batch_size must be at least 1, got 0"),
        (["--detector", "{made}/binary", "--target", "{classifier}"], "holds its own weights"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    flags: list[str], message: str, basics: list[str], made: Path, classifier: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [flag.format(made=made, classifier=classifier) for flag in flags]
    with pytest.raises(SystemExit) as exit:
        run(detection.main, detection.Settings, [*basics, *flags])
    assert exit.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert [line for line in error.splitlines() if not line.startswith("note: ")] == [error.splitlines()[-1]]


def test_roc_curves_of_many_attacks_differ_in_colour_or_line(monkeypatch):
    row = {"target": "d", "access": "gradients", "tpr": 0.5, "roc": [0.0, 1.0], "norm": "linf", "eps": 8 / 255}
    rows = [row | {"attack": f"pgd:steps={i}", "knows": i % 2 == 0} for i in range(30)]
    summary = {"detectors": [{"label": "d", "fpr": 0.05}], "rates": [0, 1], "rows": rows}
    titles, sheets = [], []
    monkeypatch.setattr(report.style, "to_plot", lambda sheet, title, _: (sheets.append(sheet), titles.append(title)))
    report.draw(summary)
    curves = [line for line in sheets[0].axes[0].lines if line.get_drawstyle() == "steps-post"]
    assert len({(line.get_color(), str(line._unscaled_dash_pattern)) for line in curves}) == len(curves) == 30
    assert titles == ["Detectors against attacks, linf eps 8/255"]
