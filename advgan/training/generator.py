"""Training a generator against a classifier in memory: `advgan.fit`."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn

from advgan.classifiers import fingerprint
from advgan.classifiers.checkpoint import layers_digest
from advgan.core.errors import InputError, NotFiniteError, note
from advgan.core.files import optional_folder
from advgan.core.inputs import plain
from advgan.core.json_files import as_json
from advgan.core.rejection import can_reject
from advgan.core.threat_model import Norm, Threat, check_class, check_eps
from advgan.data import Split, Stream, steps_per_epoch, training_batches
from advgan.defenses import unwrap
from advgan.models import losses
from advgan.models.discriminator import Discriminator
from advgan.models.generator import Generator
from advgan.training.build import (
    Modules,
    batch_size_of,
    build_generator,
    check_network_output,
    check_settings_of_own,
    checked_generator,
    initialise,
    own_architecture,
    settings_of_init,
)
from advgan.training.datasets import Images, build_sources, checked_ensemble, prepare_images
from advgan.training.defaults import size_defaults
from advgan.training.display import Display, write_step
from advgan.training.frozen import frozen, training_context
from advgan.training.gan import LossConfig, LossFunction, SourceModel
from advgan.training.options import FLAGS, GeneratorConfig, OptimizationConfig, RunConfig, TrainingConfig
from advgan.training.run_directory import Place
from advgan.training.run_files import Description, GeneratorFiles, describe
from advgan.training.runtime.checkpoint import LAYERS, TrainState
from advgan.training.runtime.distributed import in_any_process
from advgan.training.runtime.loop import GracefulShutdown, check_finite
from advgan.training.runtime.memory import compile_models, enable_activation_checkpointing
from advgan.training.trainer import GANTrainer, OptimizerFactory
from advgan.training.trial import FGSMComparison, chosen_settings, compare_with_fgsm, is_architecture_open
from advgan.training.validation import Validator, eval_settings, seconds_per_pass, write_validation

Callback = Callable[[int, Mapping[str, float]], Any]  # (steps done, metrics) -> True: stop


def fit(
    model: nn.Module | Callable[[Tensor], Tensor] | Sequence[nn.Module],
    train: Any,
    validation: Any = None,
    *,
    eps: float,
    norm: Norm = "linf",
    y_target: int | None = None,
    generator: Generator | GeneratorConfig | nn.Module | None = None,
    guide: nn.Module | bool | None = None,
    discriminator: nn.Module | None = None,
    loss: LossConfig | LossFunction | None = None,
    optimization: OptimizationConfig | None = None,
    run: RunConfig | None = None,
    optimizer: OptimizerFactory | None = None,
    callbacks: Sequence[Callback] = (),
    accelerator: Accelerator | None = None,
    output_dir: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    init: Generator | str | Path | None = None,
    description: Description | None = None,
    **settings: Any,
) -> Generator:
    """Train a generator of adversarial images against a classifier (AdvGAN, Xiao et al. 2018, arXiv:1801.02610).

        generator = advgan.fit(model, (x, y), eps=8/255)
        x_adv = generator.perturb(x_test, y_test)  # labels, or the predictions of the model

    Args:
        model: images (n, c, h, w) float32 in [0, 1] -> logits (n, k), normalisation inside: a module, or a function
            that passes gradients. It is used in eval mode, and left as it was. Or a list of classifiers: the loss is
            the mean over them, and labels and validation are those of the first.
        train: images, or images and labels: a pair (x, y) or x alone, tensors or arrays, uint8 in 0..255 or float in
            [0, 1]; a Dataset, a DataLoader; a folder of class folders or of images. Without labels the predictions on
            the clean images are the labels, and `asr` is the fooling rate.
        validation: as `train`; None: a tenth of `train`, a random sample stratified by class.
        eps, norm: the ball: the largest perturbation, in units of pixels in [0, 1].
        y_target: the class to reach; None: any wrong one.
        generator: settings of the network (`GeneratorConfig`); your network, 2 x - 1 -> an unbounded perturbation
            (see `advgan.Generator`); or your Generator, which is trained in place.
        guide: a classifier whose logits condition the generator, which keeps a frozen copy; True: the model itself.
        discriminator: your discriminator, images -> scores (n,), higher for clean images. With alpha 0 there is none.
        loss: weights and forms of the loss terms (`LossConfig`); or your loss, a function of `LossInputs`.
        optimization, run: settings of the steps (`OptimizationConfig`) and of the run (`RunConfig`).
        optimizer: a function, parameters -> the generator's optimizer; the schedule scales its learning rates.
        callbacks: functions (steps done, metrics). They are called before the first step, without metrics, and after
            each step, with "validation/..." among the metrics if there was a validation. If one returns True, the
            training ends.
        accelerator: an existing Accelerator; None: a new one, for the launched processes or for this one.
        output_dir: where the best generator, the state for `resume` and TensorBoard's logs are kept; None: nowhere.
        resume, overwrite: continue the run in `output_dir`, with the same settings and images; or replace it.
        init: initial weights: a Generator, or where one was saved; the network is its own where no setting differs.
        description: names that the programs write into the files of `output_dir`.
        settings: single settings by name: width=64, epochs=5, seed=1. All are in `help` of GeneratorConfig, LossConfig,
            OptimizationConfig and RunConfig in `advgan.training`.

    Returns:
        The generator with the averaged weights that were best on validation, in eval mode.

    Raises:
        InputError: before any training, for what cannot work.
        Interrupted: after SIGINT (Ctrl-C): a KeyboardInterrupt with the best generator so far (`trained`).
        NotFiniteError: the loss became NaN or infinite.
    """
    if not isinstance(callbacks, Sequence) or not all(map(callable, callbacks)):
        raise InputError(f"callbacks must be a list of functions (step, metrics), got {type(callbacks).__name__}")
    config, custom_loss = merged_config(generator, loss, optimization, run, settings)
    names = {} if description is None else FLAGS  # of a program
    config.check(names)
    config.note_unused(names)
    y_target = plain(y_target)
    config.check_objective(y_target)
    threat = Threat(norm=norm, eps=check_eps(eps, norm), targeted=y_target is not None)
    allowed_guides = () if description is None else (str(description.settings["target"]),)
    modules = Modules(generator, discriminator, guide, custom_loss, optimizer, init, allowed_guides)
    place = Place(optional_folder(output_dir, "output_dir"), resume, overwrite)
    context = training_context(place, accelerator, threads=config.run.threads, bf16=config.run.bf16)
    with context as accelerator, ExitStack() as stack:
        models = list(model) if isinstance(model, (list, tuple)) else [model]
        if not models:
            raise InputError("expected a model, or several, got an empty list")
        first, *others = [stack.enter_context(frozen(one, accelerator.device)) for one in models]
        images = prepare_images(first, train, validation, config.run, accelerator)
        if config.run.checkpoint_target:
            enable_activation_checkpointing(unwrap(images.model))
        training = partial(GeneratorTraining, images, threat, y_target, accelerator=accelerator, others=others)
        chosen: dict[str, Any] = {}
        saved = place.saved_settings()
        modules = replace(modules, initial=modules.load_init() if saved is None else None)
        from_init = modules.init is not None or bool(saved and saved.get("init_sha256"))
        if from_init and not isinstance(modules.generator, nn.Module):
            chosen = settings_of_init(config.generator, modules, saved)
        elif is_architecture_open(config, modules, images, others):
            chosen = chosen_settings(
                lambda trial_config: training(trial_config, modules, Place()).trial(),
                *(config, images, place, accelerator),
                targeted=threat.targeted,
            )
            chosen |= {"guide": True} if chosen.get("architecture") == "unrolled" else {}
        if chosen and description is not None:
            recorded = {name: as_json(value) for name, value in chosen.items()}
            description = replace(description, settings={**description.settings, **recorded})
        if chosen.pop("guide", False):
            modules = replace(modules, guide=True, guide_of_init=from_init)
        config = config.replace(chosen)
        return training(config, modules, place, description=description).run(callbacks)


def merged_config(
    generator: Any, loss: Any, optimization: Any, run: Any, settings: Mapping[str, Any]
) -> tuple[TrainingConfig, LossFunction | None]:
    """The four groups of settings with single ones replaced, and a loss function in the place of the weighted sum."""
    groups: dict[str, Any] = {"optimization": optimization, "run": run}
    groups |= {"generator": generator} if isinstance(generator, GeneratorConfig) else {}
    groups |= {"loss": loss} if isinstance(loss, LossConfig) else {}
    types = {"optimization": OptimizationConfig, "run": RunConfig}
    for name, group in groups.items():
        if group is not None and not isinstance(group, types.get(name, object)):
            raise InputError(f"{name} must be an {types[name].__name__}, got {type(group).__name__}")
    config = TrainingConfig(**{name: group for name, group in groups.items() if group is not None})
    if loss is not None and not isinstance(loss, LossConfig) and not callable(loss):
        raise InputError(f"loss must be a LossConfig or a function of LossInputs, got {type(loss).__name__}")
    return config.replace(settings), loss if callable(loss) else None


class GeneratorTraining:
    """A training that is ready: everything is checked and built, nothing is written; `run` takes its steps."""

    def __init__(
        self,
        images: Images,
        threat: Threat,
        y_target: int | None,
        config: TrainingConfig,
        modules: Modules,
        place: Place,
        *,
        accelerator: Accelerator,
        description: Description | None = None,
        others: Sequence[nn.Module] = (),
    ) -> None:
        self.images, self.accelerator, self.modules = images, accelerator, modules
        self.threat, self.y_target = threat, y_target
        description = description or describe(config, threat, y_target, images, modules)
        self.classes = description.classes or images.classes
        self.config, sample = self._resolved(config)
        if self.config.run.seed_weights:
            set_seed(self.config.run.seed)
        generator, discriminator, digests = self._networks(place.resume)
        dropout = self.config.optimization.label_dropout
        if not generator.labels and dropout != OptimizationConfig.label_dropout:
            note(f"label_dropout does nothing for a generator without labels as an input, got {dropout}")
        sources, layers = self._sources(others)
        models = [images.model, *(source.model for source in sources[1:])]
        digests |= {"ensemble_sha256": [fingerprint(model) for model in models[1:]], LAYERS: layers_digest(*models)}
        digests |= {"feature_layers": layers} if layers else {}
        self.trainer = GANTrainer(
            images.model,
            generator,
            discriminator,
            config=self.config,
            total_steps=self.total,
            accelerator=accelerator,
            loss=modules.loss,
            optimizer=modules.optimizer,
            sources=sources,
            # The class that such a generator leaves is the one that its guide predicts. Where that is not the label,
            # both losses are at odds: against a classifier of 45 % accuracy it had half of FGSM's success.
            predicted_labels=generator.guide is not None and not generator.labels and y_target is None,
        )
        self.validation = Validator(
            images.model,
            images.validation,
            accelerator,
            eval_settings(generator),
            self.config.loss,
            seed=self.config.run.seed,
            transforms=self.trainer.transforms,
        )
        self.validation.check_attackable()
        self._open_files(place, description, digests)
        if self.config.run.compile:
            micro_batch = self.batch_size // (accelerator.num_processes * self.config.optimization.accumulate)
            compile_models(generator, unwrap(images.model), sample=sample[:micro_batch].to(accelerator.device))

    def _resolved(self, config: TrainingConfig) -> tuple[TrainingConfig, Tensor]:
        """The settings without None, with the hinge's threshold, and some images (n, c, h, w); sets the batch size and
        the number of steps. Raises InputError for settings that cannot work, or that have no effect."""
        images, given, modules = self.images, self.modules.generator, self.modules
        own, shape = given if isinstance(given, Generator) else None, images.train.image_shape
        if isinstance(given, nn.Module):
            check_settings_of_own(given, config.generator)
        if own is not None and modules.guide not in (None, False):
            raise InputError("a generator of your own has its guide inside, or none: expected no guide beside it")
        if modules.optimizer is not None and config.optimization.learning_rate is not None:
            rate = config.optimization.learning_rate
            raise InputError(f"learning_rate does nothing beside an optimizer, which has its own, got {rate}")
        config = config.resolved(
            shape,
            own_architecture(given),
            classes=len(images.classes),
            targeted=self.threat.targeted or bool(own and own.classes),
            one_eps=own is None or own.eps_min is None,
        )
        self._check(config, own)
        defaults, processes = size_defaults(shape, config.generator.architecture), self.accelerator.num_processes
        self.batch_size = batch_size_of(config, images.train, processes)
        config.check_batch_size(self.batch_size, processes)
        self.total = config.optimization.total_steps(lambda: steps_per_epoch(images.train, self.batch_size), defaults)
        n = 8 * defaults.batch_size  # 512 small images
        sample, _ = next(images.train.first(n).batches(n))
        if config.loss.hinge_threshold is None:
            threshold = losses.default_hinge_threshold(sample, self.threat.norm, self.threat.eps)
            config = config.replace({"hinge_threshold": threshold})
        return config, sample

    def _check(self, config: TrainingConfig, own: Generator | None) -> None:
        """Raise InputError for an unknown target class, and for settings without effect beside the caller's modules
        (`own` generator) or against this model."""
        modules = self.modules
        check_class(self.y_target, len(self.images.classes))
        if modules.discriminator is not None and modules.loss is None and not config.loss.alpha:
            raise InputError(f"discriminator does nothing with alpha 0, got {type(modules.discriminator).__name__}")
        if (value := config.loss.detector_weight) is not None and not can_reject(self.images.model):
            raise InputError(f"{FLAGS['detector_weight']} does nothing without a target that can reject, got {value}")
        curriculum = config.optimization.curriculum
        if curriculum is not None and curriculum > 1 and own is not None and own.eps_min is not None:
            got = f"{curriculum} and eps_min {own.eps_min}"
            raise InputError(f"curriculum does nothing without a single eps, got {got}")

    def _networks(self, resume: bool) -> tuple[Generator, nn.Module | None, dict[str, Any]]:
        """Generator and discriminator with their initial weights, and the SHA-256 of the networks they depend on. There
        is no discriminator where the loss has no use for it."""
        modules, model, given = self.modules, self.images.model, self.modules.generator
        given_guide = modules.guide if isinstance(modules.guide, nn.Module) else None
        shape = self.images.train.image_shape
        if isinstance(given, Generator):
            net = checked_generator(given, self.threat, self.y_target, shape[0])
        else:
            net = build_generator(
                self.config.generator,
                self.threat,
                self.y_target,
                image_shape=shape,
                num_classes=len(self.images.classes),
                guide=unwrap(model) if modules.guide is True else given_guide,
                network=given if isinstance(given, nn.Module) else None,
                images=None if isinstance(self.images.train, Stream) else len(self.images.train),
            )
        if net.custom:
            check_network_output(net, shape)
        discriminator = modules.discriminator
        if discriminator is None and (modules.loss or self.config.loss.alpha):
            discriminator = Discriminator(shape[0], self.config.generator.architecture or "patch")
        digests: dict[str, Any] = {"target_sha256": fingerprint(model)}
        digests["guide_sha256"] = None if given_guide is None else fingerprint(given_guide)
        if modules.init is not None and modules.initial is not None and not resume:
            digests["init_sha256"] = initialise(net, discriminator, modules.initial, modules.init)
        return net, discriminator, digests

    def _sources(self, others: Sequence[nn.Module]) -> tuple[list[SourceModel], list[str]]:
        """The classifiers of the loss, and the layers of their features. The caller's own loss gets logits alone."""
        images, device = self.images, self.accelerator.device
        x, y = next(images.train.first(8).batches(8))
        models = [images.model, *checked_ensemble(images.model, others, x.to(device), y.to(device))]
        if self.modules.loss is not None:
            return [SourceModel(model) for model in models], []
        return build_sources(models, self.config, images.train, self.y_target, device)

    def _open_files(self, place: Place, description: Description, digests: Mapping[str, Any]) -> None:
        """The record and the files of the run, as they were where it is resumed."""
        self.record = TrainState(
            step=0, seconds=0.0, best=-1.0, history=[], target_pass_seconds=[], shown_warnings=[], extensions=[]
        )
        self.record["settings"] = {**description.settings, **digests}
        self.files = GeneratorFiles(place, self.accelerator, self.record, self.total, "advgan")
        self.files.objective = self.config.objective
        self.files.about = {
            "program": description.program,
            "images": description.images,
            "labelled": self.images.labelled,
            "batch_size": self.batch_size,
        }
        schedule = self.trainer.schedule
        splits: list[Split] = [self.images.train, self.images.validation]
        splits = splits if self.images.labelled else [split.unlabelled() for split in splits]
        self.files.open_state(schedule, self.trainer.averaged, images=splits, schedules=(schedule,))
        self.trainer.step = self.record["step"]
        self.best = self.files.saved_weights(self.trainer.net)

    def run(self, callbacks: Sequence[Callback] = ()) -> Generator:
        """Take the steps that are left; the generator with its best weights. Raises as `fit`."""
        batches = self._batches()
        self.files.clear()  # all checks have passed: files of an earlier run are deleted
        self._call(callbacks, {})
        display = Display(self)
        with GracefulShutdown() as stop, self.files.open_log() as log, display.bar:
            try:
                with self.files.naming_checkpoint():
                    for x, y in batches:
                        if self._step(x, y, callbacks, stop, log, display):
                            break  # every process stops at this step
                    else:
                        if display.shown:
                            display.compared(self._compare_with_fgsm(), self.config.generator.architecture)
            except NotFiniteError as error:
                error.trained = None if self.best is None else self._generator()
                raise
        self.files.finish()
        generator = self._generator()
        self.files.raise_if_stopped(stop.code, generator)
        return generator

    def trial(self) -> FGSMComparison | None:
        """Take all steps, without validations, callbacks and files; the generator beside FGSM."""
        display = Display(self, title="trial")
        with display.bar:
            for x, y in self._batches():
                self._train(x, y, display)
        return self._compare_with_fgsm()

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        augment = self.config.optimization.augment
        return training_batches(
            self.images.train,
            self.batch_size,
            seed=self.config.run.seed,
            first=self.trainer.step,
            last=self.total,
            rank=self.accelerator.process_index,
            world=self.accelerator.num_processes,
            workers=self.config.run.workers,
            random_crops=augment == "crop-flip" or (augment is None and self.images.train.photos is not None),
        )

    def _compare_with_fgsm(self) -> FGSMComparison | None:
        comparison = compare_with_fgsm(
            self._generator(), self.images.model, self.images.validation, self.accelerator.device
        )
        return comparison and replace(comparison, score=self.images.score)

    def _train(self, x: Tensor, y: Tensor, display: Display) -> dict[str, float]:
        """One step, shown; the terms of its loss."""
        began = time.perf_counter()
        terms = self.trainer.train_step(x, y)
        self.record["step"] = self.trainer.step
        self.record["seconds"] += time.perf_counter() - began
        display.update(terms)
        return terms

    def _step(
        self, x: Tensor, y: Tensor, callbacks: Sequence[Callback], stop: GracefulShutdown, log: Any, display: Display
    ) -> bool:
        """One step, and what follows it: log, validation, saved state; whether to stop."""
        terms, step = self._train(x, y, display), self.trainer.step
        if log and (step % 10 == 0 or step == self.total):
            write_step(log, terms, self.trainer, self.config)
        interrupted = stop.requested(self.accelerator)
        metrics = {f"train/{name}": value for name, value in terms.items()}
        due = step % self.config.run.validate_every == 0 or step == self.total
        if due:
            metrics |= self._validate(x, y, log, display)
        ended = self._call(callbacks, metrics)
        if ended and not due:
            self._validate(x, y, log, display)
        if due or ended or interrupted:
            self.files.save_state(step)
        return ended or interrupted

    def _validate(self, x: Tensor, y: Tensor, log: Any, display: Display) -> dict[str, float]:
        """Validate the averaged weights, and keep them if they are the best so far (of equals, the later)."""
        trainer, record, device = self.trainer, self.record, self.accelerator.device
        x, y = x.to(device), y.to(device)
        record["target_pass_seconds"] += [seconds_per_pass(trainer.model, x, y) for _ in range(2)]
        result = self.validation(trainer.averaged.module, trainer.discriminator)
        check_finite(result.metrics, trainer.step)
        record["history"].append({"step": record["step"], "seconds": record["seconds"], **result.metrics})
        better = result.score >= record["best"]
        record["best"] = max(record["best"], result.score)
        display.validated(result)
        if log:
            write_validation(log, result, record["step"], self.classes)
        if better:
            self.best = {name: value.detach().clone() for name, value in trainer.averaged.module.state_dict().items()}
        averaged: Any = trainer.averaged.module
        self.files.save(averaged, trainer.discriminator, self.validation.threshold, better=better)
        return {f"validation/{name}": value for name, value in result.metrics.items()}

    def _call(self, callbacks: Sequence[Callback], metrics: dict[str, float]) -> bool:
        """Call all; whether one of them, in any process, ends the training."""
        if not callbacks:
            return False
        ended = [plain(callback(self.trainer.step, metrics)) is True for callback in callbacks]
        return in_any_process(self.accelerator, any(ended))

    def _generator(self) -> Generator:
        """The generator with its best weights; before the first validation with the averaged ones."""
        net = self.trainer.net
        net.load_state_dict(self.trainer.averaged.module.state_dict() if self.best is None else self.best)
        return net.eval()
