"""What the command prints, and the names of its attacks in figures and folders."""

import re
import sys
from contextlib import suppress
from pathlib import Path

from advgan.cli.attack_images.attacker import ImageAttacker
from advgan.cli.attack_images.find import InputImage
from advgan.cli.attack_images.settings import Settings
from advgan.cli.attack_images.work import ManifestRow
from advgan.core.errors import note
from advgan.core.fraction import eps_text
from advgan.core.terminal import printable
from advgan.data.image_file import image_dimensions
from advgan.evaluation.metrics import changed_class


def print_notes(candidates: list[InputImage], attacker: ImageAttacker) -> None:
    """Print what makes success lower than it could be."""
    if attacker.generator is not None and attacker.generator.labels and attacker.target is None:
        note("labels are an input of this generator, and unknown without --target: the success rate is lower")
    if attacker.model_input is None and resized_by_any([image.path for image in candidates if not image.problem]):
        note(
            "photos are attacked at their own size, and a classifier that resizes them loses much of the perturbation; "
            "pass --target, or its preprocessing: --image-size and --resize"
        )


def resized_by_any(paths: list[Path]) -> bool:
    """Whether a classifier of square images of one size has to resize some of these, by the headers of the first 64."""
    sizes = set()
    for path in paths[:64]:
        with suppress(OSError):
            sizes.add(image_dimensions(path))
    return len(sizes) > 1 or any(width != height for width, height in sizes)


def print_summary(settings: Settings, rows: list[ManifestRow], n_earlier: int, attacker: ImageAttacker) -> None:
    """Print the summary, and on stderr the images that were left out or failed."""
    succeeded, rejected = ([row for row in rows if (row["status"] == "ok") is ok] for ok in (True, False))
    earlier = f", {n_earlier} of them by an earlier call" if n_earlier else ""
    print(f"attacked     {len(succeeded)} of {len(rows)} images{earlier}: {settings.output_dir}")
    if attacker.target is not None and succeeded:
        print(f"success      {success_text(succeeded, attacker)}")
    if carried := [row for row in succeeded if "input_class" in row]:
        print(f"             files read as {attacker.model_input}; {carried_text(carried, attacker)}")
    print(f"manifest     {settings.output_dir / 'manifest.csv'}")
    for row in rejected[:10]:
        print(f"{row['status']:<13}{printable(row['input'])}: {printable(row['reason'])}", file=sys.stderr)
    if len(rejected) > 10:
        print(f"left out     {len(rejected) - 10} more: see the manifest", file=sys.stderr)


def success_text(rows: list[ManifestRow], attacker: ImageAttacker) -> str:
    """The number of successes among `rows`; images predicted as the target class before are not counted."""
    hits, y_target = sum(bool(row["success"]) for row in rows), attacker.y_target
    if y_target is None:
        return f"{hits} of {len(rows)} images changed class"
    finite = [row for row in rows if row["before_class"] is not None and row["after_class"] is not None]
    counted = [row for row in finite if row["before_class"] != y_target]
    before = f"; {len(finite) - len(counted)} were before, not counted" if len(counted) < len(finite) else ""
    name = f" ({printable(attacker.y_target_name)})" if attacker.y_target_name else ""
    return f"{hits} of {len(counted)} images became class {y_target}{name}{before}"


def carried_text(rows: list[ManifestRow], attacker: ImageAttacker) -> str:
    """The number of successes among `rows` of the attacked inputs, before the perturbations went to the photos."""
    counted = [row for row in rows if attacker.y_target is None or row["before_class"] != attacker.y_target]
    hits = sum(bool(changed_class(row["before_class"], row["input_class"], attacker.y_target)) for row in counted)
    return f"of the inputs themselves, before their perturbations were carried to the photos: {hits} of {len(counted)}"


def aim(attacker: ImageAttacker) -> str:
    """The aim of an attack, for figures: "toward starfish"."""
    if attacker.y_target is None:
        return "untargeted"
    name = attacker.y_target_name
    return f"toward {name.split(',')[0]}" if name else f"toward class {attacker.y_target}"


def folder_name(attacker: ImageAttacker) -> str:
    """Of the outputs for one of several target classes: "327-starfish"."""
    name = (attacker.y_target_name or "").split(",")[0]
    return re.sub(r"[^\w]+", "-", f"{attacker.y_target}-{name}").strip("-")[:80]


def figure_title(settings: Settings) -> str:
    ball = "" if settings.eps is None else f", {settings.norm} eps {eps_text(settings.eps)}"
    return f"{settings.attack}{ball}"
