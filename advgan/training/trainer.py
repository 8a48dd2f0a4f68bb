"""Everything that a step of AdvGAN's training changes: networks, optimizers, the schedule, averaged weights."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from advgan.defenses import Transforms, reseed
from advgan.models.generator import Generator
from advgan.models.objectives import RN_MEAN, RN_SPREAD, RN_STD
from advgan.training.gan import (
    Batch,
    LossConfig,
    LossFunction,
    SourceModel,
    discriminator_step,
    generator_step,
    micro_batches,
    perturbed,
    sample_conditions,
)
from advgan.training.options import TrainingConfig
from advgan.training.runtime.loop import check_finite, one_cycle

CURRICULUM = 0.5  # fraction of the steps after which the radius is eps
OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]


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
        optimizer_g = optimizer(learned) if optimizer else Adam(learned, config.learning_rate, betas=(0.5, 0.999))
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
        settings, accumulate = self.config, self.config.optimization.accumulate
        batch = self._batch(x.to(self.accelerator.device), y.to(self.accelerator.device))
        x_adv = perturbed(self.generator, batch) if accumulate == 1 else None  # else each micro-batch computes its own
        for source in self.sources:
            reseed(source.model, self.step)
        self.transforms.reseed(int(np.random.default_rng((self.config.run.seed, self.step, 3)).integers(2**40)))
        terms = {} if self.discriminator is None else self._discriminator_step(batch, x_adv)
        terms |= generator_step(
            self.loss,
            self.generator,
            self.optimizer_g,
            batch,
            x_adv,
            discriminator=self.discriminator,
            sources=self.sources,
            accelerator=self.accelerator,
            clip_norm=settings.optimization.clip_norm,
            accumulate=accumulate,
            transforms=self.transforms,
        )
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
        """What makes a loss infinite beside the learning rate: the target's logits of clean images `x` (n, c, h, w)."""
        logits = self.model(x)
        if count := int((~torch.isfinite(logits).all(1)).sum()):
            return f"the target returns NaN or infinity for {count} of {len(x)} clean images: leave such images out"
        if self.step == 0:
            return f"before any step: are the target's logits, which reach {logits.abs().max().item():.3g}, too large?"
        return None

    def _discriminator_step(self, batch: Batch, x_adv: Tensor | None) -> dict[str, Tensor]:
        accumulate = self.config.optimization.accumulate
        if x_adv is None:
            with torch.no_grad():
                parts = micro_batches(len(batch.x), accumulate)
                x_adv = torch.cat([perturbed(self.generator, batch[part]) for part in parts])
        return discriminator_step(
            self.config.loss,
            self.prepared_discriminator,
            self.optimizer_d,
            batch.x,
            x_adv.detach(),
            self.accelerator,
            accumulate=accumulate,
        )

    def _batch(self, x: Tensor, y: Tensor) -> Batch:
        if self.predicted_labels:
            reseed(self.model, self.step)
            with torch.no_grad():
                y = self.model(x).argmax(1)
        if self.net.noise:  # every image twice, with different noise: what L_diversity compares
            x, y = (values[::2].repeat_interleave(2, dim=0)[: len(values)] for values in (x, y))
        rng = np.random.default_rng((self.config.run.seed, self.step, 1))  # the same for a step after a resume
        first, total = self.accelerator.process_index * len(x), len(x) * self.accelerator.num_processes
        settings = self.config.optimization
        conditions = sample_conditions(
            self.net,
            y,
            rng,
            first=first,
            total=total,
            targeted_fraction=settings.targeted_fraction,
            label_dropout=settings.label_dropout,
            eps_factor=curriculum_factor(settings.curriculum, self.step / self.total_steps),
        )
        transform = self._drawn_transforms(total)[first : first + len(x)].to(x.device)
        return Batch(x, y, conditions, transform, self._normalization())

    def _drawn_transforms(self, total: int) -> Tensor:
        """The transform of each image of a whole batch (total,), by seed and step; of pairs in noise the same."""
        rng = np.random.default_rng((self.config.run.seed, self.step, 2))
        drawn = rng.integers(max(len(self.transforms), 1), size=total)
        return torch.from_numpy(np.repeat(drawn[::2], 2)[:total] if self.net.noise else drawn)

    def _normalization(self) -> tuple[float, float] | None:
        """Mean and deviation of this step's random normalisation, the same in all processes."""
        if not self.config.loss.random_normalization:
            return None
        rng = np.random.default_rng((self.config.run.seed, self.step, 4))
        return rng.normal(RN_MEAN, RN_SPREAD), rng.normal(RN_STD, RN_SPREAD)

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
