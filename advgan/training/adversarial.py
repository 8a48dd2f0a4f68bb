"""Adversarial training: at every step an inner attack perturbs the batch, against the current classifier.

fgsm        one step of eps from x                                                    (Goodfellow et al. 2015)
fast        one step of 1.25 eps from a random start                                  (Wong et al. 2020)
pgd         many steps from a random start                                            (Madry et al. 2018)
ensemble    as fgsm, on a classifier drawn at every step from frozen ones and the one in training
                                                                                      (Tramer et al. 2018)
generator   one pass of a generator that is trained in turn with the classifier, and a few gradient steps from somewhere
            between its images and noise (ours)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Adam

from advgan.attacks.common import AttackProblem, frozen_eval
from advgan.attacks.gradient_ascent import gradient_ascent
from advgan.attacks.losses import get_loss
from advgan.core.errors import InputError
from advgan.core.threat_model import Threat, check_eps
from advgan.defenses.base import reseed
from advgan.evaluation.compatibility import near_chance
from advgan.models import losses
from advgan.models.generator import Generator

KAPPA = 5.0  # confidence margin of the generator's loss, as in train/advgan.py
Method = Literal["fgsm", "fast", "pgd", "ensemble", "generator"]


class MethodDefaults(NamedTuple):
    """Defaults of a method: the weight of the clean images, gradient steps, and their size as a fraction of eps."""

    alpha: float
    steps: int
    size: float


METHOD_DEFAULTS: dict[Method, MethodDefaults] = {
    "fgsm": MethodDefaults(0.5, 1, 1.0),
    "fast": MethodDefaults(0.0, 1, 1.25),
    "pgd": MethodDefaults(0.0, 40, 2.5 / 40),
    "ensemble": MethodDefaults(0.5, 1, 1.0),
    "generator": MethodDefaults(0.0, 3, 0.5),
}


@dataclass(frozen=True)
class AdversarialConfig:
    """The inner attack of adversarial training (linf), and the weight of the clean images.

    alpha       weight of the clean images: see `adversarial.mixed_loss`
    steps       gradient steps; with a generator they may be 0: its images as they are
    step_size   of one, in pixel units, once eps has risen
    warmup      share of the training in which the radius rises to `eps`. At eps 0.3 training that starts with all of it
                often stays at one class for all images
    members     frozen classifiers of method ensemble
    generator_width, generator_learning_rate   channels, and constant learning rate (Adam), of method generator
    robust_images   images attacked in a validation, at most
    """

    method: Method
    eps: float
    alpha: float
    steps: int
    step_size: float
    warmup: float = 0.0
    members: tuple[nn.Module, ...] = ()
    generator_width: int = 16
    generator_learning_rate: float = 1e-3
    robust_images: int = 500


def adversarial_config(
    method: Method,
    eps: float,
    *,
    alpha: float | None = None,
    steps: int | None = None,
    step_size: float | None = None,
    warmup: float = 0.0,
    **others: Any,
) -> AdversarialConfig:
    """The settings of a method; None: its default (pgd: steps of 2.5 eps / steps). `others`: of `AdversarialConfig`.

    Raises InputError.
    """
    check_eps(eps, "linf")
    defaults = METHOD_DEFAULTS[method]
    alpha = defaults.alpha if alpha is None else alpha
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha, the weight of the clean images, must be in [0, 1], got {alpha}")
    if not 0 <= warmup < 1:
        raise InputError(f"eps_warmup must be in [0, 1), got {warmup}")
    if steps is not None and method not in ("pgd", "generator"):
        raise InputError(f"{method} takes one step, expected attack_steps with pgd or generator, got {steps}")
    steps = defaults.steps if steps is None else steps
    if steps < (method != "generator"):
        raise InputError(f"attack_steps must be at least {int(method != 'generator')} with {method}, got {steps}")
    if step_size is not None and (method in ("fgsm", "ensemble") or not steps):
        raise InputError(f"the step of {method} is not free: expected no attack_step_size, got {step_size}")
    if step_size is None:
        step_size = eps * (2.5 / steps if method == "pgd" else defaults.size)
    if not 0 < step_size < float("inf"):
        raise InputError(f"attack_step_size must be positive, got {step_size}")
    return AdversarialConfig(method, eps, alpha, steps, step_size, warmup, **others)


def mixed_loss(model: Any, x: Tensor, x_adv: Tensor, y: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """alpha J(x, y) + (1 - alpha) J(x_adv, y), J the mean cross-entropy (Goodfellow et al. 2015, section 6), and the
    logits (n, k) of `x_adv`, with alpha 1 those of `x`.

    One forward pass, of both together if both have a weight: data parallel wrappers need one per backward pass.
    """
    if alpha in (0, 1):
        logits = model(x if alpha else x_adv)
        return F.cross_entropy(logits, y), logits
    adversarial, clean = model(torch.cat([x_adv, x])).chunk(2)
    return alpha * F.cross_entropy(clean, y) + (1 - alpha) * F.cross_entropy(adversarial, y), adversarial


class InnerAttack:
    """The inner attack: (x, y, step, progress) -> x_adv, against the current `net`.

    net        the classifier in training, not its data parallel wrapper. Attacks use it in eval mode: no dropout, the
               running statistics of batch norm
    channels   of the images
    The generator of method generator is prepared by `accelerator`, and so part of the saved state. Random numbers of a
    step are drawn for the batch of all processes: the same for any number of them, and after a resume.
    """

    def __init__(
        self, config: AdversarialConfig, net: nn.Module, accelerator: Accelerator, *, seed: int, channels: int
    ) -> None:
        self.config, self.net, self.accelerator, self.seed = config, net, accelerator, seed
        self.sources = [net, *config.members]
        self.generator: Any = None
        if config.method == "generator":
            generator = Generator(channels, config.eps, width=config.generator_width, depth=1)
            optimizer = Adam(generator.parameters(), config.generator_learning_rate, betas=(0.5, 0.999))
            self.generator, self.optimizer = accelerator.prepare(generator, optimizer)

    def __call__(self, x: Tensor, y: Tensor, step: int, progress: float) -> Tensor:
        """Images (n, c, h, w) like `x`, this process's part of the batch of `step`; `progress` is the share done."""
        warmup = self.config.warmup
        fraction = max(min(1.0, progress / warmup) if warmup else 1.0, 1e-3)  # a ball has a radius
        threat = Threat("linf", self.config.eps * fraction)
        rng = np.random.default_rng((self.seed, step, 1))
        model = self.sources[rng.integers(len(self.sources))]
        reseed(model, step)
        initial_images = self.initial_images(x, y, threat, rng)
        if not self.config.steps:
            return initial_images
        step_size = self.config.step_size * fraction
        problem = AttackProblem(model, x, y, None, threat, get_loss("cross-entropy"))
        with self.accelerator.autocast():
            return gradient_ascent(problem, initial_images, steps=self.config.steps, step_size=step_size)

    def initial_images(self, x: Tensor, y: Tensor, threat: Threat, rng: np.random.Generator) -> Tensor:
        """Initial images of the gradient steps: `x`, noise, or a mixture of noise and the generator's images."""
        if self.config.method in ("fgsm", "ensemble"):
            return x
        noisy = x + threat.eps * (2 * self.uniform(x.shape, x, rng) - 1)
        if self.config.method == "pgd":
            return threat.project(noisy, x)
        # Not clipped to the box, as in the code of the authors of fast: from a clipped start one step moves a pixel at
        # 0 to 0 or to eps, nowhere between, and trains on corners alone (mnist-small, PGD-40: 78 % instead of 86).
        if self.config.method == "fast":
            return noisy
        x_adv = self.train_generator_step(x, y, threat.eps)
        # The generator has one perturbation per image, to which the classifier adapts; mixed with noise there are many.
        w = self.uniform((len(x), 1, 1, 1), x, rng) if self.config.steps else 1.0
        return w * x_adv + (1 - w) * noisy

    def uniform(self, shape: Sequence[int], x: Tensor, rng: np.random.Generator) -> Tensor:
        """This process's part (n, ...) of numbers in [0, 1), drawn for all processes."""
        n, first = shape[0], self.accelerator.process_index * shape[0]
        values = rng.random((n * self.accelerator.num_processes, *shape[1:]), np.float32)
        return torch.from_numpy(values[first : first + n]).to(x.device)

    def train_generator_step(self, x: Tensor, y: Tensor, eps: float) -> Tensor:
        """The generator's images within `eps`, and one of its training steps: the margin loss of AdvGAN."""
        with frozen_eval(self.net):
            x_adv: Tensor = self.generator(x, eps=x.new_full((len(x),), eps))
            with self.accelerator.autocast():
                logits = self.net(x_adv).float()
            loss = losses.adversarial_loss(logits, y, kappa=KAPPA).mean()
            self.optimizer.zero_grad()
            self.accelerator.backward(loss)
            self.optimizer.step()
        return x_adv.detach()


def stuck_at_chance(history: Sequence[dict[str, Any]], num_classes: int) -> bool:
    """Whether the accuracy on clean images is near chance in the last two validations: of training that starts at all
    of a large eps usually one class for all images."""
    return len(history) > 1 and all(near_chance(h["accuracy"], num_classes) for h in history[-2:])


def catastrophic_overfitting(history: Sequence[dict[str, Any]]) -> bool:
    """Whether the last validation shows catastrophic overfitting (Wong et al. 2020, section 5.2): most images resist
    FGSM, and PGD leaves less than half of the best accuracy before.
    """
    last, best = history[-1], max(h["accuracy_pgd"] for h in history)
    return bool(last["accuracy_fgsm"] > 0.5 and last["accuracy_pgd"] < best / 2)
