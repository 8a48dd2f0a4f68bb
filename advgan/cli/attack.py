"""Make adversarial images of a file, a folder tree or a quoted glob, in one forward pass each.

    advgan attack photo.jpg attacked --generator RUN
    advgan attack photos attacked --generator RUN --eps 8/255 --target RUN/classifier --y-target 3
    torchrun --nproc-per-node 2 -m advgan attack "photos/**/*.jpg" attacked --generator hf://user/model --image-size 224

Adversarial images have the names and folders of the originals, as PNG: lossless, and rounded toward the original, so
that the bound holds in 8 bits. manifest.csv has a line per image: norms, SHA-256 and, with --target, that classifier's
prediction before and after. Images are rotated by their EXIF data; transparency is dropped; colour becomes grey, or
grey RGB, as the generator requires. A guided generator, and a target, need one size: --image-size resizes and crops.

The same command, with the same settings, resumes a killed one; a changed image is attacked again. Other files are
replaced with --force only. Exit codes: 0 all done; 2 bad input, nothing done; 1 the disk is full or fails; 3 some
images were left out, or failed because the generator's output is not finite or not in the ball: they are listed with
the reason on the terminal and in the manifest. (A launcher of several processes exits with 1 for each code but 0.)
Several processes share the images, with the same files as one.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
import tyro
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

import advgan.training as training
from advgan.classifiers import BlackBox, ImageShape, check_target
from advgan.cli.attack_images import ImageAttacker, class_of, find_images, load_finished
from advgan.cli.attack_images.work import ManifestRow, process, skipped
from advgan.core.config import ByOrder, Real, absolute_paths, load_recipe, settings_file, write_settings
from advgan.core.errors import InputError, note
from advgan.core.files import atomic_write
from advgan.core.recipe import NameOrPath, PathOrAddress
from advgan.core.terminal import printable
from advgan.defenses import ClassifierSpec, load_classifier, parse_classifier
from advgan.models.generator import Generator
from advgan.report.escaping import csv_text, in_utf8

SKIPPED = 3  # exit code where images were left out
IGNORED_ON_RESUME = {"force", "batch_size", "max_pixels", "threads"}  # settings that may change on a resume
PREDICTION_COLUMNS = ("before", "before_class", "before_confidence", "after", "after_class", "after_confidence")
COLUMNS = ("input", "output", "status", "reason", "height", "width", "linf", "l2", *PREDICTION_COLUMNS, "sha256")


@dataclass(frozen=True)
class Settings:
    """Input images, output folder and generator."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="IN")]
    """An image, a folder, or a quoted glob like "photos/**/*.jpg"; links that lead out of it are skipped"""
    output_dir: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """Output folder: adversarial images and manifest.csv"""
    generator: PathOrAddress
    """A trained generator's folder, a run that holds one, or hf://USER/MODEL"""
    guide: NameOrPath | None = None
    """Guide of the generator in a Python file, FILE.py:FACTORY, which is run; None: no such guide"""
    recipe: Path | None = None
    """YAML file of settings, such as an earlier settings-attack.yaml; flags override it"""
    eps: Real | None = None
    """Radius of the ball; None: the largest that the generator was trained for"""
    y_target: str | None = None
    """Target class: a number, or a name of --target; None: that of the generator, if any"""
    target: NameOrPath | None = None
    """Classifier for predictions before and after, any --target of advgan compare"""
    target_weights: Path | None = None
    """Weights of the target; None: its published or saved ones"""
    weights_by_order: ByOrder = False
    image_size: int | None = None
    """Side of the square to which images are resized and cropped, in pixels"""
    force: bool = False
    """Start again and replace existing files"""
    batch_size: int = 64
    """Batch size, of images of one size"""
    seed: int = 0
    """Random seed of a generator with noise; the noise of an image depends on seed and name"""
    max_pixels: int = 16_000_000
    """Largest image, in pixels; larger ones are left out. Peak memory at the defaults: about 2 GiB"""
    threads: int | None = None
    """CPU threads of each process, for the network and for decoding; None: an equal part of the cores"""


def main(settings: Settings) -> None:
    if settings.batch_size < 1:
        raise InputError(f"batch_size must be at least 1, got {settings.batch_size}")
    if settings.max_pixels < 1 or (settings.image_size or 0) ** 2 > settings.max_pixels:
        raise InputError(
            f"max_pixels must be at least 1 and the square of image_size, got {settings.max_pixels} and "
            f"image_size {settings.image_size}"
        )
    if settings.output_dir.is_file() or settings.output_dir.suffix.lower() in (".png", ".jpg", ".jpeg"):
        raise InputError(f"OUT must be a folder, got {settings.output_dir}")
    candidates = find_images(str(settings.source), settings.output_dir)
    images = [image for image in candidates if not image.problem]
    accelerator = training.init_accelerator(settings.seed, settings.threads)
    attacker = load(settings, accelerator)
    if attacker.generator.labels and attacker.target is None and accelerator.is_main_process:
        note("labels are an input of this generator, and unknown without --target: the success rate is lower")
    y_target = None if attacker.y_target is None else str(attacker.y_target)
    settings = replace(settings, eps=attacker.eps, y_target=y_target)  # the effective ones
    training.prepare_output_dir(settings.output_dir, "manifest.csv", resume=False, overwrite=True)
    check_same_settings(settings)
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
            size=settings.image_size,
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
    training.shutdown(accelerator, SKIPPED if any(row["status"] != "ok" for row in all_rows) else 0)


def load(settings: Settings, accelerator: Accelerator) -> ImageAttacker:
    """The generator and the target, on this process's device. Raises InputError for an invalid combination."""
    spec = None if settings.target is None else parse_classifier(settings.target, settings.target_weights)
    allowed = [] if spec is None else [spec.name]
    generator = Generator.from_pretrained(settings.generator, guide=settings.guide, allowed_guides=allowed)
    size, guide, target = settings.image_size, generator.guide, None
    if size is not None and size < 1:
        raise InputError(f"image_size must be at least 1, got {size}")
    shape: ImageShape | None = None if size is None else (generator.channels, size, size)
    if guide is not None and shape is not None and tuple(guide.image_shape) != shape:
        raise InputError(f"the guide of this generator takes images {tuple(guide.image_shape)}, got image_size {size}")
    if spec is None and settings.target_weights is not None:
        raise InputError(f"target_weights need a target, got {settings.target_weights} alone")
    if spec is not None:
        shape = shape or (None if guide is None else guide.image_shape)
        target = load_target_model(spec, shape).to(accelerator.device).eval()
    y_target = generator.y_target if settings.y_target is None else class_of(settings.y_target, target)
    eps = generator.threat.eps if settings.eps is None else settings.eps
    return ImageAttacker(generator.to(accelerator.device), eps, y_target, settings.seed, target)


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
    print(f"manifest     {settings.output_dir / 'manifest.csv'}")
    for row in rejected[:10]:
        print(f"{row['status']:<13}{printable(row['input'])}: {printable(row['reason'])}", file=sys.stderr)
    if len(rejected) > 10:
        print(f"left out     {len(rejected) - 10} more: see the manifest", file=sys.stderr)


def success_text(rows: list[ManifestRow], attacker: ImageAttacker) -> str:
    """The number of successes among `rows`; images predicted as the target class before are not counted."""
    y_target = attacker.y_target
    finite = [row for row in rows if row["before_class"] is not None and row["after_class"] is not None]
    if y_target is None:
        hits = sum(row["after_class"] != row["before_class"] for row in finite)
        return f"{hits} of {len(rows)} images changed class"
    counted = [row for row in finite if row["before_class"] != y_target]
    hits = sum(row["after_class"] == y_target for row in counted)
    names = getattr(attacker.target, "classes", None)
    target_class = f"class {y_target} ({printable(names[y_target])})" if names else f"class {y_target}"
    before = f"; {len(finite) - len(counted)} were before, not counted" if len(counted) < len(finite) else ""
    return f"{hits} of {len(counted)} images became {target_class}{before}"
