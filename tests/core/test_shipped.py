"""Shipped checkpoints by name."""

from pathlib import Path

import pytest

import advgan
from advgan.classifiers import fingerprint
from advgan.cli.main import main
from advgan.core.errors import InputError
from advgan.core.shipped import existing_or_shipped, shipped


def test_shipped_names_work_in_any_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    named = advgan.load_classifier("mnist-c@checkpoints/mnist5k-classifier")
    assert fingerprint(advgan.load_classifier("mnist-c")) == fingerprint(named), "as --target mnist-c"
    with pytest.raises(InputError, match="mnist-b needs trained weights"):
        advgan.load_classifier("mnist-b")
    assert advgan.load_classifier("checkpoints/mnist5k-classifier+jpeg:quality=75").num_classes == 10
    members = "checkpoints/mnist-c-classifier,checkpoints/mnist5k-classifier"
    assert advgan.load_classifier(f"mnist-c@checkpoints/mnist5k-classifier+vote:members={members}").num_classes == 10
    main(["info", "checkpoints/mnist5k-classifier"])
    assert advgan.Generator.from_pretrained("checkpoints/mnist5k-generator").threat.eps == 0.3
    with pytest.raises(InputError, match="no generator in checkpoints/none"):
        advgan.Generator.from_pretrained("checkpoints/none")


def test_own_files_come_first_and_runs_are_not_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = Path("checkpoints/mnist5k-generator")
    monkeypatch.chdir(tmp_path)
    assert existing_or_shipped(name) == shipped(str(name))
    name.mkdir(parents=True)
    assert existing_or_shipped(name) == name
    for other in ("checkpoints/runs/demo", "checkpoints/../checkpoints", "mnist5k-generator", "checkpoints/none"):
        assert existing_or_shipped(Path(other)) == Path(other)
