"""Train a generator that attacks a fixed classifier in one forward pass (AdvGAN, Xiao et al. 2018, arXiv:1801.02610).

accelerate launch train/advgan.py                                    the embedded digits, with all defaults
torchrun --nproc-per-node 2 train/advgan.py ...                      several processes share each batch
python train/advgan.py --dataset mnist --data-dir data --target mnist-c --target-weights RUN --eps 8/255
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# `accelerate launch` puts train/ first on the path, where `import advgan` would find this very file.
sys.path.insert(0, str(ROOT))

from advgan.core.shutdown import exit_on_signals

if __name__ == "__main__":
    exit_on_signals()  # also while the rest is imported

import re
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import advgan.training as training
from advgan.classifiers import fingerprint
from advgan.core.config import ByOrder, Real, check_signs, run, write_settings
from advgan.core.errors import InputError
from advgan.core.files import write_file
from advgan.core.json_files import sealed
from advgan.core.recipe import NameOrPath
from advgan.core.threat_model import Norm, check_class, check_eps
from advgan.core.training_record import checkpoint_folder
from advgan.data import steps_per_epoch, training_batches
from advgan.data.flags import DataDir, Dataset, ImageColumn, ImageSize, LabelColumn, load_chosen
from advgan.defenses import adaptive, load_classifier, reseed, suspicious, undefended, weights_of
from advgan.evaluation.compatibility import admitted, check_gradients
from advgan.models import losses
from advgan.models.discriminator import Discriminator
from advgan.models.generator import Architecture, Generator
from advgan.report.tensorboard import command as tensorboard_command
from advgan.training.card import generator_card
from advgan.training.gan import EVASION, Asked, Game, ask, discriminator_step, generator_step, slices
from advgan.training.validation import Judgement, Validation, questions, seconds_per_pass
from advgan.training.validation_log import write_validation

SHIPPED = ROOT / "checkpoints/mnist5k-classifier"


@dataclass(frozen=True)
class Settings:
    """Everything a run depends on; it is saved with the run, and --resume insists on the same."""

    recipe: Path | None = None
    """YAML file of settings that become the defaults; flags override it"""
    dataset: Dataset = "mnist5k"
    data_dir: DataDir = Path("data")
    image_size: ImageSize = None
    image_column: ImageColumn = None
    label_column: LabelColumn = None
    target: NameOrPath = "mnist-c"
    """The classifier under attack: its name, the directory of a saved one, or torchvision:NAME:WEIGHTS, timm:NAME,
    hf:REPO, FILE.py:FACTORY, which need no weights"""
    target_weights: Path | None = None
    """Its weights: a run of train/classifier.py, a .safetensors or .pt file; None: its own, or the shipped mnist-c"""
    weights_by_order: ByOrder = False
    defense: NameOrPath | None = None
    """What the target stands behind, like bit-depth:bits=3, or several with +; None: nothing"""
    eps: Real = 0.3
    """Radius of the ball, in pixel units of [0, 1]"""
    norm: Norm = "linf"
    """Norm of the ball"""
    y_target: int | None = None
    """Pull every image toward this class; None: away from its own"""
    any_class: bool = False
    """One generator for all classes: pull each image toward the class that it is asked for, or away from its own"""
    aimed: Real = 0.5
    """With --any-class: share of the training images that are asked for a class"""
    eps_min: Real | None = None
    """One generator for all radii from this one to eps; None: for eps alone"""
    noise: int = 0
    """Length of a noise vector from which one image gets many different answers; 0: one answer"""
    universal: bool = False
    """One perturbation for all images"""
    guide: bool = False
    """Condition the generator on the logits of a frozen copy of the target for the clean image"""
    guide_dir: Path | None = None
    """The same with a saved classifier in the target's place: a smaller one (quick) costs less, and any target may be
    attacked"""
    output_dir: Path = Path("checkpoints/runs/advgan")
    """Where generator/, discriminator/, state/ and logs/ go"""
    resume: bool = False
    """Continue the run in the output directory where it stopped"""
    overwrite: bool = False
    """Replace an earlier run in the output directory"""
    init: Path | None = None
    """Initial weights: a trained generator's folder or run, and the discriminator beside it; None: random ones"""
    epochs: int = 20
    """Passes over the training images (with --noise every other one is seen, twice); with --resume more: trained
    longer"""
    max_steps: int | None = None
    """Steps in all; overrides epochs, and the schedule follows it; more with --resume: trained longer"""
    batch_size: int = 128
    """Images a step, over all processes"""
    seed: int = 0
    """Of weights and batches"""
    threads: int | None = None
    """CPU threads a process; None shares the cores among the processes"""
    bf16: bool = False
    """Mixed precision: twice the speed on a GPU, or on a CPU that has bfloat16 matrix units"""
    accumulate: int = 1
    """Take each process's share of a batch in so many parts, one after the other: the same step in less memory"""
    checkpoint_target: bool = False
    """Compute the target's activations a second time instead of keeping them: less memory, a forward pass more"""
    compile: bool = False
    """Compile generator and target (torch.compile): the first pass takes a minute"""

    adversarial: losses.Adversarial = "margin"
    """Adversarial loss on the target's logits"""
    kappa: Real = 5.0
    """Margin that the adversarial loss asks for (form margin)"""
    gan: losses.GAN = "least-squares"
    """Form of the GAN loss"""
    alpha: Real = 0.1
    """Weight of the GAN loss; 0 leaves it out"""
    beta: Real = 0.05
    """Weight of the hinge loss; 0 leaves it out"""
    hinge_c: Real | None = None
    """l2 length from which the hinge bites; None: 0.85 of that of random-sign noise of this eps on training images"""
    gamma: Real = 0.5
    """Weight of the sameness loss (with --noise)"""
    evasion: Real | None = None
    """Weight of the evasion loss, where the target can reject (--defense reject:detector=DIR); None: 1"""

    architecture: Architecture = "patch"
    """Of both networks: patch (fast), unet (for success), unrolled (for small eps, with a guide) or paper (Xiao et al.
    2018)"""
    patch: int = 4
    """Pixels a side that become one position of the generator"""
    width: int = 32
    """Channels of the generator"""
    depth: int = 2
    """Residual blocks of the generator (unet: at its bottom; unrolled: iterations)"""
    levels: int = 1
    """How many times a unet halves the image"""

    learning_rate: Real = 1e-2
    """Peak of the generator's one-cycle schedule (Adam)"""
    discriminator_learning_rate: Real = 1e-3
    """The discriminator's, constant (Adam)"""
    warmup: Real = 0.1
    """Share of the steps in which the learning rate rises"""
    ema: Real = 0.9
    """Decay of the averaged weights that are validated and kept; 0 keeps the latest"""
    clip_norm: Real = 10.0
    """Largest gradient norm of the generator"""
    validate_every: int = 50
    """Steps between validations (and saves)"""
    validation_images: int = 2000
    """Validation images used, at most"""


def main(settings: Settings) -> None:
    check(settings)
    accelerator = training.start(settings.seed, settings.threads, bf16=settings.bf16)
    training.claim(settings.output_dir, "generator", resume=settings.resume, overwrite=settings.overwrite)
    with accelerator.main_process_first():  # one downloads, the others find it
        data = load_chosen(settings)
    weights = weights_of(settings.target, settings.target_weights, SHIPPED)
    where, shape = (settings.target, weights, settings.defense), data.image_shape
    loaded = load_classifier(*where, image_shape=shape, num_classes=data.num_classes)
    check_gradients(loaded)
    share = share_of(settings, accelerator.num_processes)
    target, data = admitted(loaded, data)
    check_class(settings.y_target, data.num_classes)
    held_out = data.validation.first(settings.validation_images)
    target = target.to(accelerator.device).eval().requires_grad_(False)  # frozen, so never prepared
    if settings.evasion is not None and not suspicious(target):
        raise InputError(f"evasion does nothing without a target that can reject, got {settings.evasion}")
    smooth = adaptive(target)  # what the generator learns from: the target itself, where its gradients are honest
    classifier = undefended(target)
    if settings.checkpoint_target:
        training.checkpointed(classifier)

    guide = classifier if settings.guide else None
    digests = {"target_sha256": fingerprint(target), "guide_sha256": None}
    if settings.guide_dir is not None:
        guide = undefended(load_classifier(str(settings.guide_dir), image_shape=shape))  # of classes of its own
        digests["guide_sha256"] = fingerprint(guide)

    total = settings.max_steps or settings.epochs * steps_per_epoch(data.train, settings.batch_size)
    some, _ = next(data.train.first(512).batches(512))
    c = losses.hinge_start(some, settings.norm, settings.eps) if settings.hinge_c is None else settings.hinge_c
    gamma = settings.gamma if settings.noise else 0.0
    evasion = (EVASION if settings.evasion is None else settings.evasion) if suspicious(target) else 0.0
    game = Game(settings.adversarial, settings.kappa, settings.gan, settings.alpha, settings.beta, c, gamma, evasion)
    channels = data.image_shape[0]
    net = Generator(
        channels, settings.eps, settings.norm, settings.y_target,
        architecture=settings.architecture, patch=settings.patch, width=settings.width, depth=settings.depth,
        levels=settings.levels, classes=data.num_classes if settings.any_class else 0, eps_min=settings.eps_min,
        noise=settings.noise, universal=settings.universal, guide=guide, image_shape=shape,
    )  # fmt: skip
    discriminator = Discriminator(channels, settings.architecture)
    if settings.init is not None and not settings.resume:
        digests["init_sha256"] = initialise(net, discriminator, settings.init, settings.target)
    learned = [parameter for parameter in net.parameters() if parameter.requires_grad]
    optimizer_g = Adam(learned, settings.learning_rate, betas=(0.5, 0.999))
    optimizer_d = Adam(discriminator.parameters(), settings.discriminator_learning_rate, betas=(0.5, 0.999))
    schedule = LambdaLR(optimizer_g, lambda step: training.one_cycle(step / total, settings.warmup))
    averaged = AveragedModel(net, accelerator.device, multi_avg_fn=get_ema_multi_avg_fn(settings.ema))
    record = training.Record(
        step=0,
        seconds=0.0,
        best=-1.0,
        history=[],
        passes=[],
        said=[],
        lengthened=[],
        settings=training.plain(settings) | digests,
    )
    generator, discriminator, optimizer_g, optimizer_d = accelerator.prepare(
        net, discriminator, optimizer_g, optimizer_d
    )
    validation = Validation(target, held_out, accelerator, questions(net), settings.seed)
    validation.check_attackable()
    state = training.State(accelerator, settings.output_dir, "generator", total, record, schedule, averaged)
    if settings.resume:
        state.load(schedule)
    if settings.compile:
        training.compiled(net, classifier, sample=some[:share].to(accelerator.device))

    critic = accelerator.unwrap_model(discriminator)
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
        training.open_log(accelerator, settings.output_dir, "advgan", record["step"], record["settings"]) as log,
        training.progress_bar(accelerator) as bar,
    ):
        task = bar.add_task("advgan", total=total, completed=record["step"], figures="")
        for x, y in batches:
            began = time.perf_counter()
            x, y = x.to(accelerator.device), y.to(accelerator.device)
            if settings.noise:  # every image twice, each with noise of its own: what `sameness` compares
                x, y = (each[::2].repeat_interleave(2, dim=0)[: len(each)] for each in (x, y))
            rng = np.random.default_rng((settings.seed, record["step"], 1))  # a step asks the same after a resume
            first = accelerator.process_index * len(x)
            asked = ask(net, y, rng, first, len(x) * accelerator.num_processes, settings.aimed)
            answer = partial(answered, generator, x, asked)
            if settings.accumulate == 1:
                x_adv = answer(slice(None))
            else:  # for the discriminator; for its own gradient each part is answered again
                with torch.no_grad():
                    x_adv = torch.cat([answer(part) for part in slices(len(x), settings.accumulate)])
            reseed(target, record["step"])
            parts = discriminator_step(
                *(game, discriminator, optimizer_d, x, x_adv.detach(), accelerator), accumulate=settings.accumulate
            )
            parts |= generator_step(
                *(game, generator, optimizer_g, critic, smooth),
                *(x, x_adv if settings.accumulate == 1 else answer, y, accelerator),
                y_target=asked.y_target,
                share=asked.share(settings.eps),
                clip_norm=settings.clip_norm,
                accumulate=settings.accumulate,
            )
            # Means over all processes, in one synchronisation: so a NaN anywhere stops them all at the same step.
            means = accelerator.reduce(torch.stack(list(parts.values())), reduction="mean")
            terms = dict(zip(parts, means.tolist(), strict=True))
            training.stop_at_nan(terms, record["step"] + 1, settings.output_dir / "generator")
            schedule.step()
            averaged.update_parameters(net)
            record["step"] += 1
            record["seconds"] += time.perf_counter() - began
            step = record["step"]

            bar.update(task, completed=step, figures=progress(terms, record))
            if log and (step % 10 == 0 or step == total):
                for name, value in terms.items():
                    log.add_scalar(f"train/{name}", value, step)
                log.add_scalar("train/learning rate", schedule.get_last_lr()[0], step)
                log.add_scalar("train/learning rate discriminator", settings.discriminator_learning_rate, step)
            stopping = stop.requested(accelerator)
            due = step % settings.validate_every == 0 or step == total
            if due:
                record["passes"] += [seconds_per_pass(target, x, y) for _ in range(2)]
                judgement = validation(averaged.module, critic, c=c, gan=settings.gan, with_gan=settings.alpha > 0)
                training.stop_at_nan(judgement.figures, step, settings.output_dir / "generator")
                better = keep_history(record, judgement)
                if log:
                    say(judgement, record, bar)
                    write_validation(log, judgement, step, data.classes)
                with training.saving(accelerator, settings.output_dir):
                    if accelerator.is_main_process:
                        write_training(settings, record, total, finished=False)  # before what it stands beside
                        if better:
                            keep(averaged.module, critic, settings, record, c)
            if due or stopping:
                state.save(step)
            if stopping:
                break  # safe: the loader is not a prepared one, and every process stops at this step
    with training.saving(accelerator, settings.output_dir):
        if accelerator.is_main_process:
            conclude(settings, record, total)
    training.finish(accelerator, stop.code)


def check(settings: Settings) -> None:
    """Refuse what cannot work, before any work."""
    check_eps(settings.eps, settings.norm)
    sizes = ("batch_size", "accumulate", "validate_every", "validation_images", "epochs")
    check_signs(
        settings,
        positive=(*sizes, "learning_rate", "clip_norm"),
        not_negative=("kappa", "alpha", "beta", "gamma", "evasion", "hinge_c", "discriminator_learning_rate"),
    )
    for name in ("ema", "warmup"):
        if not 0 <= getattr(settings, name) < 1:
            raise InputError(f"{name} must be in [0, 1), got {getattr(settings, name)}")
    if settings.architecture == "unrolled" and not settings.guide and settings.guide_dir is None:
        raise InputError(
            "architecture unrolled is a backward pass of its guide: expected --guide or --guide-dir, got neither"
        )
    if settings.guide and settings.guide_dir is not None:
        raise InputError("one guide at most: expected --guide or --guide-dir, got both")
    if settings.guide_dir is not None and not settings.guide_dir.is_dir():
        raise InputError(f"guide_dir must be the directory of a saved classifier, got {settings.guide_dir}")
    if (settings.guide or settings.guide_dir is not None) and settings.universal:
        raise InputError("a universal perturbation cannot heed a guide: expected --guide or --universal, got both")
    without = {"aimed": ("any_class", settings.any_class), "gamma": ("noise", settings.noise > 0)}
    without["levels"] = ("architecture unet", settings.architecture == "unet")
    for name, (partner, there) in without.items():
        if not there and getattr(settings, name) != getattr(Settings, name):
            raise InputError(f"{name} does nothing without {partner}, got {getattr(settings, name)}")
    if not 0 <= settings.aimed <= 1:
        raise InputError(f"aimed must be in [0, 1], got {settings.aimed}")
    if settings.max_steps is not None and settings.max_steps < 1:
        raise InputError(f"max_steps must be at least 1, got {settings.max_steps}")


def share_of(settings: Settings, processes: int) -> int:
    """Images of a micro-batch of one process. Raises InputError if they are not as many for each."""
    parts = processes * settings.accumulate
    if settings.batch_size % parts:
        raise InputError(
            f"batch size must be divisible by processes x accumulate, {processes} x {settings.accumulate}, "
            f"got {settings.batch_size}"
        )
    if settings.noise and settings.batch_size // parts % 2:
        raise InputError(f"with noise images go in pairs: expected an even batch a process, got {settings.batch_size}")
    return settings.batch_size // parts


def initialise(net: Generator, discriminator: Discriminator, directory: Path, target: str) -> str:
    """Give `net` the weights of the trained generator in `directory`, but for its guide, and `discriminator` those of
    the one beside it, if there is one; the SHA-256 of the trained generator.

    Raises InputError unless both networks are made alike; eps, eps_min and y_target may differ.
    """
    trained = Generator.from_pretrained(directory, allowed_guides=[target])
    if differences := net.differences(trained):
        raise InputError(f"init {directory} holds a generator of another kind: {differences}")
    weights = {name: value for name, value in trained.state_dict().items() if not name.startswith("guide.")}
    net.load_state_dict(net.state_dict() | weights)
    folder = checkpoint_folder(directory, "generator").parent / "discriminator"
    if folder.is_dir():
        other = Discriminator.load(folder)
        if other.config != discriminator.config:
            raise InputError(f"init {folder} holds a discriminator {other.config}, expected {discriminator.config}")
        discriminator.load_state_dict(other.state_dict())
    return fingerprint(trained)


def answered(generator: nn.Module, x: Tensor, asked: Asked, part: slice) -> Tensor:
    """The generator's answers to a part of the batch `x`."""
    given = (None if each is None else each[part] for each in (asked.y_target, asked.eps, asked.z))
    x_adv: Tensor = generator(x[part], *given)
    return x_adv


def keep_history(record: training.Record, judgement: Judgement) -> bool:
    """Add a validation to the record; whether it is the best so far (of equals, the later)."""
    record["history"].append({"step": record["step"], "seconds": record["seconds"], **judgement.figures})
    better: bool = judgement.figures["asr"] >= record["best"]
    record["best"] = max(record["best"], judgement.figures["asr"])
    return better


def progress(terms: dict[str, float], record: training.Record) -> str:
    short = {"loss adversarial": "adv", "loss GAN": "gan", "loss hinge": "hinge", "loss discriminator": "D"}
    parts = " ".join(f"{word} {terms[name]:.2f}" for name, word in short.items())
    best = f" ASR {record['history'][-1]['asr']:.1%}" if record["history"] else ""
    return f"{record['step'] / record['seconds']:.1f} step/s  {parts}{best}"


def say(judgement: Judgement, record: training.Record, bar: Any) -> None:
    """One line a validation on the terminal, and each symptom of collapse when it first shows."""
    f, settings = judgement.figures, record["settings"]
    shares = {"hinge active": f["hinge_active"], "D right": f["d_accuracy"]}
    if "rejected" in f:  # in the hinge's place: a line of a terminal takes no more
        shares = {"rejected": f["rejected"], "D right": f["d_accuracy"]}
    unused = {"hinge active": settings["beta"] == 0, "D right": settings["alpha"] == 0}
    shares = {word: value for word, value in shares.items() if not unused.get(word)}
    said = "  ".join(f"{word} {value:4.0%}" for word, value in shares.items())
    bar.console.print(f"step {record['step']:5d}  val ASR {f['asr']:6.2%}  l2 {f['l2']:.3f}  {said}", highlight=False)
    for line in judgement.symptoms:
        kind = re.sub(r"[\d.%]+", "", line)
        if kind not in record["said"]:
            record["said"].append(kind)
            bar.console.print(f"  note: {line}", style="yellow", highlight=False)


def keep(generator: nn.Module, critic: Discriminator, settings: Settings, record: training.Record, c: float) -> None:
    """Make `generator` the run's chosen one: config.json, model.safetensors and its card, whole or not at all. Beside
    it the discriminator that it had then: a detector, perhaps."""
    assert isinstance(generator, Generator)
    critic.save(settings.output_dir / "discriminator")
    chosen = {name: value for name, value in training.plain(settings).items() if name not in training.FREE}
    chosen["init"] = record["settings"].get("init")  # a call with --resume need not repeat it
    card = generator_card(chosen, record["history"][-1], c) + training.lengthenings(record)
    generator.save(settings.output_dir / "generator", card)


def write_training(settings: Settings, record: training.Record, total: int, *, finished: bool) -> None:
    """training.json beside the generator: how far the training is, and how it went."""
    unit = sorted(record["passes"])[len(record["passes"]) // 2] if record["passes"] else None
    reached = next((h for h in record["history"] if h["asr"] >= 0.95), None)
    summary = {
        "settings": record["settings"],
        "finished": finished,
        "steps": record["step"],
        "total_steps": total,
        "lengthened": record["lengthened"],  # at which steps a run was resumed with another number of steps in all
        "training_seconds": record["seconds"],  # steps alone: neither loading nor validation
        "best_validation_asr": max(record["best"], 0.0),
        "seconds_per_target_pass": unit,
        "steps_to_95": reached and reached["step"],
        "passes_to_95": reached and unit and reached["seconds"] / unit,
        "history": record["history"],
    }
    write_file(settings.output_dir / "training.json", sealed(summary))


def conclude(settings: Settings, record: training.Record, total: int) -> None:
    """The last training.json, and where everything is, on the terminal."""
    write_training(settings, record, total, finished=record["step"] == total)
    if record["step"] < total:
        print(f"stopped after step {record['step']} of {total}; the same command with --resume continues")
    if record["history"]:
        print(f"best validation ASR {record['best']:.2%}; generator in {settings.output_dir / 'generator'}")
    print(tensorboard_command(settings.output_dir / "logs"))


if __name__ == "__main__":
    run(main, Settings)
