"""How good is the generator? Random noise, the classic attacks and AdvGAN on the same test images of the same target.

python eval/compare.py --target-weights checkpoints/runs/demo --generator checkpoints/runs/demo
python eval/compare.py --dataset mnist --target mnist-c --target-weights RUN --attacks fgsm ifgsm --eps 0.2

Every answer is certified (advgan/evaluation): an attack that leaves the ball, or crashes, has no figures.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# A program run by its path has its own folder first on the path; the library is above it.
sys.path.insert(0, str(ROOT))

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import nn

from advgan import training
from advgan.attacks import ATTACKS, Bound, bind
from advgan.data import load_data
from advgan.errors import InputError
from advgan.evaluation import environment, evaluate, predict
from advgan.generator import Generator
from advgan.report.files import write_results
from advgan.report.gallery import gallery
from advgan.report.table import terminal
from advgan.report.tensorboard import command as tensorboard_command
from advgan.settings import Real, run
from advgan.targets import check_target, fingerprint, load_target
from advgan.threat import Norm, Threat, check_class

KNOWN = (*ATTACKS, "advgan")
SHOWN = 16  # images in a gallery


@dataclass(frozen=True)
class Settings:
    """What is compared, on which images, and where the results go."""

    recipe: Path | None = None
    """YAML file of settings that become the defaults; flags override it"""
    dataset: str = "mnist5k"
    """mnist5k (embedded), mnist, fashion-mnist, cifar10, or folder (class folders train/ [val/] test/)"""
    data_dir: Path = Path("data")
    """Where the data set lies, or is downloaded to"""
    image_size: int | None = None
    """Resize and crop the images of a folder to this many pixels a side"""
    target: str = "mnist-c"
    """The classifier under attack"""
    target_weights: Path = ROOT / "checkpoints/mnist5k-classifier"
    """Its weights: a run of train/classifier.py, or a .safetensors file"""
    generator: Path | None = None
    """A trained generator's folder, or the run that holds it; None leaves advgan out"""
    attacks: tuple[str, ...] = ()
    """Names, with spaces or commas between: noise-uniform noise-sign fgsm ifgsm ifgsm-projected deepfool deepfool-linf
    advgan; by default all but deepfool-linf"""
    eps: Real | None = None
    """Radius of the ball, like 0.3 or 8/255; None takes the generator's, 0.3 without one"""
    norm: Norm | None = None
    """Norm of the ball; None takes the generator's, linf without one"""
    y_target: int | None = None
    """Aim at this class, whose own images are left out; None takes the generator's, if it has one"""
    max_samples: int | None = None
    """Attack only the first so many test images"""
    output_dir: Path = Path("checkpoints/runs/compare")
    """Where results.json, report.md, galleries/, records/ and logs/compare/ go; earlier ones are replaced"""
    batch_size: int = 100
    """Images an attack is given at once"""
    seed: int = 0
    """Of the random attacks"""
    threads: int | None = None
    """CPU threads; None takes all cores"""


def main(settings: Settings) -> None:
    if settings.batch_size < 1:
        raise InputError(f"batch_size must be at least 1, got {settings.batch_size}")
    generator = None if settings.generator is None else Generator.from_pretrained(settings.generator)
    threat, y_target = threat_model(settings, generator)
    names = chosen(settings.attacks, generator, threat)
    device = training.start(settings.seed, settings.threads).device
    data = load_data(settings.dataset, settings.data_dir, image_size=settings.image_size)
    test = data.test if settings.max_samples is None else data.test.first(settings.max_samples)
    x, y = next(test.batches(len(test)))
    check_class(y_target, data.num_classes)
    target = load_target(
        settings.target, settings.target_weights, image_shape=data.image_shape, num_classes=data.num_classes
    )
    model = check_target(target, x[:8], data.num_classes).to(device).eval()
    attacks: dict[str, Bound] = {}
    for name in names:
        if name == "advgan" and generator is not None:
            attacks[name] = one_pass(generator.to(device), threat, y_target)
            attacks[name](x[:1], y[:1])  # what it cannot take, it says now
        else:
            rng = torch.Generator().manual_seed(settings.seed)
            attacks[name] = bind(name, model, threat, y_target, rng)
    training.claim(settings.output_dir, "comparison", resume=False, overwrite=True)

    clean, rows, pictures, records = predict(model, x), [], {}, {}
    with progress_bar() as bar:
        for name, attack in attacks.items():
            task, known = bar.add_task(name, total=len(x)), ATTACKS.get(name)
            result = evaluate(
                attack,
                model,
                x,
                y,
                threat,
                name=name,
                protocol=known.protocol if known else "bounded",
                attack_norm=known.norm if known else None,
                y_target=y_target,
                batch_size=settings.batch_size,
                clean_logits=clean,
                keep=SHOWN,
                progress=partial(bar.advance, task),
            )
            rows.append(result.row)
            if result.records:
                records[name] = result.records
            if n := len(result.x_adv):
                answers = predict(model, result.x_adv)
                title = f"{name}, {threat.norm} eps {threat.eps:.4g}: ASR {result.row['asr']:.1%}"
                pictures[name] = gallery(x[:n], result.x_adv, y[:n], clean[:n], answers, data.classes, title=title)

    taking_part = generator if "advgan" in attacks else None
    results = {"environment": environment(settings), **about(settings, model, taking_part), "rows": rows}
    write_results(settings.output_dir, results, pictures, records)
    console = Console() if sys.stdout.isatty() else Console(width=120)
    console.print(terminal(rows, console.width))
    print(f"results      {settings.output_dir / 'results.json'}")
    print(f"report       {settings.output_dir / 'report.md'}")
    print(f"records      {settings.output_dir / 'records'}")
    print(f"look at it   {tensorboard_command(settings.output_dir / 'logs')}")


def threat_model(settings: Settings, generator: Generator | None) -> tuple[Threat, int | None]:
    """The ball, and the class that is aimed at: what was asked for, else what the generator was trained for."""
    own = Threat() if generator is None else generator.threat
    y_target = settings.y_target
    if y_target is None and generator is not None:
        y_target = generator.y_target
    eps = own.eps if settings.eps is None else settings.eps
    return Threat(settings.norm or own.norm, eps, targeted=y_target is not None), y_target


def chosen(asked: tuple[str, ...], generator: Generator | None, threat: Threat) -> list[str]:
    """The attacks to run, in the order asked for. Raises InputError for one that is unknown, or needs a generator."""
    names = list(dict.fromkeys(" ".join(asked).replace(",", " ").split()))
    unknown = [name for name in names if name not in KNOWN]
    if unknown:
        raise InputError(f"unknown attack {unknown[0]!r}, expected some of {', '.join(KNOWN)}")
    if not names:
        names = [name for name in KNOWN if name != "deepfool-linf" and (name != "advgan" or generator is not None)]
        names = [name for name in names if name == "advgan" or ATTACKS[name].targeted or not threat.targeted]
    if "advgan" in names and generator is None:
        raise InputError("attack advgan needs a trained generator, expected --generator DIR, got none")
    if "advgan" in names and generator is not None and generator.threat.norm != threat.norm:
        raise InputError(f"the generator was trained for norm {generator.threat.norm}, {threat.norm} was asked for")
    return names


def one_pass(generator: Generator, threat: Threat, y_target: int | None) -> Bound:
    """The generator as an attack: it needs neither the target nor the labels."""
    return lambda x, y: generator.perturb(x, y_target, threat.eps)


def about(settings: Settings, target: nn.Module, generator: Generator | None) -> dict[str, Any]:
    """Who fought whom, for results.json: where they lay, and the fingerprints of their weights."""
    found: dict[str, Any] = {
        "target": {
            "name": settings.target,
            "weights": str(settings.target_weights),
            "sha256": fingerprint(target),
            "dataset": settings.dataset,
        }
    }
    if generator is not None:
        found["generator"] = {
            "path": str(settings.generator),
            "parameters": sum(parameter.numel() for parameter in generator.parameters()),
            "sha256": fingerprint(generator),
            "eps": generator.threat.eps,
            "norm": generator.threat.norm,
            "y_target": generator.y_target,
        }
    return found


def progress_bar() -> Progress:
    """One bar per attack, with the time it has left, on stderr."""
    columns = (TextColumn("{task.description:16}"), BarColumn(bar_width=30), MofNCompleteColumn())
    return Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True))


if __name__ == "__main__":
    run(main, Settings)
