"""Speed of the attacks, compared with those of other libraries; of a generator, compared with attacks; and more.

python benchmarks/speed.py --dataset mnist --target mnist-c --target-weights RUN --generator RUN
python benchmarks/speed.py --sections ifgsm pgd --peers foolbox --rounds 5
python benchmarks/speed.py --sections large --threads 2       one pass against PGD-10 on a ResNet-50, 224 x 224
python benchmarks/speed.py --sections compile processes import          training steps, and `import advgan`
python benchmarks/speed.py --sections generator --peers torchattacks --target-weights RUN --generator RUN

The implementations of a section run in turn, with the same images, target and threads, for some rounds. A ratio of
times is taken within each round: a change of the machine's speed affects both alike. Each attack is timed at every
batch size, and compared at the one that suits it best. Success and norms are listed too, since a faster attack may be a
weaker one. A library that is not installed is listed as skipped.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# A program run by its path has its own folder first on the path; the library is above it.
sys.path.insert(0, str(ROOT))

from advgan.core.fraction import eps_text
from advgan.core.shutdown import exit_on_signals

if __name__ == "__main__":
    exit_on_signals()  # also while the rest is imported

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from rich.console import Console

import advgan.bridges  # noqa: F401 - registers the names of other libraries' attacks
import advgan.training as training
from advgan.classifiers import fingerprint
from advgan.core.config import Real, run, write_settings
from advgan.core.errors import InputError
from advgan.core.files import atomic_write
from advgan.core.shipped import CLASSIFIERS
from advgan.core.threat_model import Threat, check_class
from advgan.data.flags import DataSettings, load_chosen
from advgan.defenses import load_classifier, parse_classifier
from advgan.defenses.flags import TargetSettings
from advgan.evaluation import environment, predict
from advgan.evaluation.compatibility import prepare_model_and_data
from advgan.evaluation.metrics import clean_records
from advgan.models.generator import Generator
from advgan.report.progress import result_progress
from benchmarks.libraries import LIBRARIES
from benchmarks.sections.attacks import against_libraries, one_pass
from benchmarks.sections.exported import exported
from benchmarks.sections.imports import imports
from benchmarks.sections.large import large
from benchmarks.sections.overhead import overhead
from benchmarks.sections.training_steps import compile_models, processes
from benchmarks.tables import NOTE, markdown, table
from benchmarks.timing import BenchmarkRow, BenchmarkSetup

# Sections of the target, its images and the generator: the default.
SECTIONS = {
    "fgsm": "FGSM",
    "ifgsm": "I-FGSM, 10 steps of eps/10",
    "pgd": "PGD, 40 steps of eps/30 from a random start",
    "deepfool": "DeepFool, l2",
    "overhead": "Overhead of the evaluation, beyond one verifying forward pass",
    "generator": "One pass of the generator",
}
# Sections with networks of their own, and of the export: title and function.
SELF_CONTAINED: dict[str, tuple[str, Callable[[BenchmarkSetup, Generator | None], list[BenchmarkRow]]]] = {
    "onnx": ("The exported generator in onnxruntime and in PyTorch", exported),
    "large": ("One pass at 224 x 224 against ten steps on a ResNet-50, random weights", large),
    "compile": ("Training steps of train/advgan.py with and without --compile", compile_models),
    "processes": ("Training steps of train/advgan.py by two processes and by one", processes),
    "import": ("Importing the library, in fresh processes", imports),
}
SEED = 0


@dataclass(frozen=True)
class Settings(TargetSettings, DataSettings):
    """Sections, target, images and limits."""

    generator: Path | None = None
    """Folder of a generator, or its run, for section generator, whose attacks all have its ball and target class"""
    sections: tuple[str, ...] = ()
    """What is timed: fgsm ifgsm pgd deepfool overhead generator ((): these), or onnx large compile processes import"""
    peers: tuple[str, ...] = ()
    """Libraries to compare with: some of foolbox torchattacks art adv-lib, or none; (): all of them"""
    eps: Real = 0.3
    """Radius of the linf ball, like 0.3 or 8/255"""
    images: int = 500
    """Number of test images"""
    batch_sizes: tuple[int, ...] = (100, 500)
    """Batch sizes; each attack is compared at its better one"""
    rounds: int = 10
    """Number of timed rounds"""
    budget: float = 600.0
    """Time for a section in seconds; each implementation is timed at least once"""
    threads: int | None = None
    """CPU threads (OMP_NUM_THREADS has no effect); None: all cores"""
    output_dir: Path | None = None
    """Directory of speed.json and speed.md; None: no files"""


def main(settings: Settings) -> None:
    check(settings)
    spec = parse_classifier(settings.target, settings.target_weights, default=CLASSIFIERS)
    threat, sections = (
        Threat("linf", settings.eps),
        select_names("section", settings.sections, SECTIONS, SELF_CONTAINED),
    )
    peers = [] if settings.peers == ("none",) else select_names("peer", settings.peers, LIBRARIES)
    need_generator = [name for name in sections if name in ("generator", "onnx")]
    if settings.sections and need_generator and settings.generator is None:
        raise InputError(f"section {need_generator[0]} times a trained generator, expected --generator DIR, got none")
    generator = (
        None
        if settings.generator is None
        else Generator.from_pretrained(settings.generator, allowed_guides=[spec.name])
    )
    device = training.init_accelerator(SEED, settings.threads, one_process=True).device
    data = load_chosen(settings, ("test",))
    shape, classes = data.image_shape, data.all_classes
    target, data = prepare_model_and_data(load_classifier(spec, image_shape=shape, num_classes=classes), data)
    x, y = next(data.test.first(settings.images).batches(settings.images))
    model = target.to(device).eval().requires_grad_(False)
    sizes = sorted({min(size, len(x)) for size in settings.batch_sizes})
    x, y, logits = x.to(device), y.to(device), predict(model, x)
    setup = BenchmarkSetup(model, x, y, logits, sizes, settings.rounds, settings.budget)
    check_images_left(setup, None)
    if generator is not None:
        check_class(generator.y_target, data.num_classes)
        check_images_left(setup, generator.y_target)
        generator.to(device).perturb(setup.x[:1])  # fail early on incompatible images
    if settings.output_dir is not None:
        training.prepare_output_dir(settings.output_dir, "benchmark", resume=False, overwrite=True)
        write_settings(settings, settings.output_dir)

    rows: list[BenchmarkRow] = []
    with result_progress(len(sections)) as start_section:
        for section in sections:
            section_setup = replace(setup, advance=partial(start_section(section, None), 1))
            if section in SELF_CONTAINED:
                section_rows = SELF_CONTAINED[section][1](section_setup, generator)
            elif section == "overhead":
                section_rows = overhead(section_setup, threat)
            elif section == "generator":
                section_rows = one_pass(section_setup, generator, peers)
            else:
                section_rows = against_libraries(section, section_setup, threat, peers)
            rows += [
                {"section": section, "threat": threat_text(section, threat, generator), **row} for row in section_rows
            ]
            if settings.output_dir is not None:  # a killed benchmark keeps its results so far
                atomic_write(settings.output_dir / "speed.json", json.dumps({"rows": rows}, indent=2) + "\n")

    description = {
        **{"name": spec.name, "weights": str(spec.weights or "its own"), "defense": spec.defense},
        **{"sha256": fingerprint(model), "dataset": settings.dataset},
    }
    show(
        {"environment": environment(settings), "target": description, "images": len(x), "rows": rows},
        settings.output_dir,
    )


def check(settings: Settings) -> None:
    """Raise InputError for invalid settings, before any work."""
    if min(settings.images, settings.rounds) < 1 or not settings.budget > 0:
        got = f"{settings.images}, {settings.rounds} and {settings.budget:g}"
        raise InputError(f"images and rounds must be at least 1 and budget positive, got {got}")
    if min(settings.batch_sizes, default=0) < 1:
        raise InputError(f"batch_sizes must be one number or more, each at least 1, got {settings.batch_sizes}")


def select_names(
    kind: str, requested: tuple[str, ...], defaults: Collection[str], extra: Collection[str] = ()
) -> list[str]:
    """The requested names, with spaces or commas between, or the `defaults`. Raises InputError for unknown ones."""
    names = list(dict.fromkeys(" ".join(requested).replace(",", " ").split()))
    if unknown := [name for name in names if name not in (*defaults, *extra)]:
        raise InputError(f"unknown {kind} {unknown[0]!r}, expected some of {', '.join([*defaults, *extra])}")
    return names or list(defaults)


def check_images_left(setup: BenchmarkSetup, y_target: int | None) -> None:
    """Raise InputError unless the target classifies an image correctly that is not of class `y_target` already."""
    if not clean_records(setup.logits, setup.y.cpu(), y_target)["counts"].any():
        other = "" if y_target is None else f" that are not of class {y_target}"
        raise InputError(f"nothing to attack: the target classifies none of {len(setup.x)} images correctly{other}")


def threat_text(section: str, threat: Threat, generator: Generator | None) -> str:
    """The threat model of a section, as text."""
    if section in SELF_CONTAINED:
        return ""
    if section == "deepfool":
        return "any distance"
    if section != "generator" or generator is None:
        return f"{threat.norm} eps {eps_text(threat.eps)}"
    toward = "" if generator.y_target is None else f" toward class {generator.y_target}"
    return f"{generator.threat.norm} eps {eps_text(generator.threat.eps)}{toward}"


def show(results: dict[str, Any], output_dir: Path | None) -> None:
    """Print a table per section, and write them with all times to `output_dir`."""
    target, env = results["target"]["name"], results["environment"]
    context = f"{target}, {results['images']} images, {env['gpu'] or env['cpu']}, {env['threads']} threads"
    console = Console() if sys.stdout.isatty() else Console(width=160)
    text = [f"# Speed: {context}", ""]
    for section in dict.fromkeys(row["section"] for row in results["rows"]):
        rows = [row for row in results["rows"] if row["section"] == section]
        if section in SELF_CONTAINED:
            title, subject = SELF_CONTAINED[section][0], f"{env['gpu'] or env['cpu']}, {env['threads']} threads"
        else:
            title, subject = f"{SECTIONS[section]}: {rows[0]['threat']}", context
        console.print(table(f"{title}, {subject}", rows))
        text.append(markdown(title, rows))
    console.print(NOTE, style="dim")
    if output_dir is not None:
        atomic_write(output_dir / "speed.md", "\n".join([*text, NOTE, ""]))
        atomic_write(output_dir / "speed.json", json.dumps(results, indent=2, allow_nan=False) + "\n")
        print(f"report  {output_dir / 'speed.md'}")


if __name__ == "__main__":
    run(main, Settings)
