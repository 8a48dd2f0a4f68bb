"""How fast are the attacks? Ours against those of other libraries, the generator against ours and theirs, and more.

python benchmarks/speed.py --dataset mnist --target mnist-c --target-weights RUN --generator RUN
python benchmarks/speed.py --sections ifgsm pgd --peers foolbox --rounds 5
python benchmarks/speed.py --sections large --threads 2       one pass against PGD-10 on a ResNet-50, 224 x 224
python benchmarks/speed.py --sections compile processes import          training steps, and `import advgan`
python benchmarks/speed.py --sections generator --peers torchattacks --dataset folder --data-dir CIFAR10 \
    --target cifar-resnet32 --target-weights FILE --generator RUN --batch-sizes 100 500

All sides of a section do the same work with the same threads, in turn, round after round: a ratio is taken within its
round, so that a machine whose speed drifts changes both sides alike. Attacks are given the same images of the same
target in batches of each size, and compared at the one that each does better with. Success and norms stand beside the
time, so that a faster but weaker attack shows. A library that is not installed is left out, and said to be.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# A program run by its path has its own folder first on the path; the library is above it.
sys.path.insert(0, str(ROOT))

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
from advgan.core.shipped import CLASSIFIER
from advgan.core.threat_model import Threat, check_class, eps_text
from advgan.data.flags import DataSettings, load_chosen
from advgan.defenses import load_classifier, parse_classifier
from advgan.defenses.flags import TargetSettings
from advgan.evaluation import environment, predict
from advgan.evaluation.compatibility import prepare_model_and_data
from advgan.evaluation.metrics import clean_records
from advgan.models.generator import Generator
from advgan.report.progress import cell_progress
from benchmarks.libraries import PEERS
from benchmarks.race import Bench, Row
from benchmarks.sections.attacks import against_peers, one_pass
from benchmarks.sections.exported import exported
from benchmarks.sections.imports import imports
from benchmarks.sections.large import large
from benchmarks.sections.overhead import overhead
from benchmarks.sections.training_steps import compile_models, processes
from benchmarks.tables import NOTE, markdown, table

# Of the target, its images and the generator; all of them, if none is asked for.
SECTIONS = {
    "fgsm": "FGSM",
    "ifgsm": "I-FGSM, 10 steps of eps/10",
    "pgd": "PGD, 40 steps of eps/30 from a random start",
    "deepfool": "DeepFool, l2",
    "overhead": "What the harness adds to an attack, beyond one forward pass that verifies",
    "generator": "One pass of the generator",
}
# Of networks of their own, and the generator's export: title, and what times them.
APART: dict[str, tuple[str, Callable[[Bench, Generator | None], list[Row]]]] = {
    "onnx": ("The exported generator in onnxruntime and in PyTorch", exported),
    "large": ("One pass at 224 x 224 against ten steps on a ResNet-50, random weights", large),
    "compile": ("Training steps of train/advgan.py with and without --compile", compile_models),
    "processes": ("Training steps of train/advgan.py by two processes and by one", processes),
    "import": ("Importing the library, in fresh processes", imports),
}
SEED = 0


@dataclass(frozen=True)
class Settings(TargetSettings, DataSettings):
    """What is timed, on which images."""

    generator: Path | None = None
    """A generator's folder, or the run that holds it, for the section of that name: there all have its ball and aim"""
    sections: tuple[str, ...] = ()
    """Some of fgsm ifgsm pgd deepfool overhead generator, which () is all of; or of onnx large compile processes
    import, which are asked for by name"""
    peers: tuple[str, ...] = ()
    """Some of foolbox torchattacks art adv-lib, or none; () is all of them"""
    eps: Real = 0.3
    """Radius of the linf ball, like 0.3 or 8/255"""
    images: int = 500
    """Test images that each side attacks in each round"""
    batch_sizes: tuple[int, ...] = (100, 500)
    """Images an attack is given at once; each side is compared at its better one"""
    rounds: int = 10
    """Times each side is timed, in turn with the others"""
    budget: float = 600.0
    """Seconds for a section, shared among its sides: one that has used up its part is timed no more, but once it is"""
    threads: int | None = None
    """CPU threads; None takes all cores"""
    output_dir: Path | None = None
    """Where speed.json and speed.md go; None writes none"""


def main(settings: Settings) -> None:
    check(settings)
    spec = parse_classifier(settings.target, settings.target_weights, default=CLASSIFIER)
    threat, sections = Threat("linf", settings.eps), chosen("section", settings.sections, SECTIONS, APART)
    peers = [] if settings.peers == ("none",) else chosen("peer", settings.peers, PEERS)
    needy = [name for name in sections if name in ("generator", "onnx")]
    if settings.sections and needy and settings.generator is None:
        raise InputError(f"section {needy[0]} times a trained generator, expected --generator DIR, got none")
    generator = (
        None
        if settings.generator is None
        else Generator.from_pretrained(settings.generator, allowed_guides=[spec.name])
    )
    device = training.init_single_process(SEED, settings.threads)
    data = load_chosen(settings)
    shape, classes = data.image_shape, data.num_classes
    target, data = prepare_model_and_data(load_classifier(spec, image_shape=shape, num_classes=classes), data)
    x, y = next(data.test.first(settings.images).batches(settings.images))
    model = target.to(device).eval().requires_grad_(False)
    sizes = sorted({min(size, len(x)) for size in settings.batch_sizes})
    x, y, logits = x.to(device), y.to(device), predict(model, x)
    bench = Bench(model, x, y, logits, sizes, settings.rounds, settings.budget)
    check_images_left(bench, None)
    if generator is not None:
        check_class(generator.y_target, data.num_classes)
        check_images_left(bench, generator.y_target)
        generator.to(device).perturb(bench.x[:1])  # what it cannot take, it says now
    if settings.output_dir is not None:
        training.prepare_output_dir(settings.output_dir, "benchmark", resume=False, overwrite=True)
        write_settings(settings, settings.output_dir)

    rows: list[Row] = []
    with cell_progress(len(sections)) as begin:
        for section in sections:
            watched = replace(bench, advance=partial(begin(section, None), 1))
            if section in APART:
                found = APART[section][1](watched, generator)
            elif section == "overhead":
                found = overhead(watched, threat)
            elif section == "generator":
                found = one_pass(watched, generator, peers)
            else:
                found = against_peers(section, watched, threat, peers)
            rows += [{"section": section, "threat": ball(section, threat, generator), **row} for row in found]
            if settings.output_dir is not None:  # a benchmark that is killed keeps what it has
                atomic_write(settings.output_dir / "speed.json", json.dumps({"rows": rows}, indent=2) + "\n")

    about = {
        **{"name": spec.name, "weights": str(spec.weights or "its own"), "defense": spec.defense},
        **{"sha256": fingerprint(model), "dataset": settings.dataset},
    }
    show({"environment": environment(settings), "target": about, "images": len(x), "rows": rows}, settings.output_dir)


def check(settings: Settings) -> None:
    """Raise InputError for settings that cannot be, before any work."""
    if min(settings.images, settings.rounds) < 1 or not settings.budget > 0:
        got = f"{settings.images}, {settings.rounds} and {settings.budget:g}"
        raise InputError(f"images and rounds must be at least 1 and budget positive, got {got}")
    if min(settings.batch_sizes, default=0) < 1:
        raise InputError(f"batch_sizes must be one number or more, each at least 1, got {settings.batch_sizes}")


def chosen(kind: str, asked: tuple[str, ...], known: Collection[str], more: Collection[str] = ()) -> list[str]:
    """The names asked for, with spaces or commas between, or all that are `known`. Raises InputError for others."""
    names = list(dict.fromkeys(" ".join(asked).replace(",", " ").split()))
    if unknown := [name for name in names if name not in (*known, *more)]:
        raise InputError(f"unknown {kind} {unknown[0]!r}, expected some of {', '.join([*known, *more])}")
    return names or list(known)


def check_images_left(bench: Bench, y_target: int | None) -> None:
    """Raise InputError unless the target classifies an image correctly that is not of class `y_target` already."""
    if not clean_records(bench.logits, bench.y.cpu(), y_target)["counts"].any():
        other = "" if y_target is None else f" that are not of class {y_target}"
        raise InputError(f"nothing to attack: the target classifies none of {len(bench.x)} images correctly{other}")


def ball(section: str, threat: Threat, generator: Generator | None) -> str:
    """What a section's attacks had to keep to, in words."""
    if section in APART:
        return ""
    if section == "deepfool":
        return "any distance"
    if section != "generator" or generator is None:
        return f"{threat.norm} eps {eps_text(threat.eps)}"
    aim = "" if generator.y_target is None else f" toward class {generator.y_target}"
    return f"{generator.threat.norm} eps {eps_text(generator.threat.eps)}{aim}"


def show(results: dict[str, Any], output_dir: Path | None) -> None:
    """Print a table per section, and write them with all times to `output_dir`."""
    target, env = results["target"]["name"], results["environment"]
    on = f"{target}, {results['images']} images, {env['gpu'] or env['cpu']}, {env['threads']} threads"
    console = Console() if sys.stdout.isatty() else Console(width=160)
    text = [f"# Speed: {on}", ""]
    for section in dict.fromkeys(row["section"] for row in results["rows"]):
        rows = [row for row in results["rows"] if row["section"] == section]
        if section in APART:
            title, whose = APART[section][0], f"{env['gpu'] or env['cpu']}, {env['threads']} threads"
        else:
            title, whose = f"{SECTIONS[section]}: {rows[0]['threat']}", on
        console.print(table(f"{title}, {whose}", rows))
        text.append(markdown(title, rows))
    console.print(NOTE, style="dim")
    if output_dir is not None:
        atomic_write(output_dir / "speed.md", "\n".join([*text, NOTE, ""]))
        atomic_write(output_dir / "speed.json", json.dumps(results, indent=2, allow_nan=False) + "\n")
        print(f"report  {output_dir / 'speed.md'}")


if __name__ == "__main__":
    run(main, Settings)
