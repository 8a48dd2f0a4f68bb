"""Attack a classifier that only answers queries: learn a substitute from its answers, and a generator against that.

python train/substitute.py --dataset mnist --data-dir data --target mnist-c --target-weights RUN
python train/substitute.py --distillation static --answers labels --images 2000 --budget 2000 ...

Static: the substitute f learns the black box b's answers on the attacker's images, then the generator fools f.
Dynamic (Xiao et al. 2018, arXiv:1801.02610, section 3.3): both in turn, in rounds; before each but the first, b is
asked about the newest adversarial images, and f learns from its answers to these, too (and to those of earlier rounds,
which are paid for). Static is dynamic with one round: both take the same steps.

The attacker knows no labels: the class of a training image is what b says of it. The generator that is kept is the last
round's, so no query is spent on choosing one. Queries of the attack, and those of validation, which only measure, are
counted apart.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import advgan.training as training
from advgan.classifiers import Answers, BlackBox, Classifier, build_target, fingerprint, save_target
from advgan.core.config import ByOrder, Real, check_signs, write_settings
from advgan.core.errors import InputError
from advgan.core.files import atomic_write
from advgan.core.json_files import sealed
from advgan.core.recipe import NameOrPath
from advgan.core.shipped import CLASSIFIER
from advgan.core.threat_model import Norm, check_class, check_eps
from advgan.data import Split, training_batches
from advgan.data.flags import DataSettings, load_chosen
from advgan.defenses import ClassifierSpec, load_classifier, parse_classifier, reseed
from advgan.evaluation.compatibility import prepare_model_and_data
from advgan.models import losses
from advgan.models.discriminator import Discriminator
from advgan.models.generator import Generator
from advgan.models.generator_settings import Architecture
from advgan.report.tensorboard import command as tensorboard_command
from advgan.training.card import percent, substitute_card
from advgan.training.gan import Batch, Conditions, LossConfig, discriminator_step, generator_step
from advgan.training.validation import Validation, ValidationResult, check_attackable, questions
from advgan.training.validation_log import write_validation

Phase = Literal["distil", "attack"]


@dataclass(frozen=True)
class Settings(DataSettings):
    """Everything a run depends on; it is saved with the run, and --resume insists on the same."""

    images: int | None = None
    """The attacker has only so many of the training images, drawn by the seed; None: all of them"""
    target: NameOrPath = "mnist-c"
    """The classifier under attack, which only answers queries: its name, the directory of a saved one, or
    torchvision:NAME:WEIGHTS, timm:NAME, hf:REPO, FILE.py:FACTORY, MODEL.onnx, http://HOST/PATH"""
    target_weights: Path | None = None
    """Its weights: a run of train/classifier.py, a .safetensors or .pt file; the attack does not see them. None: its
    own, or the shipped mnist-c"""
    weights_by_order: ByOrder = False
    defense: NameOrPath | None = None
    """What the target stands behind, like bit-depth:bits=3, or several with +; None: nothing"""
    answers: Answers = "probabilities"
    """What it returns: probabilities of all classes, or labels alone"""
    budget: int | None = None
    """The most images that the attack may ask it about; None: no limit"""
    substitute: str = "mnist-tutorial"
    """The attacker's own classifier; another than the target, which nobody told him"""
    distillation: Literal["static", "dynamic"] = "dynamic"
    """Learn from answers about clean images only, or also, round by round, about the newest adversarial ones"""
    rounds: int = 30
    """Rounds of the dynamic form, which share the steps; static has one"""
    distil_steps: int = 2400
    """Steps of the substitute, in all rounds together"""
    generator_steps: int = 2400
    """Steps of the generator, in all rounds together"""
    adversarial_images: int = 1500
    """Newest adversarial images that the black box is asked about before each round but the first, at most"""
    eps: Real = 0.3
    """Radius of the ball, in pixel units of [0, 1]"""
    norm: Norm = "linf"
    """Norm of the ball"""
    y_target: int | None = None
    """Pull every image toward this class; None: away from the black box's own answer"""
    output_dir: Path = Path("checkpoints/runs/substitute")
    """Where classifier/ (the substitute), generator/, training.json, state/ and logs/ go"""
    resume: bool = False
    """Continue the run in the output directory where it stopped"""
    overwrite: bool = False
    """Replace an earlier run in the output directory"""
    batch_size: int = 64
    """Images a step; in the substitute's, from the second round on, half of them are adversarial"""
    seed: int = 0
    """Of weights, batches and the attacker's choice of images"""
    threads: int | None = None
    """CPU threads; None takes all cores"""
    bf16: bool = False
    """Mixed precision: twice the speed on a GPU, or on a CPU that has bfloat16 matrix units"""

    adversarial: losses.Adversarial = "margin"
    """Adversarial loss on the substitute's logits"""
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

    architecture: Architecture = "patch"
    """Of generator and discriminator: patch (fast), unet (for success), unrolled (for small eps, with a guide) or paper
    (Xiao et al. 2018)"""
    patch: int = 4
    """Pixels a side that become one position of the generator"""
    width: int = 32
    """Channels of the generator"""
    depth: int = 2
    """Residual blocks of the generator (unet: at its bottom)"""
    levels: int = 1
    """How many times a unet halves the image"""
    guide: bool = True
    """Condition the generator on the logits of a frozen copy of the substitute for the clean image"""

    learning_rate: Real = 5e-3
    """Peak of the generator's one-cycle schedule (Adam)"""
    discriminator_learning_rate: Real = 1e-3
    """The discriminator's, constant (Adam)"""
    substitute_learning_rate: Real = 2e-3
    """Peak of the substitute's one-cycle schedule (Adam)"""
    ema: Real = 0.9
    """Decay of the generator's averaged weights, which are used and kept; 0 keeps the latest"""
    clip_norm: Real = 10.0
    """Largest gradient norm of the generator"""
    validation_images: int = 500
    """Validation images used, at most; each round asks the black box about all of them, counted apart"""


def main(settings: Settings) -> None:
    check(settings)
    spec = checked_target(settings)
    accelerator = training.start(settings.seed, settings.threads, bf16=settings.bf16)
    if accelerator.num_processes > 1:
        raise InputError(f"expected one process, which counts the queries, got {accelerator.num_processes}")
    training.claim(settings.output_dir, "generator", resume=settings.resume, overwrite=settings.overwrite)
    if not settings.resume:
        training.claim(settings.output_dir, "classifier", resume=False, overwrite=settings.overwrite)
    device = accelerator.device
    data = load_chosen(settings)
    shape = data.image_shape
    hidden = load_classifier(spec, image_shape=shape, num_classes=data.num_classes)
    model, data = prepare_model_and_data(hidden, data)
    model, classes = model.to(device), data.num_classes
    check_class(settings.y_target, classes)
    held_out, train = data.validation.first(settings.validation_images), own_images(data.train, settings)
    black_box = BlackBox.of(model, classes, settings.answers, settings.budget)
    referee = BlackBox.of(model, classes, settings.answers)  # the same, asked by validation: what nobody learns from
    check_budget(settings, len(train))
    if settings.substitute == spec.name:
        accelerator.print(f"note: the substitute is a {spec.name} like the black box: an attacker who guessed it")

    substitute = without_dropout(build_target(settings.substitute, shape, classes))
    substitute.classes = data.classes
    generator = Generator(
        shape[0], settings.eps, settings.norm, settings.y_target,
        architecture=settings.architecture, patch=settings.patch, width=settings.width, depth=settings.depth,
        levels=settings.levels, guide=substitute if settings.guide else None,
    )  # fmt: skip
    discriminator = Discriminator(shape[0], settings.architecture)
    optimizer_f = Adam(substitute.parameters(), settings.substitute_learning_rate)
    learned = [parameter for parameter in generator.parameters() if parameter.requires_grad]
    optimizer_g = Adam(learned, settings.learning_rate, betas=(0.5, 0.999))
    optimizer_d = Adam(discriminator.parameters(), settings.discriminator_learning_rate, betas=(0.5, 0.999))
    schedules: dict[Phase, LambdaLR] = {
        "distil": LambdaLR(optimizer_f, lambda step: training.one_cycle(step / settings.distil_steps, 0.1)),
        "attack": LambdaLR(optimizer_g, lambda step: training.one_cycle(step / settings.generator_steps, 0.1)),
    }
    averaged = AveragedModel(generator, device, multi_avg_fn=get_ema_multi_avg_fn(settings.ema))
    record = training.Record(
        **{"step": 0, "distil": 0, "attack": 0, "rounds_asked": 0, "seconds": 0.0, "history": []},
        **{"queries": 0, "validation_queries": 0, "kept": {}},
        settings=training.plain(settings) | {"black_box_sha256": fingerprint(model)},
    )
    told = training.Told(settings.adversarial_images, settings.seed)
    substitute, generator, discriminator, optimizer_f, optimizer_g, optimizer_d = accelerator.prepare(
        substitute, generator, discriminator, optimizer_f, optimizer_g, optimizer_d
    )
    plan = timeline(settings)
    kept = (*schedules.values(), averaged, told)
    state = training.State(accelerator, settings.output_dir, "generator", len(plan), record, *kept)
    if settings.resume:
        state.load()
        black_box.queries, referee.queries = record["queries"], record["validation_queries"]

    some, _ = next(train.first(512).batches(512))
    c = losses.hinge_start(some, settings.norm, settings.eps) if settings.hinge_c is None else settings.hinge_c
    loss = LossConfig(settings.adversarial, settings.kappa, settings.gan, settings.alpha, settings.beta, c)
    batches = {
        phase: training_batches(
            train, settings.batch_size, seed=settings.seed, first=record[phase], last=len(plan), workers=2
        )
        for phase in schedules
    }
    if not settings.resume:  # nothing is refused from here on: the earlier run may go
        state.clear("classifier")
    if accelerator.is_main_process:
        write_settings(settings, settings.output_dir)
    with (
        training.Stop() as stop,
        training.open_log(accelerator, settings.output_dir, "substitute", record["step"], record["settings"]) as log,
        training.progress_bar(accelerator) as bar,
    ):
        task = bar.add_task("substitute", total=len(plan), completed=record["step"], figures="")
        for round_, phase in plan[record["step"] :]:
            reseed(model, round_)  # a defense that draws answers a round alike, resumed or not
            began = time.perf_counter()
            if record["rounds_asked"] == round_:  # the round's questions, each asked once and kept
                try:
                    with stop.at_once():
                        if round_ == 0:
                            told.ask(black_box, "clean", train)
                            told.ask(referee, "validation", held_out)
                            check_black_box(told["validation"].argmax(1), held_out, settings.y_target)
                        else:
                            told.ask_about_attack(black_box, averaged.module, train, round_)
                    record["rounds_asked"] += 1
                except SystemExit:
                    print(f"stopped after step {record['step']} of {len(plan)}, among the queries of the next round")
                    raise
                finally:  # where a service fails, what it told so far is kept too, and what it was asked counted
                    record["queries"], record["validation_queries"] = black_box.queries, referee.queries
                    state.save(record["step"])
            x, index = next(batches[phase])
            b, x = told["clean"][index].to(device), x.to(device)
            if phase == "distil":
                substitute.train().requires_grad_(True)
                if round_:
                    x, b = told.mixed(x, b, record["distil"])
                terms = distil_step(substitute, optimizer_f, x, b, accelerator)
            else:
                substitute.eval().requires_grad_(False)
                if plan[record["step"] - 1][1] == "distil":
                    own: tuple[Generator, Any] = (generator, averaged.module)
                    for each in own:
                        each.load_guide_weights(substitute, init=record["attack"] == 0)
                y = b.argmax(1)
                y_target = None if settings.y_target is None else torch.full_like(y, settings.y_target)
                x_adv = generator(x)
                terms = discriminator_step(loss, discriminator, optimizer_d, x, x_adv.detach(), accelerator)
                terms |= generator_step(
                    loss,
                    generator,
                    optimizer_g,
                    Batch(x, y, Conditions(y_target)),
                    x_adv,
                    discriminator=discriminator,
                    model=substitute,
                    accelerator=accelerator,
                    clip_norm=settings.clip_norm,
                )
                averaged.update_parameters(generator)
            values = {name: value.item() for name, value in terms.items()}
            training.check_finite(values, record["step"] + 1, state.left())
            schedules[phase].step()
            record[phase] += 1
            record["step"] += 1
            record["seconds"] += time.perf_counter() - began
            step = record["step"]

            bar.update(task, completed=step, figures=f"round {round_ + 1} {phase} {next(iter(values.values())):.3f}")
            if log and (step % 10 == 0 or step == len(plan)):
                for name, value in values.items():
                    log.add_scalar(f"train/{name}", value, step)
                log.add_scalar(f"train/learning rate {phase}", schedules[phase].get_last_lr()[0], step)
            stopping = stop.requested(accelerator)
            due = step == len(plan) or plan[step][0] != round_
            if due:
                judgement = judge(
                    averaged.module, discriminator, substitute, referee, told, held_out, loss, accelerator
                )
                remember(record, judgement, round_ + 1, referee)
                if log:
                    say(record, bar)
                    write_validation(log, judgement, step, data.classes)
                    log.add_scalar("queries", record["queries"], step)
                with training.saving(accelerator, settings.output_dir):
                    record["kept"] = {"sha256": fingerprint(substitute), "queries": record["queries"]}
                    write_training(settings, record, len(plan), finished=False)  # before what it stands beside
                    keep(substitute, averaged.module, settings, record, c)
            if due or stopping:
                state.save(step)
            if stopping:
                break
    conclude(settings, record, len(plan))
    training.finish(accelerator, stop.code)


def without_dropout(model: Classifier) -> Classifier:
    """`model` with its dropout off: it shall be the black box's function, of which there are answers without end.

    With dropout it fits them loosely, learns from the adversarial ones to be robust where the black box is not, and the
    generator finds less to win.
    """
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def timeline(settings: Settings) -> list[tuple[int, Phase]]:
    """(round, phase) of every step: each round distils, then attacks; the rounds share the steps evenly."""
    n = rounds(settings)
    phases: dict[Phase, int] = {"distil": settings.distil_steps, "attack": settings.generator_steps}
    return [
        (k, phase)
        for k in range(n)
        for phase, steps in phases.items()
        for _ in range(steps * k // n, steps * (k + 1) // n)
    ]


def rounds(settings: Settings) -> int:
    return settings.rounds if settings.distillation == "dynamic" else 1


def own_images(train: Split, settings: Settings) -> Split:
    """The attacker's images, each with its number where others have the label, which nobody tells him."""
    n = min(settings.images or len(train), len(train))
    chosen = np.sort(np.random.default_rng(settings.seed).permutation(len(train))[:n])
    return Split(train.take(torch.from_numpy(chosen)).images, torch.arange(n))


def check_black_box(answers: Tensor, held_out: Split, y_target: int | None) -> None:
    """Raise InputError where no validation image can be attacked, by the classes (n,) that the black box gives them."""
    right = answers == held_out.labels
    attackable = right if y_target is None else right & (held_out.labels != y_target)
    check_attackable(len(right), int(right.sum()), int(attackable.sum()), y_target)


def distil_step(
    substitute: nn.Module, optimizer: Any, x: Tensor, b: Tensor, accelerator: Accelerator
) -> dict[str, Tensor]:
    """One step down H(b(x), f(x)), the cross-entropy between the answers `b` (n, k) and the substitute's."""
    logits = substitute(x)
    loss = F.cross_entropy(logits, b)
    optimizer.zero_grad()
    accelerator.backward(loss)
    optimizer.step()
    agreement = (logits.detach().argmax(1) == b.argmax(1)).float().mean()
    return {"loss distillation": loss.detach(), "agreement": agreement}


@torch.no_grad()
def judge(
    generator: Any,
    discriminator: nn.Module,
    substitute: nn.Module,
    referee: BlackBox,
    told: training.Told,
    held_out: Split,
    loss: LossConfig,
    accelerator: Accelerator,
) -> ValidationResult:
    """The generator against the substitute, and beside it against the black box: figures that nothing is chosen by.

    Adds to the figures of `Validation`, which are those on the substitute: agreement of substitute and black box on
    clean and on adversarial images, and asr_black_box, over the n_black_box images that it classifies correctly. There
    is no asr where the substitute classifies no image correctly.
    """
    substitute.eval()
    y_target = generator.y_target
    validation = Validation(substitute, held_out, accelerator, questions(generator))
    judgement = validation(generator, discriminator, c=loss.hinge_threshold or 0.0, gan=loss.gan)
    if not judgement.figures["n_correct"]:
        del judgement.figures["asr"]
    columns: list[Tensor] = []
    for (x, y), clean in zip(held_out.batches(250), told["validation"].argmax(1).split(250), strict=True):
        x = x.to(accelerator.device)
        x_adv = generator(x)
        says, says_adv = substitute(x).argmax(1).cpu(), substitute(x_adv).argmax(1).cpu()
        now = referee.query(x_adv).argmax(1).cpu()
        counts = (clean == y) if y_target is None else (clean == y) & (y != y_target)
        fooled = now != y if y_target is None else now == y_target
        columns.append(torch.stack([says == clean, says_adv == now, counts, counts & fooled]))
    agree, agree_adversarial, n, hits = torch.cat(columns, 1).float().sum(1).tolist()
    judgement.figures.update(
        agreement=agree / len(held_out),
        agreement_adversarial=agree_adversarial / len(held_out),
        n_black_box=n,
        asr_black_box=hits / max(n, 1),
    )
    return judgement


def remember(record: training.Record, judgement: ValidationResult, round_: int, referee: BlackBox) -> None:
    """One line of the history for each round."""
    record["validation_queries"] = referee.queries
    spent = {name: record[name] for name in ("step", "seconds", "queries", "validation_queries")}
    record["history"].append({"round": round_, **spent, "asr": None, **judgement.figures})


def say(record: training.Record, bar: Any) -> None:
    """One line a round on the terminal."""
    h = record["history"][-1]
    bar.console.print(
        f"round {h['round']}  {h['queries']} queries  agreement {h['agreement']:.1%}, adversarial "
        f"{h['agreement_adversarial']:.1%}  val ASR substitute {percent(h['asr'])}, black box {h['asr_black_box']:.2%}",
        highlight=False,
    )


def keep(substitute: Any, generator: Any, settings: Settings, record: training.Record, c: float) -> None:
    """Write classifier/ and generator/ with their cards, each whole or not at all: the last round's."""
    chosen = {name: value for name, value in training.plain(settings).items() if name not in training.FREE}
    card = substitute_card(chosen, record["history"][-1], c)
    save_target(substitute, settings.output_dir / "classifier", card)
    generator.save(settings.output_dir / "generator", card)


def write_training(settings: Settings, record: training.Record, total: int, *, finished: bool) -> None:
    """training.json beside both: how far the training is, and how it went."""
    summary = {
        "settings": record["settings"],
        # What the kept generator was trained on, and what it cost to know it: eval/transfer.py looks for both.
        "substitute": {"name": settings.substitute, "sha256": record["kept"].get("sha256")},
        "queries": record["kept"].get("queries", record["queries"]),
        "validation_queries": record["validation_queries"],
        "finished": finished,
        "steps": record["step"],
        "total_steps": total,
        "training_seconds": record["seconds"],  # steps and questions: neither loading nor validation
        "history": record["history"],
    }
    atomic_write(settings.output_dir / "training.json", sealed(summary))


def conclude(settings: Settings, record: training.Record, total: int) -> None:
    """The last training.json, and where everything is, on the terminal."""
    write_training(settings, record, total, finished=record["step"] == total)
    last = record["history"][-1] if record["history"] else None
    if record["step"] < total:
        print(f"stopped after step {record['step']} of {total}; the same command with --resume continues")
    if last is not None:
        print(
            f"{record['queries']} queries (validation: {record['validation_queries']} more); validation ASR on the "
            f"black box {last['asr_black_box']:.2%}, on the substitute {percent(last['asr'])}"
        )
        print(f"substitute in {settings.output_dir / 'classifier'}, generator in {settings.output_dir / 'generator'}")
    print(tensorboard_command(settings.output_dir / "logs"))


def check(settings: Settings) -> None:
    """Refuse what cannot work, before any work."""
    check_eps(settings.eps, settings.norm)
    sizes = ("batch_size", "rounds", "distil_steps", "generator_steps", "adversarial_images", "validation_images")
    check_signs(
        settings,
        positive=(*sizes, "images", "learning_rate", "substitute_learning_rate", "clip_norm"),
        not_negative=("kappa", "alpha", "beta", "hinge_c", "discriminator_learning_rate", "budget"),
    )
    if not 0 <= settings.ema < 1:
        raise InputError(f"ema must be in [0, 1), got {settings.ema}")
    if rounds(settings) > min(settings.distil_steps, settings.generator_steps):
        raise InputError(f"each round needs a step of both, got {settings.rounds} rounds")


def checked_target(settings: Settings) -> ClassifierSpec:
    """The black box. Raises InputError where the program would overwrite it."""
    spec = parse_classifier(settings.target, settings.target_weights, settings.defense, default=CLASSIFIER)
    folder = settings.output_dir / "classifier"
    outputs = [path.resolve() for path in (settings.output_dir, folder, folder / "model.safetensors")]
    if spec.weights is not None and spec.weights.exists() and spec.weights.resolve() in outputs:
        raise InputError(f"output_dir must not be where the black box lies, got {settings.output_dir}")
    return spec


def check_budget(settings: Settings, n: int) -> None:
    """Refuse, before the first question about one of the `n` images, what would end without an answer."""
    later = timeline(settings)[-1][0]
    planned = n + later * min(settings.adversarial_images, n)
    if settings.budget is not None and planned > settings.budget:
        raise InputError(
            f"this run would ask about {planned} images ({n} clean ones and {later} times "
            f"{min(settings.adversarial_images, n)} adversarial ones), and the budget is {settings.budget}: "
            "take fewer --images, --rounds or --adversarial-images"
        )
