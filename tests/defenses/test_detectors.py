"""Detectors: scores, thresholds, and the rejecting classifier, saved and loaded."""

import json
from pathlib import Path

import pytest
import torch
from scipy.ndimage import median_filter
from torch import Tensor, nn

from advgan.classifiers import build_target, save_target
from advgan.core.errors import InputError
from advgan.core.weights import read_weights, write_weights
from advgan.defenses import RejectingClassifier, adaptive, can_reject, defend, load_classifier, load_detector
from advgan.defenses.detection import (
    BinaryDetector,
    Detector,
    DiscriminatorDetector,
    FeatureSqueezing,
    threshold_at,
)
from advgan.models.discriminator import Discriminator

SHAPE = (1, 28, 28)


@pytest.fixture
def target() -> nn.Module:
    torch.manual_seed(0)
    return build_target("mnist-small", SHAPE, 4).eval().requires_grad_(False)


@pytest.fixture
def x() -> Tensor:
    return torch.rand(6, *SHAPE, generator=torch.Generator().manual_seed(1))


def calibrated(kind: type[Detector], x: Tensor, classifier: nn.Module) -> Detector:
    """A detector whose threshold rejects half of `x`."""
    torch.manual_seed(0)
    detector = kind(x.shape[1:]).eval().requires_grad_(False)
    detector.threshold.fill_(threshold_at(detector(x, classifier), 0.5))
    return detector


@pytest.mark.parametrize(
    ("scores", "fpr", "rejected"),
    [
        (torch.arange(100.0), 0.05, 5),
        (torch.arange(100.0), 0.07, 7),
        (torch.arange(10.0), 0.05, 0),  # one of ten would be too many
        (torch.tensor([1.0, 2, 2, 2, 3]), 0.5, 1),  # of equals none or all
        (torch.ones(9), 0.5, 0),
    ],
)
def test_threshold_matches_false_positive_rate(scores: Tensor, fpr: float, rejected: int) -> None:
    assert int((scores > threshold_at(scores, fpr)).sum()) == rejected


@pytest.mark.parametrize("fpr", [0.0, 1.0, -0.1])
def test_invalid_false_positive_rate_raises(fpr: float) -> None:
    with pytest.raises(InputError, match=r"fpr must be in \(0, 1\)"):
        threshold_at(torch.arange(3.0), fpr)


@pytest.mark.parametrize("channels", [1, 3])
def test_feature_squeezing_score_is_largest_l1_distance(channels: int) -> None:
    torch.manual_seed(0)
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(channels * 36, 3))
    x = torch.rand(5, channels, 6, 6)
    levels = 1 if channels == 1 else 31
    median = torch.from_numpy(median_filter(x.numpy(), (1, 1, 3, 3), mode="nearest"))
    squeezed = [(x * levels).round() / levels, median]
    if channels == 3:
        squeezed.append(nn.functional.avg_pool2d(nn.functional.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1))
    p = classifier(x).softmax(1)
    distances = torch.stack([(p - classifier(s).softmax(1)).abs().sum(1) for s in squeezed])
    score = FeatureSqueezing((channels, 6, 6))(x, classifier)
    assert torch.allclose(score, distances.amax(0), atol=1e-6)


def test_smooth_squeezing_score_has_gradient_at_saturation() -> None:
    """Grey 0.6 is squeezed to white: the saturated score has no gradient, the smooth one has."""
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(9, 2))
    with torch.no_grad():
        classifier[1].weight[0], classifier[1].weight[1] = -100.0, 100.0
        classifier[1].bias[0], classifier[1].bias[1] = 720.0, -720.0  # brighter than 0.8: class 1
    x = torch.full((1, 1, 3, 3), 0.6, requires_grad=True)
    detector = FeatureSqueezing((1, 3, 3))
    plain, smooth = detector(x, classifier), detector.differentiable_scores(x, classifier)
    assert plain.item() == smooth.item() == 2
    assert not torch.autograd.grad(plain.sum(), x)[0].any()
    assert (torch.autograd.grad(smooth.sum(), x)[0] > 0).all()  # darker: white would be classified correctly


def test_network_detector_score_is_negated_output(target: nn.Module, x: Tensor) -> None:
    for kind in (BinaryDetector, DiscriminatorDetector):
        detector = kind(SHAPE)
        assert torch.equal(detector(x, target), -detector.network(x))


@pytest.mark.parametrize("kind", [FeatureSqueezing, BinaryDetector, DiscriminatorDetector])
def test_rejecting_classifier_save_and_load(kind: type[Detector], target: nn.Module, x: Tensor, tmp_path: Path) -> None:
    save_target(calibrated(kind, x, target), tmp_path / "run" / "detector", "# card", {"fpr": 0.5})
    defended = defend(target, f"reject:detector={tmp_path / 'run'}")
    assert [can_reject(model) for model in (defended, target)] == [True, False]
    assert torch.equal(defended(x), target(x))
    assert int((defended.rejection_score(x) > 0).sum()) == 3
    save_target(defended, tmp_path / "whole", "# card")
    for file in (tmp_path / "run" / "detector").iterdir():
        file.unlink()  # the classifier has its own
    loaded = load_classifier(str(tmp_path / "whole"))
    assert torch.equal(loaded(x), defended(x))
    assert torch.equal(loaded.rejection_score(x), defended.rejection_score(x))
    view = adaptive(loaded)
    assert torch.equal(view(x), loaded(x))
    assert torch.equal(view.rejection_score(x), loaded.rejection_score(x))
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(view.rejection_score(leaf).sum(), leaf)
    assert gradient.flatten(1).abs().amax(1).gt(0).all()


def test_rejection_must_be_outermost(target: nn.Module, x: Tensor) -> None:
    rejecting = RejectingClassifier(target, calibrated(BinaryDetector, x, target))
    with pytest.raises(InputError, match="cannot wrap a defense that rejects"):
        defend(rejecting, "bit-depth")
    around = RejectingClassifier(defend(target, "bit-depth"), calibrated(FeatureSqueezing, x, target))
    assert [d["name"] for d in around.config["defenses"]] == ["bit-depth", "reject"]


def test_discriminator_save_and_load(x: Tensor, tmp_path: Path) -> None:
    made = Discriminator(1, "paper").eval()
    made.save(tmp_path / "discriminator")
    for where in (tmp_path, tmp_path / "discriminator"):
        assert torch.equal(Discriminator.load(where)(x), made(x))
    (tmp_path / "discriminator" / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(InputError, match=r"the checkpoint in .*discriminator is damaged"):
        Discriminator.load(tmp_path)


def test_invalid_detector_raises(target: nn.Module, x: Tensor, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="reject needs a detector, expected reject:detector=DIR"):
        defend(target, "reject")
    with pytest.raises(InputError, match=r"no detector in .*nowhere"):
        defend(target, f"reject:detector={tmp_path / 'nowhere'}")
    save_target(target, tmp_path / "classifier", "# card")
    with pytest.raises(InputError, match="holds no detector: expected a kind of feature-squeezing, binary"):
        load_detector(tmp_path / "classifier")
    with pytest.raises(InputError, match="made for images of 1x8x8, expected one for the classifier's 1x28x28"):
        RejectingClassifier(target, BinaryDetector((1, 8, 8)))
    save_target(calibrated(BinaryDetector, x, target), tmp_path / "torn", "# card", {})
    config = json.loads((tmp_path / "torn" / "config.json").read_text())
    config["settings"]["width"] = 8
    (tmp_path / "torn" / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"torn is damaged: .*its SHA-256 differs"):
        load_detector(tmp_path / "torn")
    weights = tmp_path / "torn" / "model.safetensors"
    write_weights(read_weights(weights), weights)
    with pytest.raises(InputError, match=r"does not fit its config.json: .*of another shape"):
        load_detector(tmp_path / "torn")
    with pytest.raises(InputError, match="bits must be from 1 to 8, got 9"):
        FeatureSqueezing(SHAPE, bits=9)
    assert BinaryDetector(SHAPE).threshold.isinf()
