"""Detectors of adversarial images: a score per image, a threshold above which it is rejected, and the classifier that
rejects."""

import math
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from advgan.classifiers.base import check_shape
from advgan.core.errors import InputError
from advgan.core.json_files import check_int, check_keys, read_object
from advgan.core.weights import build_and_load, read_checkpoint
from advgan.defenses.base import Defended, adaptive
from advgan.defenses.filters import neighbourhoods, soft_median
from advgan.models.discriminator import Discriminator
from advgan.models.generator_settings import Architecture


class Detector(nn.Module):
    """Images (n, c, h, w) in [0, 1], and their classifier -> scores (n,), larger for adversarial images.

    kind          the name it is saved by
    image_shape   of the images that it was made for
    settings      arguments of `__init__`
    threshold     the score above which an image is rejected; infinite until it is calibrated
    """

    kind: ClassVar[str]
    threshold: Tensor

    def __init__(self, image_shape: Sequence[int], **settings: Any) -> None:
        super().__init__()
        self.image_shape, self.settings = tuple(image_shape), settings
        self.register_buffer("threshold", torch.tensor(torch.inf))

    def forward(self, x: Tensor, classifier: nn.Module) -> Tensor:
        raise NotImplementedError

    def differentiable_scores(self, x: Tensor, classifier: nn.Module) -> Tensor:
        """The same scores with a useful gradient, for an adaptive attack."""
        return self(x, classifier)

    @property
    def config(self) -> dict[str, Any]:
        """The argument of `build_detector`."""
        return {"kind": self.kind, "image_shape": list(self.image_shape), "settings": self.settings}


class FeatureSqueezing(Detector):
    """max over squeezers s of ||p(x) - p(s(x))||_1 (Xu et al. 2018, arXiv:1704.01155, eq. 2), p the softmax.

    Squeezers: `bits` per value (None: 1 for grey images, 5 for colour) and a 3 x 3 median; for colour also a 3 x 3 mean
    in place of the paper's non-local means. (The paper's median is 2 x 2 on digits.)
    """

    kind = "feature-squeezing"

    def __init__(self, image_shape: Sequence[int], bits: int | None = None) -> None:
        bits = (1 if image_shape[0] == 1 else 5) if bits is None else bits
        if not 1 <= bits <= 8:
            raise InputError(f"bits must be from 1 to 8, got {bits}")
        super().__init__(image_shape, bits=bits)
        self.levels = 2**bits - 1

    def forward(self, x: Tensor, classifier: nn.Module) -> Tensor:
        p = self._logits([x, *self._squeezed(x)], classifier).softmax(-1)
        return (p[1:] - p[0]).abs().sum(-1).amax(0)

    def differentiable_scores(self, x: Tensor, classifier: nn.Module) -> Tensor:
        """The gradient is that of the cross-entropy of the farthest squeezed image's prediction to that of x: the
        gradient of the distance vanishes for confident predictions. Rounding has the gradient of the identity, the
        median that of a soft median (BPDA)."""
        rounded, median, *mean = self._squeezed(x)
        smooth_images = [x, soft_median(x, 3)]
        straight_through = [
            smooth + (exact - smooth).detach() for smooth, exact in zip(smooth_images, (rounded, median), strict=True)
        ]
        logits = self._logits([x, *straight_through, *mean], classifier)
        p = logits.softmax(-1).detach()
        distance, farthest = (p[1:] - p[0]).abs().sum(-1).max(0)
        cross_entropy = -(p[0] * logits[1:].log_softmax(-1)).sum(-1).gather(0, farthest[None])[0]
        return distance + (cross_entropy - cross_entropy.detach())

    def _squeezed(self, x: Tensor) -> list[Tensor]:
        """`x` squeezed in each way."""
        windows = neighbourhoods(x, 3)
        mean = [windows.mean(-1)] if x.shape[1] > 1 else []
        return [(x * self.levels).round() / self.levels, windows.median(-1).values, *mean]

    def _logits(self, images: Sequence[Tensor], classifier: nn.Module) -> Tensor:
        """(len(images), n, k), of images (n, c, h, w) each."""
        logits: Tensor = classifier(torch.cat(list(images))).float()
        return logits.unflatten(0, (len(images), len(images[0])))


class BinaryDetector(Detector):
    """A small network trained to tell adversarial images from clean ones (Gong et al. 2017, arXiv:1704.04960).

    Its architecture is that of the GAN's discriminator, whose output is larger for clean images: the score negates it.
    """

    kind = "binary"

    def __init__(self, image_shape: Sequence[int], architecture: Architecture = "patch", width: int = 32) -> None:
        super().__init__(image_shape, architecture=architecture, width=width)
        self.network = Discriminator(image_shape[0], architecture, width)

    def forward(self, x: Tensor, classifier: nn.Module) -> Tensor:
        return -self.network(x)


class DiscriminatorDetector(BinaryDetector):
    """The discriminator that a generator was trained against, unchanged."""

    kind = "discriminator"


DETECTORS: dict[str, type[Detector]] = {d.kind: d for d in (FeatureSqueezing, BinaryDetector, DiscriminatorDetector)}


def threshold_at(clean: Tensor, fpr: float) -> float:
    """The score exceeded by a fraction `fpr` of the scores of `clean` images (n,), rounded down.

    Halfway between two scores, so that rounding decides nothing. Raises InputError for a fraction outside (0, 1).
    """
    if not 0 < fpr < 1:
        raise InputError(f"fpr must be in (0, 1), the fraction of clean images rejected, got {fpr}")
    ordered = clean.double().sort(descending=True).values
    rejected = math.floor(fpr * len(ordered) + 1e-9)  # 0.07 * 100 is 7, and a little
    return float(ordered[max(rejected - 1, 0) : rejected + 1].mean())


@torch.no_grad()
def scores(detector: Detector, classifier: nn.Module, x: Tensor, batch_size: int = 100) -> Tensor:
    """The scores (n,) of images `x` (n, c, h, w), on the CPU."""
    device = detector.threshold.device
    return torch.cat([detector(part.to(device), classifier).float().cpu() for part in x.split(batch_size)])


def check_detector(config: Mapping[str, Any], where: str) -> None:
    """Raise InputError, before anything is built, unless `config` is a detector's."""
    kind, settings = config.get("kind"), config.get("settings")
    if not isinstance(kind, str) or kind not in DETECTORS:
        raise InputError(f"{where} holds no detector: expected a kind of {', '.join(DETECTORS)} in its config.json")
    check_keys(where, config, ["kind", "image_shape", "settings"])
    check_shape(config["image_shape"], f"{where}: image_shape must be (1 or 3, h, w)")
    if not isinstance(settings, dict):
        raise InputError(f"{where}: settings must be an object, got {reprlib.repr(settings)}")
    if kind == FeatureSqueezing.kind:
        check_keys(where, settings, ["bits"])
        check_int("bits", settings["bits"], 1, 8)
    else:
        check_keys(where, settings, ["architecture", "width"])


def build_detector(config: Mapping[str, Any]) -> Detector:
    """The detector of a `Detector.config`, without its weights."""
    return DETECTORS[config["kind"]](config["image_shape"], **config["settings"]).eval()


def load_detector(directory: Path | str) -> Detector:
    """The detector saved in `directory` or its detector/; in eval mode, frozen.

    Raises InputError for a directory without one, and for a damaged one.
    """
    folders = [Path(directory), Path(directory) / "detector"]
    folder = next((folder for folder in folders if (folder / "config.json").is_file()), None)
    if folder is None:
        raise InputError(f"no detector in {directory}: expected config.json and weights of train/detector.py")
    config = read_object(folder / "config.json")
    check_detector(config, str(folder))
    file = folder / "model.safetensors"
    detector = build_and_load(lambda: build_detector(config), read_checkpoint(folder, config), file, "its config.json")
    return detector.requires_grad_(False)


class RejectingClassifier(Defended):
    """The inner classifier's logits; an image with a positive `rejection_score` is rejected, for any logits.

    detector   a calibrated detector, or its directory, written by train/detector.py. It is saved with the classifier.
    """

    spec_name = "reject"

    def __init__(self, inner: nn.Module, detector: str | Detector = "") -> None:
        if detector == "":
            raise InputError("reject needs a detector, expected reject:detector=DIR, made by train/detector.py")
        loaded = load_detector(detector) if isinstance(detector, str) else detector
        shape = getattr(inner, "image_shape", loaded.image_shape)
        if tuple(shape) != loaded.image_shape:
            actual, expected = ("x".join(map(str, value)) for value in (loaded.image_shape, shape))
            raise InputError(
                f"the detector was made for images of {actual}, expected one for the classifier's {expected}"
            )
        super().__init__(inner, **loaded.config)
        self.detector = loaded.eval()

    @classmethod
    def check_settings(cls, settings: Mapping[str, Any]) -> None:
        check_detector(settings, "the settings of reject")

    @classmethod
    def restore(cls, inner: nn.Module, settings: dict[str, Any]) -> Self:
        return cls(inner, build_detector(settings))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)

    def rejection_score(self, x: Tensor) -> Tensor:
        """Score of each image `x` (n, c, h, w) above the threshold: (n,), differentiable."""
        return self.detector(x, self.inner) - self.detector.threshold

    def adaptive(self) -> nn.Module:
        return AdaptiveView(self)


class AdaptiveView(nn.Module):
    """Adaptive view of a `RejectingClassifier`: that of the classifier, and the detector's differentiable scores."""

    def __init__(self, defense: RejectingClassifier) -> None:
        super().__init__()
        self.inner, self.detector = adaptive(defense.inner), defense.detector

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)

    def rejection_score(self, x: Tensor) -> Tensor:
        """As `RejectingClassifier.rejection_score`, with a gradient that leads below the threshold."""
        return self.detector.differentiable_scores(x, self.inner) - self.detector.threshold
