"""Everything that a step of AdvGAN's training changes: networks, optimizers, the schedule, averaged weights."""

import inspect
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from advgan.classifiers.layers import layer_output
from advgan.core.errors import InputError
from advgan.core.rejection import can_reject
from advgan.defenses import Transforms, adaptive, reseed
from advgan.models import losses
from advgan.models.generator import Generator
from advgan.models.objectives import RN_MEAN, RN_SPREAD, RN_STD, random_normalize
from advgan.training.gan import (
    Batch,
    LossConfig,
    LossFunction,
    LossInputs,
    SourceModel,
    average,
    custom_loss,
    frozen_scores,
    micro_batches,
    perturbed,
    sample_conditions,
    weighted_loss,
)
from advgan.training.options import TrainingConfig
from advgan.training.runtime.loop import check_finite, one_cycle

CURRICULUM = 0.5  # fraction of the steps after which the radius is eps
OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]


def checked_optimizer(made: Any, learned: Sequence[nn.Parameter]) -> Optimizer:
    """The caller's optimizer. Raises InputError for none, for one that has none of the parameters `learned`, and for
    one whose steps call the loss themselves."""
    if not isinstance(made, Optimizer):
        raise InputError(f"optimizer must return a torch.optim.Optimizer, got {type(made).__name__}")
    held = {parameter for group in made.param_groups for parameter in group["params"]}
    if held.isdisjoint(learned):
        raise InputError(f"optimizer must return one of the parameters that it is given, got others: {len(held)}")
    try:
        inspect.signature(made.step).bind()
    except TypeError:
        raise InputError(f"steps of {type(made).__name__} call the loss themselves, expected an Adam or SGD") from None
    return made


def curriculum_factor(start: float | None, done: float) -> float:
    """The radius over eps at a fraction `done` of the steps: from `start` (None: 1) to 1, linearly."""
    return 1 + ((1.0 if start is None else start) - 1) * max(0.0, 1 - done / CURRICULUM)


class GANTrainer:
    """The networks of a training against the frozen classifier `model`, and its steps.

    sources         the classifiers of the loss, with what it needs of them; None: the model
    generator       trained in place; `averaged` holds its averaged weights, which are the ones to use
    discriminator   images (n, c, h, w) -> scores (n,), higher for clean images; None: L_GAN has no weight
    loss            the weighted sum, or a function (`LossFunction`) in its place
    optimizer       parameters -> the generator's optimizer; None: Adam. The schedule scales its learning rates.
    total_steps     length of the schedule
    predicted_labels   whether the model's predictions are the labels, as for a generator that reads the class from them

    `state_dict` is all that a step changes but the random state of torch, which no step uses.
    """

    def __init__(
        self,
        model: nn.Module,
        generator: Generator,
        discriminator: nn.Module | None,
        *,
        config: TrainingConfig,
        total_steps: int,
        accelerator: Accelerator,
        loss: LossFunction | None = None,
        optimizer: OptimizerFactory | None = None,
        sources: Sequence[SourceModel] | None = None,
        predicted_labels: bool = False,
    ) -> None:
        settings, self.predicted_labels = config.optimization, predicted_labels
        self.sources = sources or [SourceModel(model, clean_logits=config.loss.adversarial == "relativistic")]
        self.model, self.config, self.accelerator, self.step = model, config, accelerator, 0
        self.total_steps = total_steps
        self.loss: LossConfig | LossFunction = loss or config.loss
        self.net, self.transforms = generator, Transforms(settings.survive, generator.threat.norm)
        learned = [parameter for parameter in generator.parameters() if parameter.requires_grad]
        optimizer_g = (
            checked_optimizer(optimizer(learned), learned)
            if optimizer
            else Adam(learned, config.learning_rate, betas=(0.5, 0.999))
        )
        self.schedule = LambdaLR(optimizer_g, lambda step: one_cycle(step / total_steps, settings.warmup))
        self.averaged = AveragedModel(generator, accelerator.device, multi_avg_fn=get_ema_multi_avg_fn(settings.ema))
        self.generator, self.optimizer_g = accelerator.prepare(generator, optimizer_g)
        self.discriminator = discriminator  # not wrapped for several processes
        self.prepared_discriminator: Any = None
        self.optimizer_d: Any = None
        if discriminator is not None:
            optimizer_d = Adam(discriminator.parameters(), settings.discriminator_learning_rate, betas=(0.5, 0.999))
            self.prepared_discriminator, self.optimizer_d = accelerator.prepare(discriminator, optimizer_d)

    def train_step(self, x: Tensor, y: Tensor) -> dict[str, float]:
        """One step on this process's part of a batch, images `x` (n, c, h, w) and labels `y` (n,); the terms of the
        losses, means over all processes. Raises NotFiniteError in all processes alike, before the step counts.
        """
        batch = self._batch(x.to(self.accelerator.device), y.to(self.accelerator.device))
        # With several micro-batches each computes its own.
        x_adv = perturbed(self.generator, batch) if self.config.optimization.accumulate == 1 else None
        for source in self.sources:
            reseed(source.model, self.step)
        self.transforms.reseed(int(self._rng(3).integers(2**40)))
        terms = {} if self.discriminator is None else self.discriminator_step(batch, x_adv)
        terms |= self.generator_step(batch, x_adv)
        # One synchronisation, of means: a NaN in any process stops all of them at the same step.
        means = self.accelerator.reduce(torch.stack(list(terms.values())), reduction="mean").tolist()
        values = dict(zip(terms, means, strict=True))
        check_finite(values, self.step + 1, cause=lambda: self._fault_of_target(batch.x))
        self.schedule.step()
        self.averaged.update_parameters(self.net)
        self.step += 1
        return values

    @torch.no_grad()
    def _fault_of_target(self, x: Tensor) -> str | None:
        """What makes a loss infinite beside the learning rate: the target's logits of clean images `x` (n, c, h, w), or
        the caller's own loss."""
        logits = self.model(x)
        if count := int((~torch.isfinite(logits).all(1)).sum()):
            return f"the target returns NaN or infinity for {count} of {len(x)} clean images: leave such images out"
        if not isinstance(self.loss, LossConfig):
            return "the target's logits of the clean images are finite: are the values and gradients of your loss?"
        if self.step == 0:
            return f"before any step: are the target's logits, which reach {logits.abs().max().item():.3g}, too large?"
        return None

    def discriminator_step(self, batch: Batch, x_adv: Tensor | None = None) -> dict[str, Tensor]:
        """Clean and detached adversarial images in one forward pass; no gradient reaches the generator.

        With `accumulate` above 1 the batch is taken in as many micro-batches, whose gradients add up to the whole
        batch's. `x_adv` as in `generator_step`.
        """
        accumulate = self.config.optimization.accumulate
        self.optimizer_d.zero_grad()
        metrics = []
        for part in micro_batches(len(batch.x), accumulate):
            with torch.no_grad():
                images_adv = perturbed(self.generator, batch[part]) if x_adv is None else x_adv[part].detach()
            with self._synchronised(self.prepared_discriminator, part.stop == len(batch.x)):
                real, fake = self.prepared_discriminator(torch.cat([batch.x[part], images_adv])).chunk(2)
                value = losses.discriminator_loss(real, fake, form=self.config.loss.gan).mean()
                self.accelerator.backward(value / accumulate)
            metrics.append({"loss discriminator": value, "D(real)": real.mean(), "D(fake)": fake.mean()})
        self.optimizer_d.step()
        return average(metrics)

    def generator_step(self, batch: Batch, x_adv: Tensor | None = None) -> dict[str, Tensor]:
        """All terms of the generator's loss, of several classifiers the mean of their losses, in one backward pass.

        x_adv   the generator's output for the whole batch, with its graph; None, or more than one micro-batch: computed
                here
        """
        accumulate = self.config.optimization.accumulate
        self.optimizer_g.zero_grad()
        metrics = []
        for part in micro_batches(len(batch.x), accumulate):
            images = batch[part]
            with self._synchronised(self.generator, part.stop == len(batch.x)):
                images_adv = x_adv if x_adv is not None and accumulate == 1 else perturbed(self.generator, images)
                by_source = []
                for source in self.sources:
                    loss, inputs = self.loss, self._loss_inputs(images, images_adv, source)
                    by_source.append(
                        weighted_loss(loss, inputs) if isinstance(loss, LossConfig) else custom_loss(loss, inputs)
                    )
                value = torch.stack([value for value, _ in by_source]).mean()
                self.accelerator.backward(value / accumulate)
            metrics.append(average([terms for _, terms in by_source]))
        clip_norm = self.config.optimization.clip_norm
        gradient_norm = self.accelerator.clip_grad_norm_(self.generator.parameters(), clip_norm)
        self.optimizer_g.step()
        return average(metrics) | {"gradient norm": torch.as_tensor(gradient_norm).detach()}

    def _synchronised(self, network: nn.Module, last: bool) -> AbstractContextManager[Any]:
        """Around the forward and backward pass of a micro-batch: gradients are synchronised on the `last` one only."""
        return nullcontext() if last else self.accelerator.no_sync(network)

    def _loss_inputs(self, batch: Batch, x_adv: Tensor, source: SourceModel) -> LossInputs:
        """One forward pass of classifier and discriminator on the adversarial images of a batch, and one of the
        classifier on the clean images where the loss needs it; the classifier gets x_adv after its transforms."""
        model: Any = adaptive(source.model)
        logits = x_adv.new_zeros(len(x_adv), 0)
        clean_logits = features = clean_features = None
        x_in, clean_in = x_adv, batch.x  # the inputs of the classifier
        if self.transforms and batch.transform is not None:
            x_in = self.transforms.mixed(x_adv, batch.x, batch.transform)
        if batch.normalization is not None:
            x_in, clean_in = (random_normalize(x, *batch.normalization) for x in (x_in, clean_in))
        with self.accelerator.autocast():
            if source.layer is None:
                logits = model(x_in).float()
            else:
                features = layer_output(model, source.layer, x_in)
            with torch.no_grad():
                if source.clean_logits:
                    clean_logits = model(clean_in).float()
                if source.layer is not None:
                    clean_features = layer_output(model, source.layer, clean_in)
            discriminator = self.discriminator  # unwrapped: its data-parallel wrapper has a backward pass for each one
            scores = x_adv.new_zeros(len(x_adv)) if discriminator is None else frozen_scores(discriminator, x_adv)
            rejection = model.rejection_score(x_in).float() if can_reject(model) else None
        return LossInputs(
            batch.x,
            x_adv,
            batch.y,
            batch.conditions.y_target,
            logits,
            scores,
            rejection,
            batch.conditions,
            clean_logits,
            features,
            clean_features,
            source.distributions,
        )

    def _batch(self, x: Tensor, y: Tensor) -> Batch:
        if self.predicted_labels:
            reseed(self.model, self.step)
            with torch.no_grad():
                y = self.model(x).argmax(1)
        if self.net.noise:  # every image twice, with different noise: what L_diversity compares
            x, y = (values[::2].repeat_interleave(2, dim=0)[: len(values)] for values in (x, y))
        first, total = self.accelerator.process_index * len(x), len(x) * self.accelerator.num_processes
        settings = self.config.optimization
        conditions = sample_conditions(
            self.net,
            y,
            self._rng(1),
            first=first,
            total=total,
            targeted_fraction=settings.targeted_fraction,
            label_dropout=settings.label_dropout,
            eps_factor=curriculum_factor(settings.curriculum, self.step / self.total_steps),
        )
        # The transform of each image of the whole batch, by seed and step; of pairs in noise the same.
        drawn = self._rng(2).integers(max(len(self.transforms), 1), size=total)
        drawn = np.repeat(drawn[::2], 2)[:total] if self.net.noise else drawn
        transform = torch.from_numpy(drawn)[first : first + len(x)].to(x.device)
        normalization = None
        if self.config.loss.random_normalization:  # of this step, the same in all processes
            rng = self._rng(4)
            normalization = rng.normal(RN_MEAN, RN_SPREAD), rng.normal(RN_STD, RN_SPREAD)
        return Batch(x, y, conditions, transform, normalization)

    def _rng(self, use: int) -> np.random.Generator:
        """Random numbers of this step for a `use`, the same after a resume."""
        return np.random.default_rng((self.config.run.seed, self.step, use))

    def _parts(self) -> dict[str, Any]:
        parts = {"generator": self.net, "optimizer_g": self.optimizer_g}
        if self.discriminator is not None:
            parts |= {"discriminator": self.discriminator, "optimizer_d": self.optimizer_d}
        return parts | {"schedule": self.schedule, "averaged": self.averaged}

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step} | {name: part.state_dict() for name, part in self._parts().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
