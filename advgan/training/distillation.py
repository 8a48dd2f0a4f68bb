"""Defensive distillation: a classifier that learns another one's soft labels (Papernot et al. 2016, arXiv:1511.04508).

python train/distill.py --temperature 20                       mnist-c on the embedded digits, with all other defaults
python train/distill.py --dataset mnist --data-dir data --temperature 100 --epochs 4 --output-dir RUN
accelerate launch --cpu --num_processes 2 train/distill.py ...    several processes share each batch

A teacher learns the labels at temperature T; then a student of the same architecture learns what the teacher says at T
of the very images that it is shown. RUN/classifier is the student, which every other program takes as it is: at
temperature 1, with logits T times as large as a plain classifier's. RUN/teacher is the teacher.

Nothing is chosen: both nets are kept as the last step leaves them, when the learning rate has come down to nothing.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

import advgan.training as training
from advgan.classifiers import Classifier, build_target, save_target
from advgan.core.config import Real, check_signs, write_settings
from advgan.core.errors import InputError
from advgan.core.recipe import NameOrPath
from advgan.data import Data, steps_per_epoch, training_batches
from advgan.data.augment import augment, check_shift
from advgan.data.flags import DataSettings, load_chosen
from advgan.defenses.distillation import check_temperature, soft_cross_entropy, soft_labels
from advgan.report.tensorboard import command as tensorboard_command
from advgan.training.robust_accuracy import accuracy

Phase = Literal["teacher", "student"]
FOLDER: dict[Phase, str] = {"teacher": "teacher", "student": "classifier"}  # in the order of training


@dataclass(frozen=True)
class Settings(DataSettings):
    """Everything a run depends on; it is saved with the run, and --resume insists on the same."""

    target: NameOrPath = "mnist-c"
    """Teacher and student: mnist-a, mnist-b, mnist-c, mnist-tutorial, cifar-resnet20, cifar-resnet32, ..."""
    temperature: Real = 20.0
    """T, at which the teacher is trained, and asked, and the student trained"""
    output_dir: Path = Path("checkpoints/runs/distill")
    """Where classifier/ (the student), teacher/, state/ and logs/ go"""
    resume: bool = False
    """Continue the run in the output directory where it stopped"""
    overwrite: bool = False
    """Replace an earlier run in the output directory"""
    epochs: int = 12
    """Passes over the training images, of each of the two"""
    max_steps: int | None = None
    """Steps of each of the two; overrides epochs, and the schedule follows it"""
    batch_size: int = 128
    """Images a step, over all processes"""
    seed: int = 0
    """Of weights, batches and shifts"""
    threads: int | None = None
    """CPU threads a process; None shares the cores among the processes"""

    learning_rate: Real = 3e-3
    """Peak of the one-cycle schedules (AdamW)"""
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
        data = load_chosen(settings)
    check_shift(settings.shift, data.image_shape)
    epoch = steps_per_epoch(data.train, settings.batch_size)
    each = settings.max_steps or settings.epochs * epoch
    nets = {phase: build_target(settings.target, data.image_shape, data.num_classes) for phase in FOLDER}
    for net in nets.values():
        net.classes = data.classes
    optimizers = {
        phase: AdamW(net.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
        for phase, net in nets.items()
    }
    schedules = {
        phase: OneCycleLR(optimizer, settings.learning_rate, total_steps=each)
        for phase, optimizer in optimizers.items()
    }
    record = training.Record(step=0, seconds=0.0, accuracies={}, settings=training.plain(settings))
    prepared = {phase: accelerator.prepare(nets[phase], optimizers[phase]) for phase in FOLDER}
    state = training.State(accelerator, settings.output_dir, "classifier", 2 * each, record, *schedules.values())
    if settings.resume:
        state.load()

    batches = training_batches(
        data.train, settings.batch_size, seed=settings.seed, first=record["step"], last=2 * each,
        rank=accelerator.process_index, world=accelerator.num_processes, workers=2,
    )  # fmt: skip
    if not settings.resume:  # nothing is refused from here on: the earlier run may go
        state.clear(*FOLDER.values())
    with training.saving(accelerator, settings.output_dir):
        if accelerator.is_main_process:
            write_settings(settings, settings.output_dir)
    with (
        training.Stop() as stop,
        training.open_log(accelerator, settings.output_dir, "distill", record["step"], record["settings"]) as log,
        training.progress_bar(accelerator) as bar,
    ):
        task = bar.add_task("distill", total=2 * each, completed=record["step"], figures="")
        for x, y in batches:
            began = time.perf_counter()
            phase: Phase = "teacher" if record["step"] < each else "student"
            model, optimizer = prepared[phase]
            x = augment(
                x, shift=settings.shift, flip=settings.flip, seed=settings.seed, step=record["step"],
                rank=accelerator.process_index, world=accelerator.num_processes,
            ).to(accelerator.device)  # fmt: skip
            y = y.to(accelerator.device)
            if phase == "teacher":
                q = F.one_hot(y, data.num_classes).float()
            else:
                with torch.no_grad():
                    q = soft_labels(nets["teacher"].eval()(x), settings.temperature)
            logits = model.train()(x)
            loss = soft_cross_entropy(logits, q, settings.temperature).mean()
            # Before it reaches the weights; the mean over the processes, so that a NaN in one stops them all.
            loss_value = accelerator.reduce(loss.detach(), reduction="mean").item()
            training.check_finite({"the loss": loss_value}, record["step"] + 1, state.left(FOLDER[phase]))
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
            schedules[phase].step()
            record["step"] += 1
            record["seconds"] += time.perf_counter() - began
            step = record["step"]

            if log and (step % 10 == 0 or step % each == 0):
                log.add_scalar(f"{phase}/loss", loss_value, step)
                log.add_scalar(f"{phase}/accuracy", (logits.argmax(1) == y).float().mean().item(), step)
                log.add_scalar(f"{phase}/learning rate", schedules[phase].get_last_lr()[0], step)
            stopping = stop.requested(accelerator)
            due = ((step - 1) % each + 1) % epoch == 0 or step % each == 0
            if due:
                found = accuracy(nets[phase], data.validation, accelerator)
                record["accuracies"][phase] = {"validation": found}
                if log:
                    log.add_scalar(f"{phase}/validation accuracy", found, step)
                    bar.console.print(f"step {step:5d}  {phase}, validation accuracy {found:.2%}", highlight=False)
                with training.saving(accelerator, settings.output_dir):
                    if accelerator.is_main_process:
                        save_target(
                            nets[phase],
                            settings.output_dir / FOLDER[phase],
                            card(settings, data, record, phase),
                            summary(settings, record, 2 * each, finished=False) if phase == "student" else None,
                        )
            bar.update(task, completed=step, figures=progress(phase, loss_value, record))
            if due or stopping:
                state.save(step)
            if stopping:
                break  # safe: the loader is not a prepared one, and every process stops at this step
    accelerator.wait_for_everyone()
    conclude(settings, data, nets, record, 2 * each, accelerator)
    training.finish(accelerator, stop.code)


def check(settings: Settings) -> None:
    """Refuse what cannot work, before any work."""
    check_temperature(settings.temperature)
    check_signs(
        settings, positive=("epochs", "batch_size", "learning_rate"), not_negative=("weight_decay", "shift", "seed")
    )
    if settings.max_steps is not None and settings.max_steps < 1:
        raise InputError(f"max_steps must be at least 1, got {settings.max_steps}")


def progress(phase: Phase, loss: float, record: training.Record) -> str:
    validated = record["accuracies"].get(phase, {}).get("validation")
    return f"{phase} loss {loss:.3f}" + ("" if validated is None else f" val {validated:.1%}")


def card(settings: Settings, data: Data, record: training.Record, phase: Phase) -> str:
    """The README.md beside the weights: what they are worth, and where they come from."""
    given = {
        k: v for k, v in training.plain(settings).items() if k not in training.FREE and v is not None and v is not False
    }
    command = " ".join(f"--{k.replace('_', '-')}{'' if v is True else f' {v}'}" for k, v in given.items())
    channels, height, width = data.image_shape
    known, temperature = record["accuracies"][phase], f"temperature {settings.temperature:g}"
    seconds = f"{record['seconds']:.0f} s"
    tested = f"{known['test']:.2%}" if "test" in known else "not measured (the run did not end)"
    learned = {"teacher": "the labels", "student": "the probabilities of a teacher, another net of its kind"}[phase]
    return f"""---
library_name: advgan
tags: [image-classification, adversarial-examples, defensive-distillation, advgan]
---
# `{settings.target}` on {settings.dataset}, {phase} of a defensive distillation at {temperature}

A classifier to be attacked: {channels}x{height}x{width} images in [0, 1] -> logits of {data.num_classes} classes.

    from advgan.classifiers import load_target
    model = load_target("{settings.target}", weights=DIRECTORY)  # the directory of this card

It learned {learned}, at {temperature} (Papernot et al. 2016, arXiv:1511.04508), and
answers at temperature 1: its logits are {settings.temperature:g} times as large as a plain classifier's.

| | |
|---|---|
| accuracy, test ({len(data.test)} images, seen once) | {tested} |
| accuracy, validation ({len(data.validation)} images; nothing was chosen on them) | {known["validation"]:.2%} |
| trained on | {len(data.train)} images of {settings.dataset}, classes {", ".join(data.classes)} |
| training, of both nets | {record["step"]} steps of {settings.batch_size} images, {seconds}, seed {settings.seed} |
| made by | `train/distill.py {command}` |

This hides gradients of the softmax from an attacker and moves no decision: `eval/distillation.py` measures both.
"""


def conclude(
    settings: Settings,
    data: Data,
    nets: dict[Phase, Classifier],
    record: training.Record,
    total: int,
    accelerator: Accelerator,
) -> None:
    """Measure both on the test images, once and only after the last step."""
    if record["step"] == total:
        for phase in FOLDER:
            record["accuracies"][phase]["test"] = accuracy(nets[phase], data.test, accelerator)
    if not accelerator.is_main_process:
        return
    if record["step"] < total:
        print(f"stopped after step {record['step']} of {total}; the same command with --resume continues")
    else:
        for phase, folder in FOLDER.items():
            save_target(
                nets[phase],
                settings.output_dir / folder,
                card(settings, data, record, phase),
                summary(settings, record, total, finished=True) if phase == "student" else None,
            )
            tested, validated = (record["accuracies"][phase][split] for split in ("test", "validation"))
            print(f"{phase}: test accuracy {tested:.2%} (n = {len(data.test)}), validation {validated:.2%}")
        print(f"student in {settings.output_dir / 'classifier'}, teacher in {settings.output_dir / 'teacher'}")
    print(tensorboard_command(settings.output_dir / "logs"))


def summary(settings: Settings, record: training.Record, total: int, *, finished: bool) -> dict[str, Any]:
    """training.json of the student: what others need to know of its run."""
    return {
        "settings": record["settings"],
        "finished": finished,
        "steps": record["step"],
        "total_steps": total,
        "training_seconds": record["seconds"],  # of both nets; steps alone, neither loading nor validation
        "temperature": settings.temperature,
        "accuracies": record["accuracies"],
    }
