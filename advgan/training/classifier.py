"""Train a classifier: any built-in target on any data set, adversarially or not, chosen on validation, tested once.

python train/classifier.py                                           mnist-c on the embedded digits, with all defaults
python train/classifier.py --dataset mnist --data-dir data --epochs 4 --output-dir RUN
python train/classifier.py --adversarial pgd --eps 0.3 ...           adversarial training
accelerate launch --cpu --num_processes 2 train/classifier.py ...    several processes share each batch
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

import advgan.training as training
from advgan.attacks import pgd
from advgan.classifiers import Classifier, build_target, fingerprint, initial_target, load_target, save_target
from advgan.core.config import ByOrder, Real, check_signs, write_settings
from advgan.core.errors import InputError
from advgan.core.recipe import NameOrPath
from advgan.data import Data, Stream, steps_per_epoch, training_batches
from advgan.data.augment import augment, check_shift
from advgan.data.flags import DataSettings, load_chosen
from advgan.data.stream import in_memory
from advgan.defenses import load_members
from advgan.report.tensorboard import command as tensorboard_command
from advgan.training.adversarial import Adversary, Method, Plan, mixed_loss, overfitted, plan
from advgan.training.card import classifier_card
from advgan.training.robust_accuracy import accuracy, validate


@dataclass(frozen=True)
class Settings(DataSettings):
    """Everything a run depends on; it is saved with the run, and --resume insists on the same."""

    target: NameOrPath = "mnist-c"
    """The classifier: mnist-a, mnist-b, mnist-c, mnist-tutorial, cifar-resnet20, cifar-resnet32, ..."""
    init_weights: Path | None = None
    """Begin with the backbone of a trained classifier of this name and a new head: a run, or a file of weights"""
    weights_by_order: ByOrder = False
    freeze_backbone: bool = False
    """Train the new head alone: the backbone, its batch norm among it, stays what --init-weights brought"""
    output_dir: Path = Path("checkpoints/runs/classifier")
    """Where classifier/, state/ and logs/ go"""
    resume: bool = False
    """Continue the run in the output directory where it stopped"""
    overwrite: bool = False
    """Replace an earlier run in the output directory"""
    epochs: int = 12
    """Passes over the training images; more with --resume: trained longer"""
    max_steps: int | None = None
    """Steps in all; overrides epochs, and the schedule follows it; more with --resume: trained longer"""
    batch_size: int = 128
    """Images a step, over all processes"""
    seed: int = 0
    """Of weights, batches and shifts"""
    threads: int | None = None
    """CPU threads a process; None shares the cores among the processes"""
    bf16: bool = False
    """Mixed precision: twice the speed on a GPU, or on a CPU that has bfloat16 matrix units"""

    learning_rate: Real = 3e-3
    """Peak of the one-cycle schedule (AdamW)"""
    weight_decay: Real = 1e-4
    """Decoupled weight decay (AdamW)"""
    shift: int = 2
    """Training images are moved by up to this many pixels each way; 0 leaves them as they are"""
    flip: bool = False
    """Mirror every other training image (photographs, not digits)"""

    adversarial: Method | None = None
    """Adversarial training, by the images of fgsm, fast, pgd, ensemble, or a generator that is trained in turn; None:
    plain training. All that follows is for it"""
    eps: Real = 0.3
    """Radius of the linf ball, in pixel units of [0, 1]"""
    alpha: Real | None = None
    """Weight of the clean images, the rest is the adversarial ones'; None: 0.5 with fgsm and ensemble, else 0"""
    attack_steps: int | None = None
    """Gradient steps of pgd (None: 40), and after the generator's pass (None: 3; 0: the pass alone)"""
    attack_step_size: Real | None = None
    """Of fast (None: 1.25 eps), pgd (2.5 eps / steps) and generator (0.5 eps)"""
    eps_warmup: Real = 0.0
    """Share of the steps in which the radius rises to eps: where training stays at one class, this helps"""
    ensemble: tuple[NameOrPath, ...] = ()
    """Directories of trained classifiers: with --adversarial ensemble each step attacks one of them, or the own"""
    generator_width: int = 16
    """Channels of the generator"""
    generator_learning_rate: Real = 1e-3
    """The generator's, constant (Adam)"""
    robust_images: int = 500
    """Images attacked, at most: for validation by FGSM and PGD-10, at the end for the test by PGD-40"""


HELD = 5000  # validation images, and test images, of a stream
# Settings that do nothing without adversarial training, and those that are for one method of it.
ADVERSARIAL_ONLY: dict[str, Method | None] = {
    **dict.fromkeys(("eps", "alpha", "attack_steps", "attack_step_size", "eps_warmup", "robust_images")),
    **{"ensemble": "ensemble", "generator_width": "generator", "generator_learning_rate": "generator"},
}


def main(settings: Settings) -> None:
    check(settings)
    how = adversarial_config(settings)
    accelerator = training.start(settings.seed, settings.threads, bf16=settings.bf16)
    training.claim(settings.output_dir, "classifier", resume=settings.resume, overwrite=settings.overwrite)
    with accelerator.main_process_first():  # one downloads, the others find it
        data = load_chosen(settings)
    check_shift(settings.shift, data.image_shape)
    members = load_members(settings.ensemble, data.image_shape, data.num_classes, accelerator.device, data.classes)
    data, epoch = in_memory(data, HELD), between_validations(data, settings)
    total = settings.max_steps or settings.epochs * epoch
    net = begin(settings, data)
    net.classes = data.classes
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    optimizer = AdamW(trained, settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = OneCycleLR(optimizer, settings.learning_rate, total_steps=total)
    record = training.Record(
        step=0,
        seconds=0.0,
        best=-1.0,
        best_step=0,
        history=[],
        lengthened=[],
        settings=training.plain(settings) | {"ensemble_sha256": [fingerprint(member) for member in members]},
    )
    model, prepared = accelerator.prepare(net, optimizer)
    inner = (settings.seed, members, settings.generator_width, settings.generator_learning_rate)
    adversary = Adversary(how, net, accelerator, *inner) if how else None
    state = training.State(accelerator, settings.output_dir, "classifier", total, record, schedule)
    if settings.resume:
        state.load(schedule)

    batches = training_batches(
        data.train, settings.batch_size, seed=settings.seed, first=record["step"], last=total,
        rank=accelerator.process_index, world=accelerator.num_processes, workers=2,
    )  # fmt: skip
    if not settings.resume:  # nothing is refused from here on: the earlier run may go
        state.clear()
    with training.saving(accelerator, settings.output_dir):
        if accelerator.is_main_process:
            write_settings(settings, settings.output_dir)
    with (
        training.Stop() as stop,
        training.open_log(accelerator, settings.output_dir, "classifier", record["step"], record["settings"]) as log,
        training.progress_bar(accelerator) as bar,
    ):
        task = bar.add_task(settings.target, total=total, completed=record["step"], figures="")
        for x, y in batches:
            began = time.perf_counter()
            share = {"rank": accelerator.process_index, "world": accelerator.num_processes}
            moves = {"shift": settings.shift, "flip": settings.flip, "seed": settings.seed, "step": record["step"]}
            x, y = augment(x, **moves, **share).to(accelerator.device), y.to(accelerator.device)
            x_adv = adversary(x, y, record["step"], record["step"] / total) if adversary else x
            model.train(not settings.freeze_backbone)  # a frozen backbone is as it will be used; a head has no modes
            loss, logits = mixed_loss(model, x, x_adv, y, how.alpha if how else 1.0)
            # Before it reaches the weights; the mean over the processes, so that a NaN in one stops them all.
            loss_value = accelerator.reduce(loss.detach(), reduction="mean").item()
            training.check_finite({"the loss": loss_value}, record["step"] + 1, state.left())
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
                figures = validate(net, data.validation, accelerator, how.eps if how else None, settings.robust_images)
                better = keep_history(record, figures)
                if log:
                    for name, value in figures.items():
                        log.add_scalar(f"validation/{name}", value, step)
                    say(record, bar)
                with training.saving(accelerator, settings.output_dir):
                    if better and accelerator.is_main_process:
                        keep(net, settings, data, record, total)
            bar.update(task, completed=step, figures=progress(speed, loss_value, record))
            if step % epoch == 0 or step == total or stopping:
                state.save(step)
            if stopping:
                break  # safe: the loader is not a prepared one, and every process stops at this step
    accelerator.wait_for_everyone()
    conclude(settings, data, record, total, accelerator)
    training.finish(accelerator, stop.code)


def between_validations(data: Data, settings: Settings) -> int:
    """Steps from one validation to the next: an epoch, or of a stream, which has none, a tenth of all."""
    if isinstance(data.train, Stream) and settings.max_steps:
        return max(1, settings.max_steps // 10)
    return steps_per_epoch(data.train, settings.batch_size)


def begin(settings: Settings, data: Data) -> Classifier:
    """The net to train: with random weights, or with a trained backbone and a new head."""
    if settings.init_weights is None:
        return build_target(settings.target, data.image_shape, data.num_classes)
    given = (settings.target, settings.init_weights, data.image_shape, data.num_classes)
    return initial_target(*given, freeze_backbone=settings.freeze_backbone)


def adversarial_config(settings: Settings) -> Plan | None:
    """Settings of adversarial training; None: a standard one. Raises InputError for impossible or unused settings."""
    for name in idle(settings):
        if (value := getattr(settings, name)) != getattr(Settings, name):
            partner = " ".join(["--adversarial", *filter(None, [ADVERSARIAL_ONLY[name]])])
            raise InputError(f"{name} does nothing without {partner}, got {value}")
    if settings.adversarial is None:
        return None
    if settings.adversarial == "ensemble" and not settings.ensemble:
        raise InputError("adversarial ensemble needs trained classifiers, expected --ensemble DIR [DIR ...], got none")
    check_signs(settings, positive=("generator_width", "generator_learning_rate", "robust_images"))
    return plan(
        settings.adversarial, settings.eps, alpha=settings.alpha, steps=settings.attack_steps,
        step_size=settings.attack_step_size, warmup=settings.eps_warmup,
    )  # fmt: skip


def idle(settings: Settings) -> list[str]:
    """The settings that do nothing because adversarial training, or its method that they are for, was not asked for."""
    method = settings.adversarial
    return [name for name, of in ADVERSARIAL_ONLY.items() if method is None or of not in (None, method)]


def keep_history(record: training.Record, figures: dict[str, float]) -> bool:
    """Add a validation to the record; whether it is the best so far (of equals the later).

    Of an adversarially trained one by the mean of its accuracy with and without PGD: by PGD alone a constant prediction
    would be the best of a training that PGD defeats.
    """
    record["history"].append({"step": record["step"], "seconds": record["seconds"], **figures})
    value = (figures["accuracy"] + figures.get("accuracy_pgd", figures["accuracy"])) / 2
    better: bool = value >= record["best"]
    if better:
        record["best"], record["best_step"] = value, record["step"]
    return better


def say(record: training.Record, bar: Any) -> None:
    """One line a validation on the terminal, and a word if the classifier resists FGSM alone."""
    last = record["history"][-1]
    robust = f", FGSM {last['accuracy_fgsm']:.2%}, PGD-10 {last['accuracy_pgd']:.2%}" if "accuracy_pgd" in last else ""
    bar.console.print(f"step {record['step']:5d}  validation accuracy {last['accuracy']:.2%}{robust}", highlight=False)
    if robust and overfitted(record["history"]):
        bar.console.print(
            f"  note: catastrophic overfitting: the classifier resists FGSM and no longer PGD; kept is that of step "
            f"{record['best_step']}. A smaller attack_step_size, fewer epochs or --adversarial pgd prevent it",
            style="yellow", highlight=False,
        )  # fmt: skip


def keep(
    net: Classifier,
    settings: Settings,
    data: Data,
    record: training.Record,
    total: int,
    tested: dict[str, float] | None = None,
) -> None:
    """Make `net` the run's classifier: weights, card and training.json, whole or not at all. It is `tested` at the very
    end, and finished then."""
    left_out = training.FREE.union(idle(settings))
    given = {name: value for name, value in training.plain(settings).items() if name not in left_out}
    summary = {
        "settings": record["settings"],
        "finished": tested is not None,
        "steps": record["step"],
        "total_steps": total,
        "lengthened": record["lengthened"],  # at which steps a run was resumed with another number of steps in all
        "training_seconds": record["seconds"],  # steps alone: neither loading nor validation
        "best_step": record["best_step"],
        "history": record["history"],
        "test": tested,
    }
    card = classifier_card(given, data, summary) + training.lengthenings(record)
    save_target(net, settings.output_dir / "classifier", card, summary)


def check(settings: Settings) -> None:
    """Refuse what cannot work, before any work."""
    check_signs(
        settings, positive=("epochs", "batch_size", "learning_rate"), not_negative=("weight_decay", "shift", "seed")
    )
    if settings.max_steps is not None and settings.max_steps < 1:
        raise InputError(f"max_steps must be at least 1, got {settings.max_steps}")
    if settings.freeze_backbone and settings.init_weights is None:
        raise InputError("freeze_backbone needs init_weights, a trained classifier whose backbone is kept, got none")


def progress(speed: float, loss: float, record: training.Record) -> str:
    validated = f" val {record['history'][-1]['accuracy']:.1%}" if record["history"] else ""
    return f"{speed:.0f} images/s loss {loss:.3f}{validated}"


def conclude(settings: Settings, data: Data, record: training.Record, total: int, accelerator: Accelerator) -> None:
    """Measure the kept classifier on the test images, once and only after the last step; say where everything is."""
    directory, test = settings.output_dir / "classifier", data.test
    tested = None
    if record["step"] == total:
        best = load_target(settings.target, directory).to(accelerator.device)
        tested = {"accuracy": accuracy(best, test, accelerator), "n": len(test)}
        if settings.adversarial is not None:
            some, attack = test.first(settings.robust_images), partial(pgd, eps=settings.eps, steps=40)
            tested |= {"accuracy_pgd40": accuracy(best, some, accelerator, attack), "n_pgd40": len(some)}
    with training.saving(accelerator, settings.output_dir):
        if tested is not None and accelerator.is_main_process:
            keep(best, settings, data, record, total, tested)
    if not accelerator.is_main_process:
        return
    if tested is None:
        print(f"stopped after step {record['step']} of {total}; the same command with --resume continues")
    else:
        chosen = next(each for each in record["history"] if each["step"] == record["best_step"])
        print(f"test accuracy {tested['accuracy']:.2%} (n = {len(test)}), validation {chosen['accuracy']:.2%}")
        if "n_pgd40" in tested:
            print(f"test accuracy under PGD-40 {tested['accuracy_pgd40']:.2%} (the first {tested['n_pgd40']})")
        print(f"classifier in {directory}")
    print(tensorboard_command(settings.output_dir / "logs"))
