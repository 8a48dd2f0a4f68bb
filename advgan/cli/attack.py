"""Make adversarial images of a file, a folder tree or a quoted glob, by a generator or any other attack.

    advgan attack photos attacked --generator RUN --eps 8/255 --target RUN/classifier
    advgan attack photo.jpg attacked --attack pgd --eps 8/255 --target FILE.py:FACTORY --resize 256 --y-target starfish
    torchrun --nproc-per-node 2 -m advgan attack "photos/**/*.jpg" attacked --generator hf://user/model --image-size 224

Photos of any size: --image-size and --resize describe the classifier's preprocessing (by default that of --target). The
attack is on its input; the perturbation is carried back to the photo so that it survives the preprocessing, within eps,
and nothing outside of the crop is changed. Without a size, photos are attacked as they are.

Adversarial images have the names and folders of the originals, as PNG: lossless, and rounded toward the original, so
that the bound holds in 8 bits. manifest.csv has a line per image: norms, SHA-256 and, with --target, that classifier's
prediction before and after, as the written file is read through the preprocessing. Images are rotated by their EXIF
data and keep their colour profile; transparency is dropped; colour becomes grey, or grey RGB, as the model requires.

The same command, with the same settings, resumes a killed one; a changed image is attacked again. Other files are
replaced with --force only. Exit codes: 0 all done; 2 bad input, nothing done; 1 the disk is full or fails; 3 some
images were left out, or failed because the attack's output is not finite or not in the ball: they are listed with
the reason on the terminal and in the manifest. (A launcher of several processes exits with 1 for each code but 0.)
Several processes share the images, with the same files as one.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

import advgan.bridges  # noqa: F401  # attacks of other libraries
import advgan.training as training
from advgan.attacks import AttackSpec, parse_attack
from advgan.classifiers import BlackBox, ImageShape, check_target
from advgan.cli.attack_images import ImageAttacker, InputImage, Perturber, find_images, load_finished
from advgan.cli.attack_images.work import ManifestRow, process, skipped
from advgan.core.config import ByOrder, Real, absolute_paths, load_recipe, settings_file, write_settings
from advgan.core.errors import InputError, note
from advgan.core.files import atomic_write
from advgan.core.recipe import NameOrPath, PathOrAddress
from advgan.core.terminal import printable
from advgan.core.threat_model import Norm, Threat
from advgan.data.classes import find_class
from advgan.data.image_file import image_dimensions
from advgan.data.imagenet import class_names
from advgan.data.model_input import ModelInput
from advgan.defenses import ClassifierSpec, load_classifier, parse_classifier, unwrap
from advgan.models.generator import Generator
from advgan.report.escaping import csv_text, in_utf8

SKIPPED = 3  # exit code where images were left out
IGNORED_ON_RESUME = {"force", "batch_size", "max_pixels", "threads"}  # settings that may change on a resume
PREDICTION_COLUMNS = ("before", "before_class", "before_confidence", "after", "after_class", "after_confidence")
COLUMNS = (
    *("input", "output", "status", "reason", "height", "width", "linf", "l2"),
    *(*PREDICTION_COLUMNS, "input_class", "sha256"),
)


@dataclass(frozen=True)
class Settings:
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
    guide: NameOrPath | None = None
    """Guide of the generator in a Python file, FILE.py:FACTORY, which is run; None: no such guide"""
    recipe: Path | None = None
    """YAML file of settings, such as an earlier settings-attack.yaml; flags override it"""
    eps: Real | None = None
    """Radius of the ball; None: the largest that the generator was trained for"""
    norm: Norm | None = None
    """Norm of the ball: linf bounds the written image, l2 the classifier's input. None: the generator's, else linf"""
    y_target: str | None = None
    """Target class: a number, or a name of --target; None: that of the generator, if any"""
    target: NameOrPath | None = None
    """Classifier under attack, which predicts before and after: any --target of advgan compare"""
    target_weights: Path | None = None
    """Weights of the target; None: its published or saved ones"""
    weights_by_order: ByOrder = False
    class_names: Literal["imagenet"] | None = None
    """Class names of a target that has none: ImageNet's, for 1,000 logits"""
    image_size: int | None = None
    """Side in pixels of the square input of the classifier; None: that of the target, if any"""
    resize: int | None = None
    """Shorter side in pixels to which the classifier's preprocessing resizes before the centre crop of image-size;
    None: the target's, or image-size"""
    output_size: Literal["photo", "input"] = "photo"
    """Size of the outputs: that of the photo, or of the classifier's input, resized and cropped"""
    force: bool = False
    """Start again and replace existing files"""
    batch_size: int = 64
    """Batch size, of images of one size"""
    seed: int = 0
    """Random seed of a random attack, or of a generator with noise, which depends on seed and name"""
    max_pixels: int = 16_000_000
    """Largest image, in pixels; larger ones are left out. Peak memory at the defaults: about 2 GiB"""
    threads: int | None = None
    """CPU threads of each process, for the network and for decoding; None: an equal part of the cores"""


def main(settings: Settings) -> None:
    check(settings)
    candidates = find_images(str(settings.source), settings.output_dir)
    accelerator = training.init_accelerator(settings.seed, settings.threads)
    attacker = load(settings, accelerator)
    if accelerator.is_main_process:
        print_notes(candidates, attacker)
    all_rows = attack_images(effective(settings, attacker), candidates, attacker, accelerator)
    training.shutdown(accelerator, SKIPPED if any(row["status"] != "ok" for row in all_rows) else 0)


def check(settings: Settings) -> None:
    """Raise InputError for settings that are invalid by themselves."""
    name = parse_attack(settings.attack).name
    if (name == "advgan") != (settings.generator is not None):
        expected = "expected --generator, or another --attack" if name == "advgan" else "expected no --generator"
        raise InputError(f"attack {name}: {expected}, got {settings.generator}")
    if settings.batch_size < 1:
        raise InputError(f"batch_size must be at least 1, got {settings.batch_size}")
    if settings.max_pixels < 1 or (settings.image_size or 0) ** 2 > settings.max_pixels:
        raise InputError(
            f"max_pixels must be at least 1 and the square of image_size, got {settings.max_pixels} and "
            f"image_size {settings.image_size}"
        )
    if settings.image_size is not None and settings.image_size < 1:
        raise InputError(f"image_size must be at least 1, got {settings.image_size}")
    if settings.output_dir.is_file() or settings.output_dir.suffix.lower() in (".png", ".jpg", ".jpeg"):
        raise InputError(f"OUT must be a folder, got {settings.output_dir}")


def print_notes(candidates: list[InputImage], attacker: ImageAttacker) -> None:
    """Print what makes success lower than it could be."""
    if attacker.generator is not None and attacker.generator.labels and attacker.target is None:
        note("labels are an input of this generator, and unknown without --target: the success rate is lower")
    if attacker.model_input is None and resized_by_any([image.path for image in candidates if not image.problem]):
        note(
            "photos of several sizes are attacked as they are; little of it survives a classifier that resizes them: "
            "--target, or --image-size and --resize, its preprocessing"
        )


def resized_by_any(paths: list[Path]) -> bool:
    """Whether a classifier of square images of one size has to resize some of these, by the headers of the first 64."""
    sizes = set()
    for path in paths[:64]:
        with suppress(OSError):
            sizes.add(image_dimensions(path))
    return len(sizes) > 1 or any(width != height for width, height in sizes)


def effective(settings: Settings, attacker: ImageAttacker) -> Settings:
    """`settings` with the values that None stands for."""
    y_target = None if attacker.y_target is None else str(attacker.y_target)
    threat = attacker.perturb.threat
    ball = {} if threat is None else {"eps": threat.eps, "norm": threat.norm}
    size = attacker.model_input
    sampling = {} if size is None or size.height != size.width else {"image_size": size.height, "resize": size.resize}
    return replace(settings, y_target=y_target, **ball, **sampling)


def attack_images(
    settings: Settings, candidates: list[InputImage], attacker: ImageAttacker, accelerator: Accelerator
) -> list[ManifestRow]:
    """Attack the images, write outputs and manifest.csv, and print the summary; returns the rows of the manifest."""
    training.prepare_output_dir(settings.output_dir, "manifest.csv", resume=False, overwrite=True)
    check_same_settings(settings)
    images = [image for image in candidates if not image.problem]
    chunks = [images[i : i + settings.batch_size] for i in range(0, len(images), settings.batch_size)]
    own_chunks = chunks[accelerator.process_index :: accelerator.num_processes]
    own_images = [image for chunk in own_chunks for image in chunk]
    rows = {} if settings.force else load_finished(own_images, attacker, settings.output_dir)
    n_earlier = len(rows)
    accelerator.wait_for_everyone()  # all read before one writes
    if accelerator.is_main_process:
        write_settings(settings, settings.output_dir)
    unfinished = [chunk for chunk in own_chunks if any(image.name not in rows for image in chunk)]
    with training.progress_bar(accelerator) as bar:
        missing = sum(image.name not in rows for chunk in unfinished for image in chunk)
        task = bar.add_task("attacking", total=missing, metrics="")
        new_rows = process(
            unfinished,
            attacker,
            settings.output_dir,
            done=frozenset(rows),
            inputs_only=settings.output_size == "input",
            workers=max(1, torch.get_num_threads()),
            max_pixels=settings.max_pixels,
        )
        for row in new_rows:
            rows[row["input"]] = row
            bar.advance(task)
    all_rows: list[ManifestRow] = gather_object(list(rows.values()))
    all_rows += [skipped(image, image.problem) for image in candidates if image.problem]
    all_rows.sort(key=lambda row: row["input"])
    n_earlier = sum(gather_object([n_earlier]))
    if accelerator.is_main_process:
        lines = [[row.get(column) for column in COLUMNS] for row in all_rows]
        atomic_write(settings.output_dir / "manifest.csv", in_utf8(csv_text(COLUMNS, lines)))
        print_summary(settings, all_rows, n_earlier, attacker)
    return all_rows


def load(settings: Settings, accelerator: Accelerator) -> ImageAttacker:
    """The attack with its generator and target, on this process's device. Raises InputError where they do not fit."""
    attack = parse_attack(settings.attack)
    spec = None if settings.target is None else parse_classifier(settings.target, settings.target_weights)
    if spec is None and settings.target_weights is not None:
        raise InputError(f"target_weights need a target, got {settings.target_weights} alone")
    generator, target = None, None
    if settings.generator is not None:
        allowed = [] if spec is None else [spec.name]
        generator = Generator.from_pretrained(settings.generator, guide=settings.guide, allowed_guides=allowed)
        generator.to(accelerator.device)
    guide, size = None if generator is None else generator.guide, settings.image_size
    if spec is not None:
        shape = None if guide is None else tuple(guide.image_shape)
        if size is not None:
            channels = 3 if generator is None else generator.channels
            shape = (channels, size, size)
        target = load_target_model(spec, shape).to(accelerator.device).eval()
        if settings.class_names is not None:
            target.classes = imagenet_names(target)
    threat = threat_of(settings, attack, generator)
    y_target = None if generator is None else generator.y_target
    if settings.y_target is not None:
        y_target = target_class(settings.y_target, target)
    model_input = model_input_of(settings, target, guide)
    return ImageAttacker(Perturber(attack, threat, y_target, settings.seed, generator, target), model_input)


def threat_of(settings: Settings, attack: AttackSpec, generator: Generator | None) -> Threat | None:
    """The ball of the attack; None for a minimum-norm attack. Raises InputError for one without a radius."""
    if attack.attack.kind != "bounded":
        if settings.eps is not None:
            raise InputError(f"attack {attack.name} minimises the norm, expected no eps, got {settings.eps:.6g}")
        return None
    eps, norm = settings.eps, settings.norm
    if generator is not None:
        eps, norm = generator.threat.eps if eps is None else eps, norm or generator.threat.norm
    if eps is None:
        raise InputError(f"attack {attack.name} needs the radius of its ball, expected --eps, like 8/255, got none")
    return Threat(norm or "linf", eps)


def target_class(text: str, target: Any) -> int:
    """The number of a class of the target, or without a target a number. Raises InputError for a name of no class."""
    if target is None:
        if not text.isdecimal():
            raise InputError(f"y_target must be a class number, or a class name of --target, got {text!r}")
        return int(text)
    return find_class(text, getattr(target, "classes", None), target.num_classes)


def imagenet_names(target: Any) -> tuple[str, ...]:
    """ImageNet's class names for a target without. Raises InputError for one with, or of another number of classes."""
    if getattr(target, "classes", None) or target.num_classes != 1000:
        has = "names of its own" if getattr(target, "classes", None) else f"{target.num_classes} classes"
        raise InputError(f"class_names imagenet are for a target of 1000 logits without names, got one with {has}")
    return tuple(class_names())


def model_input_of(settings: Settings, target: Any, guide: Any) -> ModelInput | None:
    """The classifier's preprocessing: of the settings, the target or the guide; None where its size is unknown."""
    shapes = {tuple(model.image_shape) for model in (target, guide) if model is not None}
    if settings.image_size is not None:
        shapes.add((next(iter(shapes), (3,))[0], settings.image_size, settings.image_size))
    if len(shapes) > 1:
        raise InputError(
            f"guide, target and image_size must be of one size, got {' and '.join(map(str, sorted(shapes)))}"
        )
    if not shapes:
        if settings.resize is not None:
            raise InputError(f"resize needs the size of the centre crop, expected --image-size, got {settings.resize}")
        return None
    _, height, width = shapes.pop()
    resize = settings.resize if settings.resize is not None else getattr(unwrap(target), "resize", None)
    return ModelInput(height, width, resize)


def load_target_model(spec: ClassifierSpec, shape: ImageShape | None) -> nn.Module:
    """The target, for images of `shape` (None: its own). Raises InputError for one that cannot be queried."""
    model = load_classifier(spec, image_shape=shape)
    if model.image_shape is None:
        raise InputError(f"the target {spec.name} has no fixed image size: pass --image-size")
    if isinstance(model, BlackBox):
        return model  # its outputs are checked, and queries may cost
    sample = torch.rand(2, *model.image_shape, generator=torch.Generator().manual_seed(0))
    return check_target(model, sample, model.num_classes)


def check_same_settings(settings: Settings) -> None:
    """Raise InputError where the output folder holds results of other settings."""
    path, manifest = settings_file(settings, settings.output_dir), settings.output_dir / "manifest.csv"
    for output in (path, manifest):
        if output.is_dir():
            raise InputError(f"{output} is a folder, expected a file or nothing: choose another OUT")
    if settings.force or not path.is_file():
        if manifest.exists() and not settings.force:
            raise InputError(f"{manifest} exists, and this command did not write it: --force replaces it")
        return
    earlier = absolute_paths(load_recipe(Settings, path))
    if changed := training.settings_diff(earlier, absolute_paths(settings), IGNORED_ON_RESUME):
        raise InputError(f"{settings.output_dir} holds results of other settings ({changed}): --force replaces them")


def print_summary(settings: Settings, rows: list[ManifestRow], n_earlier: int, attacker: ImageAttacker) -> None:
    """Print the summary, and on stderr the images that were left out or failed."""
    succeeded, rejected = ([row for row in rows if (row["status"] == "ok") is ok] for ok in (True, False))
    earlier = f", {n_earlier} of them by an earlier call" if n_earlier else ""
    print(f"attacked     {len(succeeded)} of {len(rows)} images{earlier}: {settings.output_dir}")
    if attacker.target is not None and succeeded:
        print(f"success      {success_text(succeeded, attacker)}")
    if carried := [row for row in succeeded if "input_class" in row]:
        print(f"             files read as {attacker.model_input}; {carried_text(carried, attacker.y_target)}")
    print(f"manifest     {settings.output_dir / 'manifest.csv'}")
    for row in rejected[:10]:
        print(f"{row['status']:<13}{printable(row['input'])}: {printable(row['reason'])}", file=sys.stderr)
    if len(rejected) > 10:
        print(f"left out     {len(rejected) - 10} more: see the manifest", file=sys.stderr)


def success_text(rows: list[ManifestRow], attacker: ImageAttacker) -> str:
    """The number of successes among `rows`; images predicted as the target class before are not counted."""
    y_target = attacker.y_target
    finite = [row for row in rows if row["before_class"] is not None and row["after_class"] is not None]
    hits, counted = successes(finite, "after_class", y_target)
    if y_target is None:
        return f"{hits} of {len(rows)} images changed class"
    names = getattr(attacker.target, "classes", None)
    name = f"class {y_target} ({printable(names[y_target])})" if names else f"class {y_target}"
    before = f"; {len(finite) - counted} were before, not counted" if counted < len(finite) else ""
    return f"{hits} of {counted} images became {name}{before}"


def carried_text(rows: list[ManifestRow], y_target: int | None) -> str:
    """The number of successes among `rows` of the attacked inputs, before the perturbations went to the photos."""
    hits, counted = successes(rows, "input_class", y_target)
    return f"before the perturbations were carried to the photos {hits} of {counted}"


def successes(rows: list[ManifestRow], key: str, y_target: int | None) -> tuple[int, int]:
    """The rows whose class at `key` is another than before, or the target class, and the number of rows that count."""
    counted = [row for row in rows if y_target is None or row["before_class"] != y_target]
    hits = [row for row in counted if (row[key] != row["before_class"] if y_target is None else row[key] == y_target)]
    return len(hits), len(counted)
