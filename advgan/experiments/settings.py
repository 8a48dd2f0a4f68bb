"""Settings that studies share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from advgan.core.config import ByOrder
from advgan.core.recipe import NameOrPath
from advgan.data.flags import DataSettings


@dataclass(frozen=True)
class StudySettings(DataSettings):
    """Images, kept results, batches and threads of a study."""

    max_samples: int | None = None
    """Maximum number of test images: always the same fair sample of the classes (docs/data.md)"""
    fresh: bool = False
    """Run every attack again, even those whose results an earlier call has kept"""
    batch_size: int = 100
    """Images an attack is given at once"""
    threads: int | None = None
    """CPU threads; None takes all cores"""


@dataclass(frozen=True)
class ClassifierSettings:
    """The one classifier of a study."""

    target: NameOrPath = "mnist-c"
    """The classifier under attack: its name, the directory of a saved one, or torchvision:NAME:WEIGHTS, timm:NAME,
    hf:REPO, FILE.py:FACTORY, MODEL.onnx, http://HOST/PATH, which need no weights"""
    target_weights: Path | None = None
    """Its weights: a run of train/classifier.py, a .safetensors or .pt file; None: its own, or the shipped mnist-c"""
    weights_by_order: ByOrder = False
    defense: NameOrPath | None = None
    """Defense around the classifier, like bit-depth:bits=3, or several with +; None: none"""
