"""The checkpoints that are shipped: small, whole, and worth what their cards say."""

import hashlib
import re
from pathlib import Path

import pytest
import torch

from advgan import Generator
from advgan.attacks.registry import make_attack
from advgan.classifiers import load_target
from advgan.core.threat_model import Threat
from advgan.data import load_data
from advgan.evaluation import predict
from tests.conftest import ROOT

SHIPPED = sorted(path.parent for path in (ROOT / "checkpoints").glob("*/config.json"))
GENERATORS = [folder for folder in SHIPPED if not folder.name.endswith("classifier")]
OF_DIGITS = [folder for folder in GENERATORS if folder.name.startswith("mnist")]
CLASSIFIERS = [folder for folder in SHIPPED if folder.name.endswith("classifier")]


def attacked(folder: Path) -> Path:
    """The shipped classifier that a shipped generator was trained on: they share the first part of their names."""
    return folder.with_name(folder.name.rsplit("-", 1)[0] + "-classifier")


def test_all_together_are_small():
    assert sum(file.stat().st_size for folder in SHIPPED for file in folder.iterdir()) < 10_000_000


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: folder.name)
def test_a_card_names_its_weights(folder):
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert digest in (folder / "README.md").read_text()


@pytest.mark.parametrize("folder", CLASSIFIERS, ids=lambda folder: folder.name)
def test_a_classifier_is_as_accurate_as_its_card_says(folder):
    (written,) = re.findall(r"^\| mnist5k \| 1000 \| ([\d.]+) \[", (folder / "README.md").read_text(), re.M)
    x, y = next(load_data("mnist5k").test.batches(1000))
    accuracy = (predict(load_target("mnist-c", folder), x).argmax(1) == y).float().mean().item()
    assert 100 * accuracy == pytest.approx(float(written), abs=0.11)  # one image, on another machine


@pytest.mark.parametrize("folder", GENERATORS, ids=lambda folder: folder.name)
def test_a_generator_keeps_ball_and_box(folder: Path) -> None:
    generator = Generator.from_pretrained(folder)
    x = torch.rand(2, generator.channels, 28, 28, generator=torch.Generator().manual_seed(0))
    x_adv = generator.perturb(x)
    assert not generator.threat.violations(x_adv, x)
    assert (x_adv - x).abs().amax() > 0.9 * generator.threat.eps


@pytest.mark.parametrize("folder", OF_DIGITS, ids=lambda folder: folder.name)
def test_a_generator_fools_as_many_as_its_card_says(folder):
    found = re.findall(
        r"^\| mnist5k \| \d+ \| untargeted \| (\w+) ([\d.]+) \| ([\d.]+) \[", (folder / "README.md").read_text(), re.M
    )
    assert found
    x, y = next(load_data("mnist5k").test.batches(1000))
    target, generator = load_target("mnist-c", attacked(folder)), Generator.from_pretrained(folder)
    correct = predict(target, x).argmax(1) == y
    for norm, eps, written in found[::3]:  # the smallest radius and the largest
        threat = Threat(norm, float(eps))
        attack = make_attack("advgan", target, threat, None, torch.Generator().manual_seed(0), generator)
        x_adv = attack(x, y)
        assert not threat.violations(x_adv, x)
        asr = (predict(target, x_adv).argmax(1) != y)[correct].float().mean().item()
        assert 100 * asr == pytest.approx(float(written), abs=0.31)  # three images, on another machine
