"""eval/publish.py: what it makes loads, says what it measured, and replaces nothing unasked."""

import json
import re
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from advgan import Generator
from advgan.classifiers import fingerprint, load_target
from advgan.core.config import run
from advgan.data import Data, load_data
from advgan.experiments.publish import Settings, main, success
from tests.conftest import ROOT


@pytest.fixture
def made(tmp_path):
    """A run with a classifier and an untrained generator."""
    shutil.copytree(ROOT / "checkpoints/mnist5k-classifier", tmp_path / "run" / "classifier")
    torch.manual_seed(0)
    Generator(width=8, depth=0, eps_min=0.1, classes=10).save_pretrained(tmp_path / "run" / "generator")
    (tmp_path / "run" / "generator" / "README.md").write_text("# A run's card\n")
    sha256 = fingerprint(load_target("mnist-c", tmp_path / "run"))
    (tmp_path / "run" / "training.json").write_text(json.dumps({"settings": {"target_sha256": sha256}}))
    return tmp_path / "run"


def publish(run_directory, output, *words):
    run(main, Settings, ["--run", str(run_directory), "--target", "mnist-c", "--output-dir", str(output), *words])


def test_a_generator_is_published_with_its_figures(made, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("advgan.experiments.publish.load_data", lambda name, directory, **options: few())
    publish(made, tmp_path / "out", "--eps", "0.1", "0.3")
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("# A run's card")
    rows = re.findall(r"^\| mnist5k \| (\d+) \| ([\w ]+) \| linf ([\d.]+) \| ([\d.]+) \[", card, re.M)
    assert [row[1:3] for row in rows] == [("untargeted", "0.1"), ("untargeted", "0.3"), ("each wrong class", "0.3")]
    assert int(rows[2][0]) == 9 * int(rows[1][0])
    x = torch.rand(2, 1, 28, 28)
    assert torch.equal(
        Generator.from_pretrained(tmp_path / "out").perturb(x), Generator.from_pretrained(made).perturb(x)
    )
    with pytest.raises(SystemExit):
        publish(made, tmp_path / "out")
    assert "--overwrite replaces a checkpoint" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        publish(made, tmp_path, "--overwrite")  # no checkpoint: a folder with other things
    assert (made / "training.json").exists()


def test_norms_toward_every_class_are_means_over_the_images_of_the_row(monkeypatch):
    """One image toward class 0, two toward class 1: l2 (1 + 2 * 4) / 3."""

    def measured(*_, y_target, **others):
        size = {None: (3, 9.0), 0: (1, 1.0), 1: (2, 4.0)}[y_target]
        row = dict.fromkeys(("asr", "asr_low", "asr_high", "ssim_mean"), 1.0) | {"norm": "linf", "eps": 0.3}
        return SimpleNamespace(row=row | {"status": "ok", "n_attacked": size[0], "l2_mean": size[1]})

    monkeypatch.setattr("advgan.experiments.publish.evaluate", measured)
    generator = Generator(width=8, depth=0, classes=10, target_classes=(0, 1))
    *_, line = success("digits", generator, torch.nn.Flatten(), torch.rand(3, 1, 28, 28), torch.zeros(3), Settings())
    assert line == "| digits | 3 | each wrong class | linf 0.3 | 100.00 [43.85, 100.00] | 3.000 | 1.000 |"


def test_a_classifier_is_published_with_its_accuracy(made, tmp_path, monkeypatch):
    monkeypatch.setattr("advgan.experiments.publish.load_data", lambda name, directory, **options: few())
    publish(made, tmp_path / "out", "--classifier")
    assert re.search(r"^\| mnist5k \| 10 \| [\d.]+ \[", (tmp_path / "out" / "README.md").read_text(), re.M)
    assert load_target("mnist-c", tmp_path / "out").num_classes == 10


def test_a_generator_of_another_classifier_is_refused(made, tmp_path, capsys):
    (made / "training.json").write_text(json.dumps({"settings": {"target_sha256": "0"}}))
    with pytest.raises(SystemExit):
        publish(made, tmp_path / "out")
    assert "trained on another classifier" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"finished": False, "steps": 20, "total_steps": 100}, "expected a finished run, got step 20 of 100"),
        ({"settings": {"dataset": "mnist5k", "train_on": "test"}}, "got training images, mnist5k of mnist5k"),
        ({"settings": {"dataset": "mnist"}}, "got training images, mnist5k of mnist"),
    ],
)
def test_what_was_stopped_or_trained_on_the_images_is_not_published_as_unseen(record, message, made, tmp_path, capsys):
    """The card says that the images were used neither in training nor in selection."""
    (made / "training.json").write_text(json.dumps({"settings": {}} | record))
    with pytest.raises(SystemExit):
        publish(made, tmp_path / "out")
    assert message in capsys.readouterr().err


def few() -> Data:
    """The embedded digits with their first 10 test images."""
    data = load_data("mnist5k")
    return replace(data, test=data.test.first(10))
