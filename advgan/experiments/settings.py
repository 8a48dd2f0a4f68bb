"""Settings that studies share."""

from dataclasses import dataclass
from pathlib import Path

from advgan.core.config import ByOrder
from advgan.core.recipe import NameOrPath
from advgan.data.flags import DataSettings


@dataclass(frozen=True)
class StudySettings(DataSettings):
    """Images, result cache, batches, threads and reports of a study."""

    max_samples: int | None = None
    """Maximum number of test images: always the same stratified sample of the classes (docs/data.md)"""
    fresh: bool = False
    """Run every attack again, without cached results"""
    batch_size: int = 100
    """Images per batch of an attack"""
    threads: int | None = None
    """CPU threads; None: all cores"""
    output_dir: Path = Path("checkpoints/runs/study")
    """Directory of the reports; earlier ones are replaced"""


@dataclass(frozen=True)
class SeededStudySettings(StudySettings):
    """Settings of a study with one seed."""

    seed: int = 0
    """Seed of random attacks"""


@dataclass(frozen=True)
class ClassifiersSettings:
    """The classifiers of a study."""

    target: tuple[NameOrPath, ...] = ("mnist-c",)
    """Classifiers under attack: names, directories of saved ones, or torchvision:NAME:WEIGHTS, timm:NAME, hf:REPO,
    FILE.py:FACTORY, MODEL.onnx, http://HOST/PATH, which need no weights"""
    target_weights: tuple[Path, ...] = ()
    """Their weights, one for one: runs of train/classifier.py, .safetensors or .pt files; (): their own, or the shipped
    mnist-c"""
    weights_by_order: ByOrder = False
    defense: tuple[NameOrPath, ...] = ()
    """Defenses around the targets, e.g. bit-depth:bits=3, several joined by +, or none: one for each, or one for all"""
