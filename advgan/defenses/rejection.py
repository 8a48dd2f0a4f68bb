"""A classifier with a detector that rejects suspicious images."""

from collections.abc import Mapping
from typing import Any, Self

from torch import Tensor, nn

from advgan.core.errors import InputError
from advgan.defenses.base import Defended, adaptive
from advgan.defenses.detection import Detector, build_detector, check_detector, load_detector


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
