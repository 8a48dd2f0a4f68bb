"""Photos without class folders, from training to comparison: the programs on a flat folder and a list with labels."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image


@pytest.fixture(scope="module")
def photos(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/ of photos without labels, test/ and test.csv with them; of several sizes, the classifier has 28 pixels."""
    root = tmp_path_factory.mktemp("photos")
    rows = ["file,label"]
    for part in ("train", "test"):
        (root / part).mkdir()
        for i, file in enumerate(sorted((digits / part).rglob("*.png"))):
            Image.open(file).resize((40, 36 + i % 2)).save(root / part / f"{i:03d}.png")
            rows += [f"{i:03d}.png,{file.parent.name}"] if part == "test" else []
    (root / "test.csv").write_text("\n".join(rows))
    return root


@pytest.mark.usefixtures("undrawn")
def test_generator_of_photos_without_labels(script: Any, photos: Path, classifier: Path, tmp_path: Path) -> None:
    common = ["--dataset", "folder", "--target", classifier / "classifier", "--eps", "0.3"]
    made = script(
        "train/advgan.py",
        *[*common, "--data-dir", photos / "train", "--max-steps", 4, "--batch-size", 20, "--width", 8],
        *["--validate-every", 4, "--output-dir", tmp_path / "run"],
    )
    assert "the success rate is the fooling rate" in made.stderr
    assert "are made 28 x 28, as the classifier's: shorter side to 28 pixels" in made.stderr
    assert "val fooling rate" in made.stdout
    assert "ASR" not in made.stdout
    card = (tmp_path / "run" / "generator" / "README.md").read_text()
    assert "| fooling rate on 12 validation images: another class than the target predicts" in card
    assert "| images, in training too | shorter side to 28 pixels (bilinear, antialiased), centre crop of 28 |" in card

    def compared(name: str, *arguments: Any) -> dict[str, Any]:
        command = [*common, "--generator", tmp_path / "run", "--attacks", "advgan", "--output-dir", tmp_path / name]
        script("eval/compare.py", *command, *arguments)
        results: dict[str, Any] = json.loads((tmp_path / name / "results.json").read_text())
        return results

    results = compared("labels", "--data-dir", photos / "test.csv", "--resize", 32, "--image-size", 28)
    (row,) = results["rows"]
    assert (row["n"], row["clean_accuracy"]) == (48, pytest.approx(1, abs=0.1))
    sizing = "shorter side to 32 pixels (bilinear, antialiased), centre crop of 28"
    assert results["target"]["dataset"] == f"folder ({sizing})"
    results = compared("free", "--data-dir", photos / "test", "--label-source", "predicted", "--max-samples", 20)
    (row,) = results["rows"]
    assert (row["n"], row["n_correct"], row["clean_accuracy"]) == (20, 20, 1.0)
    assert results["target"]["dataset"].endswith("centre crop of 28; labels: predictions of mnist-small)")
    flat = ["--dataset", "folder", "--data-dir", photos / "train", "--image-size", 28]
    refused = script("train/classifier.py", *flat, code=2)
    assert "error: folder has no labels in" in refused.stderr
    refused = script("eval/compare.py", *common, "--data-dir", photos / "train", code=2)
    assert "error: folder has no test images in" in refused.stderr
