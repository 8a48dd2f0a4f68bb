"""A training from queries: its settings, its steps, round by round, and its files."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.lr_scheduler import LambdaLR

import advgan.training as training
from advgan.classifiers import BlackBox, OutputKind, build_target, fingerprint, save_target
from advgan.core.config import Real, check_signs
from advgan.core.errors import InputError
from advgan.core.field_docs import documented
from advgan.core.files import atomic_write
from advgan.core.json_files import sealed
from advgan.core.threat_model import Norm, Threat, check_class, check_eps
from advgan.data import training_batches
from advgan.defenses import reseed
from advgan.models import losses
from advgan.models.discriminator import Discriminator
from advgan.models.generator import Generator
from advgan.training.build import build_generator
from advgan.training.card import percent, substitute_card
from advgan.training.datasets import Images
from advgan.training.options import LossFlags, NetworkFlags, TrainingConfig
from advgan.training.query_cache import QueryCache
from advgan.training.run_directory import Place, RunDirectory
from advgan.training.runtime.loop import GracefulShutdown, Interrupted
from advgan.training.step_loop import StepLoop
from advgan.training.trainer import GANTrainer
from advgan.training.validation import ValidationResult, Validator, check_attackable, eval_settings, write_validation

Phase = Literal["distil", "attack"]
ON_LOGITS = ("margin", "cross-entropy", "relativistic")  # losses that need nothing but a classifier's logits


@documented
@dataclass(frozen=True)
class SubstituteConfig(NetworkFlags, LossFlags):
    """Settings of the queries, of both networks and of their training."""

    images: int | None = None
    """Number of the attacker's images, drawn from the training images by the seed; None: all of them"""
    answers: OutputKind = "probabilities"
    """Response to a query: probabilities of all classes, or labels alone"""
    budget: int | None = None
    """Query budget of the attack, in images; None: no limit"""
    distillation: Literal["static", "dynamic"] = "dynamic"
    """Train on responses to clean images only, or also, round by round, to the newest adversarial ones"""
    rounds: int = 30
    """Rounds of the dynamic form, which share the steps; static has one"""
    distil_steps: int = 2400
    """Steps of the substitute, in all rounds together"""
    generator_steps: int = 2400
    """Steps of the generator, in all rounds together"""
    adversarial_images: int = 1500
    """Maximum number of adversarial images queried before each round but the first"""
    eps: Real = 0.3
    """Radius of the ball, in pixel units of [0, 1]"""
    norm: Norm = "linf"
    """Norm of the ball"""
    y_target: int | None = None
    """Target class of every image, a number; None: untargeted, away from the black box's prediction"""
    batch_size: int | None = None
    """Batch size; None: 64, or fewer where there are fewer images; half of the substitute's are adversarial images,
    from the second round on"""
    seed: int = 0
    """Seed of weights, batches and the attacker's choice of images"""
    bf16: bool = False
    """Mixed precision: twice the speed on a GPU, or on a CPU that has bfloat16 matrix units"""

    guide: bool = True
    """Condition the generator on the logits of a frozen copy of the substitute for the clean image"""

    learning_rate: Real = 5e-3
    """Peak of the generator's one-cycle schedule (Adam)"""
    discriminator_learning_rate: Real = 1e-3
    """The discriminator's learning rate, constant (Adam)"""
    substitute_learning_rate: Real = 2e-3
    """Peak of the substitute's one-cycle schedule (Adam)"""
    ema: Real = 0.9
    """Decay of the generator's averaged weights, which are validated and saved; 0: the latest weights"""
    clip_norm: Real = 10.0
    """Largest gradient norm of the generator"""
    validation_images: int = 500
    """Maximum number of validation images; each round queries all of them, counted apart"""

    def with_batch_size(self, n: int) -> Self:
        """The same with the default batch size for `n` images where it is None."""
        return self if self.batch_size is not None else replace(self, batch_size=min(64, n))

    @property
    def images_per_step(self) -> int:
        assert self.batch_size is not None, "set by with_batch_size"
        return self.batch_size

    @property
    def num_rounds(self) -> int:
        return self.rounds if self.distillation == "dynamic" else 1

    def check(self) -> None:
        """Raise InputError for settings that cannot work."""
        check_eps(self.eps, self.norm)
        sizes = ("batch_size", "rounds", "distil_steps", "generator_steps", "adversarial_images", "validation_images")
        check_signs(
            self,
            positive=(*sizes, "images", "learning_rate", "substitute_learning_rate", "clip_norm"),
            not_negative=("kappa", "alpha", "beta", "hinge_c", "discriminator_learning_rate", "budget"),
        )
        if self.adversarial not in (None, *ON_LOGITS):
            raise InputError(f"adversarial must be {', '.join(ON_LOGITS)} against a substitute, got {self.adversarial}")
        if not 0 <= self.ema < 1:
            raise InputError(f"ema must be in [0, 1), got {self.ema}")
        if self.num_rounds > min(self.distil_steps, self.generator_steps):
            raise InputError(f"each round needs a step of both, got {self.rounds} rounds")

    def check_budget(self, n: int) -> None:
        """Raise InputError, before the first query for one of `n` images, if the attack would exceed the budget."""
        later, adversarial = self.num_rounds - 1, min(self.adversarial_images, n)
        planned = n + later * adversarial
        if self.budget is not None and planned > self.budget:
            raise InputError(
                f"this run would query {planned} images ({n} clean ones and {later} times {adversarial} "
                f"adversarial ones), and the budget is {self.budget}: "
                "take fewer images, rounds or adversarial_images"
            )

    def step_schedule(self) -> list[tuple[int, Phase]]:
        """(round, phase) of every step: each round distils, then attacks; the rounds share the steps evenly."""
        n = self.num_rounds
        phases: dict[Phase, int] = {"distil": self.distil_steps, "attack": self.generator_steps}
        return [
            (k, phase)
            for k in range(n)
            for phase, steps in phases.items()
            for _ in range(steps * k // n, steps * (k + 1) // n)
        ]

    def training_config(self, sample: Tensor) -> TrainingConfig:
        """Settings of the generator's steps; the hinge's default threshold is that of images like `sample`. Labels are
        no input: the attack itself takes no query."""
        default = losses.default_hinge_threshold(sample, self.norm, self.eps)
        return TrainingConfig.from_flags(self).replace(
            {"hinge_threshold": default if self.hinge_c is None else self.hinge_c, "labels": False}
        )


Model = nn.Module | Callable[[Tensor], Any]


@dataclass(frozen=True)
class SubstituteResult:
    """What a training from queries gives.

    substitute, generator   both in eval mode; the generator attacks by `perturb(x)`
    queries                 images that the attack queried; validation_queries: those that only validation did
    history                 metrics of each round, of substitute (`asr`) and black box (`asr_black_box`)
    """

    substitute: nn.Module
    generator: Generator
    queries: int
    validation_queries: int
    history: list[dict[str, Any]]


class SubstituteFiles(RunDirectory):
    """classifier/ (the substitute), generator/, training.json, and the state to resume."""

    objective: Mapping[str, Any]  # of the generator's loss, in the place of settings that are None

    def save(self, substitute: nn.Module, generator: Generator, threshold: float, command: str | None) -> None:
        """training.json, then both networks with their cards, each whole or not at all."""
        record = self.record
        record["kept"] = {"sha256": fingerprint(substitute), "queries": record["queries"]}
        with self.writing() as writing:
            if writing and self.directory is not None:
                self.write_training(finished=False)  # before what it stands beside
                ignored = training.IGNORED_ON_RESUME
                settings = {name: value for name, value in record["settings"].items() if name not in ignored}
                card = substitute_card(
                    {**settings, **self.objective}, record["history"][-1], threshold, program=command
                )
                save_target(substitute, self.directory / "classifier", card)
                generator.save(self.directory / "generator", card)

    def write_training(self, *, finished: bool) -> None:
        record = self.record
        summary = self.progress(finished=finished) | {
            # The kept generator's substitute, and its cost in queries: eval/transfer.py looks for both.
            "substitute": {"name": record["settings"]["substitute"], "sha256": record["kept"].get("sha256")},
            "queries": record["kept"].get("queries", record["queries"]),
            "validation_queries": record["validation_queries"],
            "history": record["history"],
        }
        atomic_write(self.directory / "training.json", sealed(summary))  # type: ignore[operator]


class SubstituteTraining(StepLoop):
    """A training that is ready: everything is checked and built, nothing is queried or written; `run` takes its steps.

    data        the black box, as of `train_substitute`; images to query and to train on, whose labels are their
                indices; and validation images with true labels
    settings    names and values for the files, those of `config` among them; `program`: which was given them
    """

    title, text = "substitute", ""
    files: SubstituteFiles

    def __init__(
        self,
        data: Images,
        substitute: str | nn.Module,
        config: SubstituteConfig,
        place: Place,
        *,
        accelerator: Accelerator,
        settings: dict[str, Any],
        program: str | None = None,
        progress: bool = True,
    ) -> None:
        config = config.with_batch_size(len(data.train))
        self.data, self.config, self.accelerator = data, config, accelerator
        self.program, self.progress = program, progress and accelerator.is_main_process
        black_box, n = data.model, len(data.classes)
        check_class(config.y_target, n)
        query_interface: Any = BlackBox.from_model if isinstance(black_box, nn.Module) else BlackBox
        self.black_box = query_interface(black_box, n, config.answers, config.budget)
        self.validation_black_box = query_interface(black_box, n, config.answers)  # counted apart
        config.check_budget(len(data.train))
        self._build(build_target(substitute, data.train.image_shape, n) if isinstance(substitute, str) else substitute)
        record = training.TrainState(step=0, distil=0, attack=0, rounds_asked=0, seconds=0.0, history=[])
        record["queries"], record["validation_queries"], record["kept"] = 0, 0, {}
        digest = fingerprint(black_box) if isinstance(black_box, nn.Module) else None
        record["settings"] = settings | {"batch_size": config.batch_size, "black_box_sha256": digest}
        self.record, self.plan = record, config.step_schedule()
        self.cache = QueryCache(config.adversarial_images, config.seed)
        self.files = SubstituteFiles(place, accelerator, record, len(self.plan), "substitute")
        self.files.objective = self.trainer.config.objective
        states = (*self.schedules.values(), self.trainer.averaged, self.cache)
        self.files.open_state(*states, images=(data.train, data.validation))
        self.black_box.queries, self.validation_black_box.queries = record["queries"], record["validation_queries"]
        self.batches = {
            phase: training_batches(
                data.train,
                config.images_per_step,
                seed=config.seed,
                first=record[phase],
                last=len(self.plan),
                workers=2,
            )
            for phase in self.schedules
        }

    def _build(self, substitute: Any) -> None:
        """Both networks, the discriminator and their optimizers."""
        config, shape = self.config, self.data.train.image_shape
        # It approximates the black box's function, of which any number of samples exists. With dropout it fits them
        # loosely, becomes robust to the adversarial ones where the black box is not, and the generator gains less.
        for module in substitute.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        substitute.classes = self.data.classes
        sample, _ = next(self.data.train.first(512).batches(512))
        gan_config = config.training_config(sample).resolved(
            shape, classes=len(self.data.classes), targeted=config.y_target is not None
        )
        generator = build_generator(
            gan_config.generator,
            Threat(config.norm, config.eps, targeted=config.y_target is not None),
            config.y_target,
            image_shape=shape,
            num_classes=len(self.data.classes),
            guide=substitute if config.guide else None,
        )
        discriminator = Discriminator(shape[0], gan_config.generator.architecture or "patch") if config.alpha else None
        optimizer = Adam(substitute.parameters(), config.substitute_learning_rate)
        schedule = LambdaLR(optimizer, lambda step: training.one_cycle(step / config.distil_steps, 0.1))
        self.substitute, self.optimizer = self.accelerator.prepare(substitute, optimizer)
        self.trainer = GANTrainer(
            self.substitute,
            generator,
            discriminator,
            config=gan_config,
            total_steps=config.generator_steps,
            accelerator=self.accelerator,
        )
        self.threshold = gan_config.loss.hinge_threshold or 0.0
        self.schedules: dict[Phase, LambdaLR] = {"distil": schedule, "attack": self.trainer.schedule}

    def run(self) -> SubstituteResult:
        """Take the steps that are left. Raises as `train_substitute`."""
        code = self.take_steps(self.plan[self.record["step"] :], "classifier")
        self.files.finish()
        result = self.result()
        self.files.raise_if_stopped(code, result)
        return result

    def validation_due(self, step: int) -> bool:
        return step == len(self.plan) or self.plan[step][0] != self.plan[step - 1][0]

    def summary(self) -> str:
        return self.text

    def result(self) -> SubstituteResult:
        """Both networks as they are now, with the generator's averaged weights."""
        record, generator = self.record, self.trainer.net
        generator.load_state_dict(self.trainer.averaged.module.state_dict())
        substitute: nn.Module = self.accelerator.unwrap_model(self.substitute).eval()
        queries, validation_queries = record["queries"], record["validation_queries"]
        return SubstituteResult(substitute, generator.eval(), queries, validation_queries, record["history"])

    def step(self, batch: tuple[int, Phase], log: Any, stop: GracefulShutdown) -> None:
        """The queries of a round that begins, and one step; its metrics."""
        record, (round_, phase) = self.record, batch
        if isinstance(self.data.model, nn.Module):
            reseed(self.data.model, round_)  # the same draws of a random defense in a round, resumed or not
        began = time.perf_counter()
        if record["rounds_asked"] == round_:
            self._query(round_, stop)
        x, index = next(self.batches[phase])
        device = self.accelerator.device
        b, x = self.cache["clean"][index].to(device), x.to(device)
        with self.files.naming_checkpoint():
            values = self._distil(x, b, round_) if phase == "distil" else self._attack(x, b.argmax(1))
        record[phase] += 1
        record["step"] += 1
        record["seconds"] += time.perf_counter() - began
        step, first = record["step"], next(iter(values.values()))
        self.text = f"round {round_ + 1} {phase} {first:.3f}"
        if log and (step % 10 == 0 or step == len(self.plan)):
            for name, value in values.items():
                log.add_scalar(f"train/{name}", value, step)
            log.add_scalar(f"train/learning rate {phase}", self.schedules[phase].get_last_lr()[0], step)

    def _query(self, round_: int, stop: GracefulShutdown) -> None:
        """The queries of a round, each made once and its response kept, also where a later one fails."""
        record, data, cache = self.record, self.data, self.cache
        try:
            with stop.at_once():
                if round_ == 0:
                    cache.query(self.black_box, "clean", data.train)
                    cache.query(self.validation_black_box, "validation", data.validation)
                    labels, y_target = data.validation.labels, self.config.y_target
                    correct = cache["validation"].argmax(1) == labels
                    attackable = correct if y_target is None else correct & (labels != y_target)
                    check_attackable(len(labels), int(correct.sum()), int(attackable.sum()), y_target)
                else:
                    cache.query_adversarial(self.black_box, self.trainer.averaged.module, data.train, round_)
            record["rounds_asked"] += 1
        except SystemExit as end:
            message = f"stopped after step {record['step']} of {len(self.plan)}, among the queries of the next round"
            if end.code == Interrupted.code and self.program is None:
                raise Interrupted(message, self.result()) from None
            print(message)
            raise
        finally:
            record["queries"] = self.black_box.queries
            record["validation_queries"] = self.validation_black_box.queries
            self.files.save_state(record["step"])

    def _distil(self, x: Tensor, b: Tensor, round_: int) -> dict[str, float]:
        """One step down H(b(x), f(x)), the cross-entropy between responses `b` (n, k) and the substitute's."""
        self.substitute.train().requires_grad_(True)
        if round_:
            x, b = self.cache.mixed_batch(x, b, self.record["distil"])
        logits = self.substitute(x)
        loss = F.cross_entropy(logits, b)
        self.optimizer.zero_grad()
        self.accelerator.backward(loss)
        self.optimizer.step()
        agreement = (logits.detach().argmax(1) == b.argmax(1)).float().mean()
        values = {"loss distillation": loss.item(), "agreement": agreement.item()}
        training.check_finite(values, self.record["step"] + 1)
        self.schedules["distil"].step()
        return values

    def _attack(self, x: Tensor, y: Tensor) -> dict[str, float]:
        """One step of the generator against the substitute, on images `x` with the black box's predictions `y`."""
        record, trainer = self.record, self.trainer
        self.substitute.eval().requires_grad_(False)
        if self.plan[record["step"] - 1][1] == "distil":
            generators: tuple[Generator, Any] = (trainer.net, trainer.averaged.module)
            for generator in generators:
                generator.load_guide_weights(self.substitute, init=record["attack"] == 0)
        trainer.step = record["step"]
        return trainer.train_step(x, y)

    def validate(self, log: Any, bar: Any) -> None:
        """At the end of a round: the metrics of both networks, which are saved."""
        record = self.record
        round_ = self.plan[record["step"] - 1][0]
        generator: Any = self.trainer.averaged.module
        result = self._validate(generator)
        record["validation_queries"] = self.validation_black_box.queries
        costs = {name: record[name] for name in ("step", "seconds", "queries", "validation_queries")}
        metrics = {"round": round_ + 1, **costs, "asr": None, **result.metrics}
        record["history"].append(metrics)
        if self.progress:
            bar.console.print(
                f"round {round_ + 1}  {metrics['queries']} queries  agreement {metrics['agreement']:.1%}, adversarial "
                f"{metrics['agreement_adversarial']:.1%}  val ASR substitute {percent(metrics['asr'])}, black box "
                f"{metrics['asr_black_box']:.2%}",
                highlight=False,
            )
        if log:
            write_validation(log, result, record["step"], self.data.classes)
            log.add_scalar("queries", record["queries"], record["step"])
        self.files.save(self.substitute, generator, self.threshold, self.program)

    @torch.no_grad()
    def _validate(self, generator: Generator) -> ValidationResult:
        """The averaged generator's metrics on the substitute and on the black box, by which nothing is chosen.

        Adds to those of `Validator`, which are on the substitute: agreement of substitute and black box on clean and
        on adversarial images, and asr_black_box, over the n_black_box images that it classifies correctly. There is no
        asr where the substitute classifies no image correctly.
        """
        substitute, held_out, y_target = self.substitute.eval(), self.data.validation, self.config.y_target
        validation = Validator(
            substitute, held_out, self.accelerator, eval_settings(generator), self.trainer.config.loss
        )
        result = validation(generator, self.trainer.discriminator)
        if not result.metrics["n_correct"]:
            del result.metrics["asr"]
        columns: list[Tensor] = []
        for (x, y), clean in zip(
            held_out.batches(250), self.cache["validation"].argmax(1).split(250), strict=True
        ):  # fmt: skip
            x = x.to(self.accelerator.device)
            x_adv = generator(x)
            predicted, predicted_adv = substitute(x).argmax(1).cpu(), substitute(x_adv).argmax(1).cpu()
            adversarial = self.validation_black_box.query(x_adv).argmax(1).cpu()
            eligible = (clean == y) if y_target is None else (clean == y) & (y != y_target)
            success = adversarial != y if y_target is None else adversarial == y_target
            columns.append(
                torch.stack([predicted == clean, predicted_adv == adversarial, eligible, eligible & success])
            )  # fmt: skip
        agree, agree_adversarial, n, hits = torch.cat(columns, 1).float().sum(1).tolist()
        result.metrics["agreement"] = agree / len(held_out)
        result.metrics["agreement_adversarial"] = agree_adversarial / len(held_out)
        result.metrics["n_black_box"] = n
        result.metrics["asr_black_box"] = hits / max(n, 1)
        return result
