"""Turn pictures into adversarial ones: a file, a folder tree or a quoted glob, in one forward pass each.

    advgan attack photo.jpg attacked --generator RUN
    advgan attack photos attacked --generator RUN --eps 8/255 --target RUN/classifier --y-target 3
    torchrun --nproc-per-node 2 -m advgan attack "photos/**/*.jpg" attacked --generator hf://user/model --image-size 224

Answers keep their names and folders, as PNG: lossless, and rounded toward the original, so that the bound still holds
in 8 bits. manifest.csv has a line for each picture: norms, SHA-256 and, with --target, what that classifier takes it
for before and after. Pictures are turned upright as their EXIF data say; transparency is dropped; colour becomes grey,
or grey RGB, where the generator wants it so. A guided generator, and a target, take one size: --image-size resizes and
crops to it.

A call that was killed goes on with what is missing when it is made again, with the same settings; a picture that has
changed since is answered again. What else is there is never replaced without --force. Exit codes: 0 all done; 2 bad
input, nothing done; 1 the disk is full or fails; 3 some pictures were left out, or failed because the generator's
output is not finite or not in the ball: terminal and manifest name them, and why. (A launcher of several processes
exits with 1 for each code but 0.) Several processes share the pictures, and give the files that one would have given.
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
from advgan.cli.attack_images import Answers, already, class_of, find, work
from advgan.cli.attack_images.work import Row, left_out
from advgan.core.config import ByOrder, Real, absolute_paths, load_recipe, settings_file, write_settings
from advgan.core.errors import InputError
from advgan.core.files import atomic_write
from advgan.core.recipe import NameOrPath, PathOrAddress
from advgan.core.terminal import printable
from advgan.defenses import ClassifierSpec, load_classifier, parse_classifier
from advgan.models.generator import Generator
from advgan.report.escaping import csv_text, in_utf8

SKIPPED = 3  # the exit code where pictures were left out
FREE = {"force", "batch_size", "max_pixels", "threads"}  # what a call that goes on may change
SAID = ("before", "before_class", "before_confidence", "after", "after_class", "after_confidence")
HEADS = ("input", "output", "status", "reason", "height", "width", "linf", "l2", *SAID, "sha256")


@dataclass(frozen=True)
class Settings:
    """Which pictures, where the answers go, and who gives them."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="IN")]
    """A picture, a folder, or a glob in quotes like "photos/**/*.jpg"; links that lead out of it are left out"""
    output_dir: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """The folder for the answers and manifest.csv"""
    generator: PathOrAddress
    """A trained generator's folder, a run that holds one, or hf://USER/MODEL"""
    guide: NameOrPath | None = None
    """Name of the generator's guide, FILE.py:FACTORY, where it is from a Python file, which is run; None: any other"""
    recipe: Path | None = None
    """YAML file of settings, such as an earlier settings-attack.yaml; flags override it"""
    eps: Real | None = None
    """Radius of the ball; None takes the largest that the generator was trained for"""
    y_target: str | None = None
    """Aim at this class: a number, or a name where --target knows names; None takes the generator's own, if any"""
    target: NameOrPath | None = None
    """A classifier that says what it takes each picture for, before and after: whatever advgan compare takes"""
    target_weights: Path | None = None
    """Its weights, where it has none of its own"""
    weights_by_order: ByOrder = False
    image_size: int | None = None
    """Resize and crop each picture to a square of so many pixels a side first"""
    force: bool = False
    """Begin anew and replace what is there"""
    batch_size: int = 64
    """Pictures that go through the network together, where they are of one size"""
    seed: int = 0
    """Of a generator that draws noise: each picture's depends on it and on the picture's name"""
    max_pixels: int = 16_000_000
    """Largest picture that goes through the network, in pixels; larger ones are left out. Peak memory at the default
    size of generator and limit: about 2 GiB"""
    threads: int | None = None
    """CPU threads of each process, for the network and for decoding; None shares the cores among the processes"""


def main(settings: Settings) -> None:
    if settings.batch_size < 1:
        raise InputError(f"batch_size must be at least 1, got {settings.batch_size}")
    if settings.max_pixels < 1 or (settings.image_size or 0) ** 2 > settings.max_pixels:
        raise InputError(
            f"max_pixels must be at least 1 and the square of image_size, got {settings.max_pixels} and "
            f"image_size {settings.image_size}"
        )
    if settings.output_dir.is_file() or settings.output_dir.suffix.lower() in (".png", ".jpg", ".jpeg"):
        raise InputError(f"OUT is a folder, expected one for the answers, got {settings.output_dir}")
    found = find(str(settings.source), settings.output_dir)
    pictures = [picture for picture in found if not picture.problem]
    accelerator = training.start(settings.seed, settings.threads)
    answers = load(settings, accelerator)
    aim = None if answers.y_target is None else str(answers.y_target)
    settings = replace(settings, eps=answers.eps, y_target=aim)  # what they come to
    training.claim(settings.output_dir, "manifest.csv", resume=False, overwrite=True)
    agree(settings)
    chunks = [pictures[i : i + settings.batch_size] for i in range(0, len(pictures), settings.batch_size)]
    mine = chunks[accelerator.process_index :: accelerator.num_processes]
    rows = {} if settings.force else already([p for chunk in mine for p in chunk], answers, settings.output_dir)
    known = len(rows)
    accelerator.wait_for_everyone()  # all have looked before one writes
    if accelerator.is_main_process:
        write_settings(settings, settings.output_dir)
    todo = [chunk for chunk in mine if any(picture.name not in rows for picture in chunk)]
    with training.progress_bar(accelerator) as bar:
        missing = sum(picture.name not in rows for chunk in todo for picture in chunk)
        task = bar.add_task("attacking", total=missing, figures="")
        work_rows = work(
            todo,
            answers,
            settings.output_dir,
            done=frozenset(rows),
            size=settings.image_size,
            workers=max(1, torch.get_num_threads()),
            max_pixels=settings.max_pixels,
        )
        for row in work_rows:
            rows[row["input"]] = row
            bar.advance(task)
    everyone: list[Row] = gather_object(list(rows.values()))
    everyone += [left_out(picture, picture.problem) for picture in found if picture.problem]
    everyone.sort(key=lambda row: row["input"])
    known = sum(gather_object([known]))
    if accelerator.is_main_process:
        lines = [[row.get(head) for head in HEADS] for row in everyone]
        atomic_write(settings.output_dir / "manifest.csv", in_utf8(csv_text(HEADS, lines)))
        tell(settings, everyone, known, answers)
    training.finish(accelerator, SKIPPED if any(row["status"] != "ok" for row in everyone) else 0)


def load(settings: Settings, accelerator: Accelerator) -> Answers:
    """The generator and the target, on this process's device. Raises InputError for what does not fit together."""
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
        target = onlooker(spec, shape).to(accelerator.device).eval()
    y_target = generator.y_target if settings.y_target is None else class_of(settings.y_target, target)
    eps = generator.threat.eps if settings.eps is None else settings.eps
    return Answers(generator.to(accelerator.device), eps, y_target, settings.seed, target)


def onlooker(spec: ClassifierSpec, shape: ImageShape | None) -> nn.Module:
    """The target, for images of `shape` (None: of its own). Raises InputError for one that cannot be asked."""
    model = load_classifier(spec, image_shape=shape)
    if model.image_shape is None:
        raise InputError(f"the target {spec.name} does not say which images it takes: say --image-size")
    if isinstance(model, BlackBox):
        return model  # each of its answers is checked, and each question may cost
    sample = torch.rand(2, *model.image_shape, generator=torch.Generator().manual_seed(0))
    return check_target(model, sample, model.num_classes)


def agree(settings: Settings) -> None:
    """Raise InputError where the output folder holds the answers of a call with other settings."""
    path, manifest = settings_file(settings, settings.output_dir), settings.output_dir / "manifest.csv"
    for own in (path, manifest):
        if own.is_dir():
            raise InputError(f"{own} is a folder, expected the place of this command's own file: choose another OUT")
    if settings.force or not path.is_file():
        if manifest.exists() and not settings.force:
            raise InputError(f"{manifest} is there, and this command did not write it: --force replaces it")
        return
    before, now = (absolute_paths(each) for each in (load_recipe(Settings, path), settings))
    if changed := training.changes(before, now, FREE):
        raise InputError(f"{settings.output_dir} holds answers of other settings ({changed}): --force replaces them")


def tell(settings: Settings, rows: list[Row], known: int, answers: Answers) -> None:
    """The summary on the terminal, and on stderr what was left out."""
    good, bad = ([row for row in rows if (row["status"] == "ok") is wanted] for wanted in (True, False))
    there = f", {known} of them by an earlier call" if known else ""
    print(f"attacked     {len(good)} of {len(rows)} pictures{there}: {settings.output_dir}")
    if answers.target is not None and good:
        print(f"fooled       {fooled(good, answers)}")
    print(f"manifest     {settings.output_dir / 'manifest.csv'}")
    for row in bad[:10]:
        print(f"{row['status']:<13}{printable(row['input'])}: {printable(row['reason'])}", file=sys.stderr)
    if len(bad) > 10:
        print(f"left out     {len(bad) - 10} more: see the manifest", file=sys.stderr)


def fooled(rows: list[Row], answers: Answers) -> str:
    """How many adversarial images of `rows` fool the target; those in the target class before are not counted."""
    aim = answers.y_target
    finite = [row for row in rows if row["before_class"] is not None and row["after_class"] is not None]
    if aim is None:
        hits = sum(row["after_class"] != row["before_class"] for row in finite)
        return f"{hits} of {len(rows)} are taken for another class than before"
    counted = [row for row in finite if row["before_class"] != aim]
    hits = sum(row["after_class"] == aim for row in counted)
    names = getattr(answers.target, "classes", None)
    aimed_at = f"class {aim} ({printable(names[aim])})" if names else f"class {aim}"
    already_there = f"; {len(finite) - len(counted)} were before, not counted" if len(counted) < len(finite) else ""
    return f"{hits} of {len(counted)} are taken for {aimed_at}{already_there}"
