"""The flags that name the classifier under attack: one help text for all programs."""

from dataclasses import dataclass
from pathlib import Path

from advgan.core.config import ByOrder
from advgan.core.recipe import NameOrPath
from advgan.core.shipped import CLASSIFIERS
from advgan.defenses import ClassifierSpec, parse_classifier


@dataclass(frozen=True)
class TargetSettings:
    """The classifier under attack."""

    target: NameOrPath = "mnist-c"
    """Classifier under attack: its name, the directory of a saved one, or torchvision:NAME:WEIGHTS, timm:NAME,
    hf:REPO, FILE.py:FACTORY, MODEL.onnx, http://HOST/PATH, which need no weights"""
    target_weights: Path | None = None
    """Its weights: a run of train/classifier.py, a .safetensors or .pt file; None: its own (mnist-c: shipped)"""
    weights_by_order: ByOrder = False

    @property
    def classifier(self) -> ClassifierSpec:
        """The classifier; mnist-c by default with the shipped weights. Raises InputError as `parse_classifier`."""
        defense = getattr(self, "defense", None)
        return parse_classifier(self.target, self.target_weights, defense, default=CLASSIFIERS)


@dataclass(frozen=True)
class ClassifierSettings(TargetSettings):
    """The classifier under attack, and defenses around it."""

    defense: NameOrPath | None = None
    """Defenses around the classifier, e.g. bit-depth:bits=3, several joined by +; None: none"""
