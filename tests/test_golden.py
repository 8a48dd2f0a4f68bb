"""Golden outputs, recorded before a refactoring: perturbations of shipped generators, a comparison, a training.

`python -m tests.test_golden` from the repository root records them anew in tests/golden.json, for a change that is
meant to change them. Numbers and no hashes are recorded: another processor rounds the last bits differently. Where two
values are equal but for these bits (a maximum in a flat background, the strongest wrong class), an unrolled network
takes another way: of 100 digits 1 to 4 differ visibly between instruction sets, so images are compared one by one.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from advgan import Generator
from advgan.core.config import run
from advgan.data import load_data
from tests.conftest import ROOT, program_module

GOLDEN = Path(__file__).with_name("golden.json")
SHIPPED = ("mnist-c-generator", "mnist-c-conditional", "mnist5k-generator")
CLASSIFIER = ROOT / "checkpoints/mnist5k-classifier"
VARYING = ("environment", "cost", "seconds", "images_per_second", "milliseconds", "path")  # keys of times and places


def perturbations() -> dict[str, Any]:
    """Of each of 100 test digits two random projections of delta and its l2 norm, and the largest linf norm, for each
    shipped generator."""
    x, _ = next(load_data("mnist5k").test.batches(100))
    projections = torch.randn(784, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    outputs = {}
    for name in SHIPPED:
        generator = Generator.from_pretrained(ROOT / "checkpoints" / name)
        for y_target in (None, 3) if generator.classes else (None,):
            options = {} if y_target is None else {"y_target": torch.full((100,), y_target)}
            torch.manual_seed(0)
            delta = (generator.perturb(x, **options) - x).flatten(1).double()
            values = torch.cat([delta @ projections, delta.norm(dim=1, keepdim=True)], 1).tolist()
            outputs[f"{name}, y_target {y_target}"] = {
                "images": [" ".join(f"{value:.5f}" for value in image) for image in values],  # a line each
                "linf": delta.abs().amax().item(),
            }
    return outputs


def comparison(directory: Path) -> dict[str, Any]:
    """results.json of three attacks and a shipped generator on 40 digits, without times."""
    module = program_module("eval/compare.py")
    flags = {"target-weights": CLASSIFIER, "generator": ROOT / "checkpoints/mnist5k-generator", "max-samples": 40}
    flags |= {"output-dir": directory, "threads": 1}
    words = [str(word) for name, value in flags.items() for word in (f"--{name}", value)]
    run(module.main, module.Settings, [*words, "--attacks", "advgan", "noise-sign", "fgsm", "pgd:steps=5"])
    results = json.loads((directory / "results.json").read_text())
    return {"keys": sorted(results), "rows": [without_times(row) for row in results["rows"]]}


def without_times(value: Any) -> Any:
    """A results.json without entries that depend on the machine and the clock."""
    if isinstance(value, dict):
        items = value.items()
        return {k: without_times(v) for k, v in items if not any(name in k for name in VARYING)}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def resumed_training(directory: Path) -> list[dict[str, Any]]:
    """History of a training that is stopped after 4 of 8 steps and resumed, without times."""
    module = program_module("train/advgan.py")
    flags = {"target-weights": CLASSIFIER, "output-dir": directory, "threads": 1, "batch-size": 16, "width": 8}
    flags |= {"validate-every": 2, "validation-images": 50, "labels": False}
    words = [str(word) for name, value in flags.items() for word in (f"--{name}", value)]
    run(module.main, module.Settings, [*words, "--max-steps", "4"])
    run(module.main, module.Settings, [*words, "--max-steps", "8", "--resume"])
    history = json.loads((directory / "training.json").read_text())["history"]
    return [without_times(entry) for entry in history]


def outputs(directory: Path) -> dict[str, Any]:
    return {
        "perturbations": perturbations(),
        "comparison": comparison(directory / "comparison"),
        "training": resumed_training(directory / "training"),
    }


def assert_close(actual: Any, expected: Any, tolerance: float, where: str = "") -> None:
    """Equal structures; floats within `tolerance`, absolute and relative."""
    if isinstance(expected, dict):
        assert sorted(actual) == sorted(expected), where
        for key, value in expected.items():
            assert_close(actual[key], value, tolerance, f"{where}/{key}")
    elif isinstance(expected, list):
        assert len(actual) == len(expected), where
        for i, value in enumerate(expected):
            assert_close(actual[i], value, tolerance, f"{where}/{i}")
    elif isinstance(expected, float):
        assert actual == pytest.approx(expected, abs=tolerance, rel=tolerance), where
    else:
        assert actual == expected, where


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    recorded: dict[str, Any] = json.loads(GOLDEN.read_text())
    return recorded


def test_perturbations_of_shipped_generators_are_unchanged(golden: dict[str, Any]) -> None:
    actual = perturbations()
    assert sorted(actual) == sorted(golden["perturbations"])
    for name, expected in golden["perturbations"].items():
        images, recorded = (
            torch.tensor([[float(value) for value in line.split()] for line in lines])
            for lines in (actual[name]["images"], expected["images"])
        )
        different = ((images - recorded).abs() > 1e-3).any(1).sum().item()
        assert different <= (10 if name.startswith("mnist-c-conditional") else 0), name
        assert actual[name]["linf"] == pytest.approx(expected["linf"], abs=1e-6), name


@pytest.mark.usefixtures("undrawn")
def test_results_of_a_comparison_are_unchanged(golden: dict[str, Any], tmp_path: Path) -> None:
    assert_close(comparison(tmp_path), golden["comparison"], 1e-5)


def test_history_of_a_resumed_training_is_unchanged(golden: dict[str, Any], tmp_path: Path) -> None:
    assert_close(resumed_training(tmp_path), golden["training"], 1e-3)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        GOLDEN.write_text(json.dumps(outputs(Path(folder)), indent=1) + "\n")
