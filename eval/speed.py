"""How fast is one forward pass? The generator against the gradient attacks on the same target, timed in turn.

python eval/speed.py --dataset mnist --target mnist-c --target-weights RUN --generator RUN

Each round times every attack once, on the same batch; a ratio is taken within its round, so that a machine whose speed
drifts changes both sides alike. Success stands beside the time: a faster but weaker attack shows. If the generator aims
at a class, so do the others.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# A program run by its path has its own folder first on the path; the library is above it.
sys.path.insert(0, str(ROOT))

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from advgan import training
from advgan.attacks import fgsm, ifgsm
from advgan.data import load_data
from advgan.errors import InputError
from advgan.evaluation import predict
from advgan.evaluation.figures import clean_records
from advgan.generator import Generator
from advgan.settings import run
from advgan.targets import check_target, load_target


@dataclass(frozen=True)
class Settings:
    """What is timed, on which images."""

    generator: Path = Path("checkpoints/runs/demo")
    """A generator's folder, or the run that holds it"""
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
    batch_size: int = 100
    """Images an attack is given at once"""
    rounds: int = 30
    """Times each attack is timed, in turn with the others"""
    threads: int | None = None
    """CPU threads; None takes all cores"""
    recipe: Path | None = None
    """YAML file of settings that become the defaults; flags override it"""


def main(settings: Settings) -> None:
    for name in ("batch_size", "rounds"):
        if getattr(settings, name) < 1:
            raise InputError(f"{name} must be at least 1, got {getattr(settings, name)}")
    accelerator = training.start(seed=0, threads=settings.threads)
    generator = Generator.from_pretrained(settings.generator).to(accelerator.device)
    threat, y_target = generator.threat, generator.y_target
    data = load_data(settings.dataset, settings.data_dir, image_size=settings.image_size)
    if y_target is not None and not 0 <= y_target < data.num_classes:
        raise InputError(f"the generator aims at class {y_target}, expected one from 0 to {data.num_classes - 1}")
    target = load_target(
        settings.target, settings.target_weights, image_shape=data.image_shape, num_classes=data.num_classes
    )
    x, y = next(data.test.first(settings.batch_size).batches(settings.batch_size))
    model = check_target(target, x[:8], data.num_classes).to(accelerator.device)
    counts = clean_records(predict(model, x), y, y_target)["counts"].to(accelerator.device)
    if not counts.any():
        other = "" if y_target is None else f" that are not of class {y_target}"
        raise InputError(f"nothing to attack: the target classifies none of {len(x)} images correctly{other}")
    x, y = x.to(accelerator.device), y.to(accelerator.device)
    generator.perturb(x[:1])  # what it cannot take, it says now
    aim = None if y_target is None else torch.full_like(y, y_target)
    attacks: dict[str, Callable[[], Tensor]] = {
        "fgsm": lambda: fgsm(model, x, y, eps=threat.eps, norm=threat.norm, y_target=aim),
        "ifgsm, 10 steps": lambda: ifgsm(model, x, y, eps=threat.eps, norm=threat.norm, y_target=aim, steps=10),
        "advgan": lambda: generator.perturb(x),
        "target forward alone": lambda: forward(model, x),
    }
    seconds = in_turn(attacks, settings.rounds, accelerator.device)
    asr = {name: success(model, attack(), y, aim, counts) for name, attack in attacks.items() if "alone" not in name}
    ball = f"{threat.norm} eps {threat.eps:.4g}" + ("" if aim is None else f" toward class {y_target}")
    title = f"{settings.target}, {ball}, batch {len(x)}, {settings.rounds} rounds, {torch.get_num_threads()} threads"
    Console().print(table(title, seconds, asr, len(x)))


def forward(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x)


def in_turn(attacks: dict[str, Callable[[], Tensor]], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each attack in each round, after three rounds of warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in attacks}
    for i in range(-3, rounds):
        for name, attack in attacks.items():
            began = time.perf_counter()
            attack()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if i >= 0:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def success(model: nn.Module, x_adv: Tensor, y: Tensor, aim: Tensor | None, counts: Tensor) -> float:
    """Share of the images that count, as in the comparison, that are no longer of class `y`, or now of class `aim`."""
    prediction = forward(model, x_adv).argmax(1)
    fooled = prediction != y if aim is None else prediction == aim
    return fooled[counts].float().mean().item()


def table(title: str, seconds: dict[str, list[float]], asr: dict[str, float], images: int) -> Table:
    found = Table(title=title)
    for column in ("attack", "images/s", "times FGSM's speed, median (range)", "ASR on this batch %"):
        found.add_column(column)
    for name, times in seconds.items():
        ratios = [fgsm / own for fgsm, own in zip(seconds["fgsm"], times, strict=True)]
        speed = f"{images / statistics.median(times):,.0f}"
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        found.add_row(name, speed, ratio, f"{100 * asr[name]:.1f}" if name in asr else "")
    return found


if __name__ == "__main__":
    run(main, Settings)
