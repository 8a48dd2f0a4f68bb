"""Settings of a training from queries."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from advgan.classifiers import OutputKind
from advgan.core.config import Real, check_signs
from advgan.core.errors import InputError
from advgan.core.threat_model import Norm, check_eps
from advgan.models import losses
from advgan.training.flags import LossFlags, NetworkFlags
from advgan.training.options import TrainingConfig

Phase = Literal["distil", "attack"]
ON_LOGITS = ("margin", "cross-entropy", "relativistic")  # losses that need nothing but a classifier's logits


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
    """Pull every image toward this class; None: away from the black box's prediction"""
    batch_size: int = 64
    """Batch size; half of the substitute's are adversarial images, from the second round on"""
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
