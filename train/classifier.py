"""Train a classifier to be attacked: any built-in target on any data set, chosen on validation, tested once.

python train/classifier.py                                           mnist-c on the embedded digits, with all defaults
python train/classifier.py --dataset mnist --data-dir data --epochs 4 --output-dir RUN
accelerate launch --cpu --num_processes 2 train/classifier.py ...    several processes share each batch
"""

from __future__ import annotations

import sys
from pathlib import Path

# `accelerate launch` puts train/ first on the path, where `import advgan` would find the program of that name.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import math
import time
from dataclasses import dataclass

import torch.nn.functional as F
from accelerate import Accelerator
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

from advgan import training
from advgan.data import Data, load_data, steps_per_epoch, training_batches
from advgan.data.augment import augment
from advgan.errors import InputError
from advgan.report.tensorboard import command as tensorboard_command
from advgan.settings import Real, run
from advgan.targets import Target, build_target, initial_target, load_target, save_target


@dataclass(frozen=True)
class Settings:
    """Everything a run depends on; it is saved with the run, and --resume insists on the same."""

    recipe: Path | None = None
    """YAML file of settings that become the defaults; flags override it"""
    dataset: str = "mnist5k"
    """mnist5k (embedded), mnist, fashion-mnist, cifar10, or folder (class folders train/ [val/] test/)"""
    data_dir: Path = Path("data")
    """Where the data set lies, or is downloaded to"""
    image_size: int | None = None
    """Resize and crop the images of a folder to this many pixels a side"""
    target: str = "mnist-c"
    """The classifier: mnist-a, mnist-b, mnist-c, mnist-tutorial, cifar-resnet20, cifar-resnet32, ..."""
    init_weights: Path | None = None
    """Begin with the backbone of a trained classifier of this name and a new head: a run, or a file of weights"""
    freeze_backbone: bool = False
    """Train the new head alone: the backbone, its batch norm among it, stays what --init-weights brought"""
    output_dir: Path = Path("checkpoints/runs/classifier")
    """Where classifier/, state/ and logs/ go"""
    resume: bool = False
    """Continue the run in the output directory where it stopped"""
    overwrite: bool = False
    """Replace an earlier run in the output directory"""
    epochs: int = 12
    """Passes over the training images"""
    max_steps: int | None = None
    """Steps in all; overrides epochs, and the schedule follows it"""
    batch_size: int = 128
    """Images a step, over all processes"""
    seed: int = 0
    """Of weights, batches and shifts"""
    threads: int | None = None
    """CPU threads a process; None shares the cores among the processes"""

    learning_rate: Real = 3e-3
    """Peak of the one-cycle schedule (AdamW)"""
    weight_decay: Real = 1e-4
    """Decoupled weight decay (AdamW)"""
    shift: int = 2
    """Training images are moved by up to this many pixels each way; 0 leaves them as they are"""
    flip: bool = False
    """Mirror every other training image (photographs, not digits)"""


def main(settings: Settings) -> None:
    check(settings)
    accelerator = training.start(settings.seed, settings.threads)
    training.claim(settings.output_dir, "classifier", resume=settings.resume, overwrite=settings.overwrite)
    with accelerator.main_process_first():  # one downloads, the others find it
        data = load_data(settings.dataset, settings.data_dir, image_size=settings.image_size)
    epoch = steps_per_epoch(data.train, settings.batch_size)
    total = settings.max_steps or settings.epochs * epoch
    net = begin(settings, data)
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    optimizer = AdamW(trained, settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = OneCycleLR(optimizer, settings.learning_rate, total_steps=total)
    record = training.Record(
        step=0, seconds=0.0, accuracy=None, best=-1.0, best_step=0, settings=training.plain(settings)
    )
    model, prepared = accelerator.prepare(net, optimizer)
    accelerator.register_for_checkpointing(schedule, record)
    if settings.resume:
        training.load_state(accelerator, settings.output_dir, "classifier", record)
    else:
        training.clear(accelerator, settings.output_dir, "classifier")

    batches = training_batches(
        data.train, settings.batch_size, seed=settings.seed, first=record["step"], last=total,
        rank=accelerator.process_index, world=accelerator.num_processes, workers=2,
    )  # fmt: skip
    with (
        training.Stop() as stop,
        training.open_log(accelerator, settings.output_dir, "classifier", record["step"], record["settings"]) as log,
        training.progress_bar(accelerator) as bar,
    ):
        task = bar.add_task(settings.target, total=total, completed=record["step"], figures="")
        for x, y in batches:
            began = time.perf_counter()
            x = augment(
                x, shift=settings.shift, flip=settings.flip, seed=settings.seed, step=record["step"],
                rank=accelerator.process_index, world=accelerator.num_processes,
            )  # fmt: skip
            x, y = x.to(accelerator.device), y.to(accelerator.device)
            model.train(not settings.freeze_backbone)  # a frozen backbone is as it will be used; a head has no modes
            logits = model(x)
            loss = F.cross_entropy(logits, y)
            # Before it reaches the weights; the mean over the processes, so that a NaN in one stops them all.
            loss_value = accelerator.reduce(loss.detach(), reduction="mean").item()
            training.stop_at_nan({"the loss": loss_value}, record["step"] + 1, settings.output_dir / "classifier")
            prepared.zero_grad()
            accelerator.backward(loss)
            prepared.step()
            schedule.step()
            record["step"] += 1
            record["seconds"] += time.perf_counter() - began
            step = record["step"]

            speed = step * settings.batch_size / record["seconds"]
            if log and (step % 10 == 0 or step == total):
                log.add_scalar("train/loss", loss_value, step)
                log.add_scalar("train/accuracy", (logits.argmax(1) == y).float().mean().item(), step)
                log.add_scalar("train/learning rate", schedule.get_last_lr()[0], step)
                log.add_scalar("train/images per second", speed, step)
            stopping = stop.requested(accelerator)
            if step % epoch == 0 or step == total:
                record["accuracy"] = training.accuracy(net, data.validation, accelerator)
                better = record["accuracy"] >= record["best"]  # of equals the later
                if better:
                    record["best"], record["best_step"] = record["accuracy"], step
                if log:
                    log.add_scalar("validation/accuracy", record["accuracy"], step)
                    bar.console.print(f"step {step:5d}  validation accuracy {record['accuracy']:.2%}", highlight=False)
                    if better:
                        save_target(net, settings.output_dir / "classifier", card(settings, data, record))
            bar.update(task, completed=step, figures=progress(speed, loss_value, record))
            if step % epoch == 0 or step == total or stopping:
                training.save_state(accelerator, settings.output_dir, "classifier", step)
            if stopping:
                break  # safe: the loader is not a prepared one, and every process stops at this step
    accelerator.wait_for_everyone()
    conclude(settings, data, record, total, accelerator)
    training.finish(accelerator)


def begin(settings: Settings, data: Data) -> Target:
    """The net to train: with random weights, or with a trained backbone and a new head."""
    if settings.init_weights is None:
        return build_target(settings.target, data.image_shape, data.num_classes)
    given = (settings.target, settings.init_weights, data.image_shape, data.num_classes)
    return initial_target(*given, freeze_backbone=settings.freeze_backbone)


def check(settings: Settings) -> None:
    """Refuse what cannot work, before any work."""
    for name in ("epochs", "batch_size", "learning_rate"):
        if not 0 < getattr(settings, name) < math.inf:
            raise InputError(f"{name} must be positive, got {getattr(settings, name)}")
    for name in ("weight_decay", "shift", "seed"):
        if not getattr(settings, name) >= 0:
            raise InputError(f"{name} must not be negative, got {getattr(settings, name)}")
    if settings.max_steps is not None and settings.max_steps < 1:
        raise InputError(f"max_steps must be at least 1, got {settings.max_steps}")
    if settings.freeze_backbone and settings.init_weights is None:
        raise InputError("freeze_backbone needs init_weights, a trained classifier whose backbone is kept, got none")


def progress(speed: float, loss: float, record: training.Record) -> str:
    validated = "" if record["accuracy"] is None else f" val {record['accuracy']:.1%}"
    return f"{speed:.0f} images/s loss {loss:.3f}{validated}"


def card(settings: Settings, data: Data, record: training.Record, test: float | None = None) -> str:
    """The README.md beside the weights: what they are worth, and where they come from."""
    given = {
        k: v for k, v in training.plain(settings).items() if k not in training.FREE and v is not None and v is not False
    }
    command = " ".join(f"--{k.replace('_', '-')}{'' if v is True else f' {v}'}" for k, v in given.items())
    channels, height, width = data.image_shape
    tested = "not measured (the run did not end)" if test is None else f"{test:.2%}"
    return f"""---
library_name: advgan
tags: [image-classification, adversarial-examples, advgan]
---
# `{settings.target}` on {settings.dataset}

A classifier to be attacked: {channels}x{height}x{width} images in [0, 1] -> logits of {data.num_classes} classes.

    from advgan.targets import load_target
    model = load_target("{settings.target}", weights=DIRECTORY)  # the directory of this card

| | |
|---|---|
| accuracy, test ({len(data.test)} images, seen once) | {tested} |
| accuracy, validation ({len(data.validation)} images, chosen on them) | {record["best"]:.2%} |
| trained on | {len(data.train)} images of {settings.dataset}, classes {", ".join(data.classes)} |
| training | {record["step"]} steps of {settings.batch_size} images, {record["seconds"]:.0f} s, seed {settings.seed} |
| weights | those after step {record["best_step"]} |
| made by | `train/classifier.py {command}` |

Made to be attacked, not to be relied on: it was not hardened, and knows only images like those it was trained on.
"""


def conclude(settings: Settings, data: Data, record: training.Record, total: int, accelerator: Accelerator) -> None:
    """Measure the kept classifier on the test images, once and only after the last step; say where everything is."""
    directory = settings.output_dir / "classifier"
    tested = None
    if record["step"] == total:
        best = load_target(settings.target, directory).to(accelerator.device)
        tested = training.accuracy(best, data.test, accelerator)
    if not accelerator.is_main_process:
        return
    if tested is None:
        print(f"stopped after step {record['step']} of {total}; the same command with --resume continues")
    else:
        save_target(best, directory, card(settings, data, record, tested))
        print(f"test accuracy {tested:.2%} (n = {len(data.test)}), validation {record['best']:.2%}")
        print(f"classifier in {directory}")
    print(tensorboard_command(settings.output_dir / "logs"))


if __name__ == "__main__":
    run(main, Settings)
