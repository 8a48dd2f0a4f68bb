"""Make adversarial images of a file, a folder tree or a quoted glob, by a generator or any other attack.

    advgan attack photos attacked --generator RUN --eps 8/255 --target RUN/classifier
    advgan attack photo.jpg attacked --attack pgd --eps 8/255 --target FILE.py:FACTORY --resize 256 --y-target starfish
    torchrun --nproc-per-node 2 -m advgan attack "photos/**/*.jpg" attacked --generator hf://user/model --image-size 224

Photos of any size: --image-size and --resize describe the classifier's preprocessing (by default that of --target). The
attack is on its input; the perturbation is carried back to the photo so that it survives the preprocessing, within eps,
and nothing outside of the crop is changed. Without a size, photos are attacked as they are.

Adversarial images have the names and folders of the originals, as PNG: lossless, and rounded so that the bound holds
in 8 bits. manifest.csv has a line per image: norms, SHA-256 and, with --target, that classifier's
prediction before and after, as the written file is read through the preprocessing; a path that a spreadsheet would take
for a formula, like -1.png, is ./-1.png there. Images are rotated by their EXIF
data and keep their colour profile; transparency is dropped; colour becomes grey, or grey RGB, as the model requires.

The same command, with the same settings, resumes a killed one; a changed image is attacked again. Other files are
replaced with --force only. Exit codes: 0 all done; 2 bad input, nothing done; 1 the disk is full or fails; 3 some
images were left out, or failed because the attack's output is not finite or not in the ball: they are listed with
the reason on the terminal and in the manifest. (A launcher of several processes exits with 1 for each code but 0.)
Several processes share the images, with the same files as one.
"""

from dataclasses import replace

from accelerate import Accelerator
from accelerate.utils import gather_object

import advgan.training as training
from advgan.cli.attack_images.attacker import ImageAttacker
from advgan.cli.attack_images.figure import check_figure, write_figure
from advgan.cli.attack_images.find import InputImage, find_images
from advgan.cli.attack_images.loading import effective, load
from advgan.cli.attack_images.settings import Settings, check
from advgan.cli.attack_images.summary import aim, figure_title, folder_name, print_notes, print_summary
from advgan.cli.attack_images.work import ManifestRow, load_finished, process, skipped
from advgan.core.config import absolute_paths, load_recipe, settings_file, write_settings
from advgan.core.errors import InputError
from advgan.core.files import atomic_write
from advgan.report.escaping import csv_path, csv_text

SKIPPED = 3  # exit code where images were left out
IGNORED_ON_RESUME = {"force", "figure", "batch_size", "max_pixels", "threads"}  # settings that may change on a resume
PREDICTION_COLUMNS = ("before", "before_class", "before_confidence", "after", "after_class", "after_confidence")
COLUMNS = (
    *("input", "output", "status", "reason", "height", "width", "linf", "l2"),
    *(*PREDICTION_COLUMNS, "success", "input_class", "sha256"),
)


def main(settings: Settings) -> None:
    check(settings)
    candidates = find_images(str(settings.source), settings.output_dir)
    check_figure(settings.figure, candidates, settings.output_dir)
    accelerator = training.init_accelerator(settings.seed, settings.threads)
    attackers = load(settings, accelerator)
    if accelerator.is_main_process:
        print_notes(candidates, attackers[0])
    runs = {}
    for attacker in attackers:  # one a target class
        folder = settings.output_dir if len(attackers) == 1 else settings.output_dir / folder_name(attacker)
        one = effective(replace(settings, output_dir=folder), attacker)
        runs[folder] = attack_images(one, candidates, attacker, accelerator)
    if settings.figure is not None and accelerator.is_main_process:
        aims = [aim(attacker) for attacker in attackers]
        write_figure(settings.figure, candidates, runs, aims, figure_title(one))
    left_out = any(row["status"] != "ok" for rows in runs.values() for row in rows)
    training.shutdown(accelerator, SKIPPED if left_out else 0)


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
    with training.progress_bar(accelerator, unit="images") as bar:
        missing = sum(image.name not in rows for chunk in unfinished for image in chunk)
        task = bar.add_task("attacking", total=missing, metrics="")
        for of_batch in process(unfinished, attacker, settings, frozenset(rows)):
            rows |= {row["input"]: row for row in of_batch}
            bar.advance(task, len(of_batch))  # at once: the time left is right from the first batch on
    all_rows: list[ManifestRow] = gather_object(list(rows.values()))
    all_rows += [skipped(image, image.problem) for image in candidates if image.problem]
    all_rows.sort(key=lambda row: row["input"])
    n_earlier = sum(gather_object([n_earlier]))
    if accelerator.is_main_process:
        paths = [row | {name: csv_path(row.get(name)) for name in ("input", "output")} for row in all_rows]
        lines = [[row.get(column) for column in COLUMNS] for row in paths]
        atomic_write(settings.output_dir / "manifest.csv", csv_text(COLUMNS, lines))
        print_summary(settings, all_rows, n_earlier, attacker)
    return all_rows


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
