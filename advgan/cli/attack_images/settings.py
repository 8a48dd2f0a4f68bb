"""Settings of `advgan attack`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

import advgan.bridges  # noqa: F401 - registers the names of other libraries' attacks
from advgan.attacks import parse_attack
from advgan.core.config import ByOrder, Real
from advgan.core.errors import InputError
from advgan.core.recipe import NameOrPath, PathOrAddress
from advgan.core.threat_model import Norm
from advgan.data.image_file import check_sizes

PROGRAM = "attack"  # as in settings-attack.yaml


@dataclass(frozen=True, kw_only=True)
class PairSettings:
    """The classifier under attack, and the guide of the generator."""

    guide: NameOrPath | None = None
    """Guide of the generator in a Python file, FILE.py:FACTORY, which is run; None: no such guide"""
    target: NameOrPath | None = None
    """Classifier under attack: any --target of advgan compare; None: that of the generator's run, or the shipped one
    of a shipped generator"""
    target_weights: Path | None = None
    """Weights of the target; None: its published or saved ones, or those shipped for mnist-c"""
    weights_by_order: ByOrder = False
    defense: NameOrPath | None = None
    """Defenses around the classifier, e.g. bit-depth:bits=3, several joined by +; None: none"""
    class_names: Literal["imagenet"] | None = None
    """Class names of a target that has none: ImageNet's, for 1,000 logits"""
    image_size: int | None = None
    """Side in pixels of the square input of the classifier; None: that of the target"""
    resize: int | None = None
    """Shorter side in pixels to which pictures are resized before the centre crop; None: the target's, or image-size"""


@dataclass(frozen=True, kw_only=True)
class Settings(PairSettings):
    """Input images, output folder and generator."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="IN")]
    """An image, a folder, or a quoted glob like "photos/**/*.jpg"; links that lead out of it are skipped"""
    output_dir: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """Output folder: adversarial images and manifest.csv"""
    attack: str = "advgan"
    """An attack with settings after colons, like fgsm, pgd:steps=10 or deepfool; all but a generator's pass need
    --target. Names and settings: the attacks table of the README"""
    generator: PathOrAddress | None = None
    """A trained generator's folder, a run that holds one, or hf://USER/MODEL, of attack advgan"""
    recipe: Path | None = None
    """YAML file of settings, such as an earlier settings-attack.yaml; flags override it"""
    eps: Real | None = None
    """Radius of the ball; None: the largest that the generator was trained for"""
    norm: Norm | None = None
    """Norm of the ball: linf bounds the written image, l2 the classifier's input. None: the generator's, else linf"""
    y_target: str | None = None
    """Target class: a number, or a name of --target; None: that of the generator, if any. Several, with commas between:
    each in a folder of OUT"""
    target: NameOrPath | None = None
    """Classifier under attack, which predicts before and after: any --target of advgan compare; None: none"""
    output_size: Literal["photo", "input"] = "photo"
    """Size of the outputs: that of the photo, or of the classifier's input, resized and cropped"""
    figure: Path | None = None
    """PNG of the first four photos, each beside its adversarial images, for each target class, with predictions and
    perturbations; None: no figure"""
    force: bool = False
    """Start again and replace existing files"""
    batch_size: int = 64
    """Batch size, of images of one size"""
    seed: int = 0
    """Random seed of a random attack, or of a generator with noise, which depends on seed and name"""
    max_pixels: int = 16_000_000
    """Largest image, in pixels; larger ones are left out. Peak memory at the defaults: about 2 GiB"""
    threads: int | None = None
    """CPU threads of each process, for network and decoding; None: without a launcher OMP_NUM_THREADS, else an equal
    part of the cores"""


def check(settings: Settings) -> None:
    """Raise InputError for settings that are invalid by themselves."""
    name = parse_attack(settings.attack).name
    if (name == "advgan") != (settings.generator is not None):
        expected = "expected --generator, or another --attack" if name == "advgan" else "expected no --generator"
        raise InputError(f"attack {name}: {expected}, got {settings.generator}")
    if settings.guide is not None and settings.generator is None:
        raise InputError(f"a guide is of a generator, expected --generator, got --guide {settings.guide} alone")
    if settings.defense is not None and settings.target is None:
        raise InputError(f"a defense is around the target, expected --target, got --defense {settings.defense} alone")
    if settings.class_names is not None and settings.target is None:
        raise InputError(
            f"class_names are of the target, expected --target, got --class-names {settings.class_names} alone"
        )
    if settings.batch_size < 1:
        raise InputError(f"batch_size must be at least 1, got {settings.batch_size}")
    check_sizes(settings.image_size, settings.resize)
    if settings.max_pixels < 1 or (settings.image_size or 0) ** 2 > settings.max_pixels:
        raise InputError(
            f"max_pixels must be at least 1 and the square of image_size, got {settings.max_pixels} and "
            f"image_size {settings.image_size}"
        )
    if settings.figure is not None and (settings.target is None or settings.figure.suffix.lower() != ".png"):
        raise InputError(f"a figure is a PNG with predictions, expected --target and FILE.png, got {settings.figure}")
    if settings.output_dir.is_file() or settings.output_dir.suffix.lower() in (".png", ".jpg", ".jpeg"):
        raise InputError(f"OUT must be a folder, got {settings.output_dir}")
