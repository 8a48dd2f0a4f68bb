"""One round of the game of three networks: the discriminator's step, then the generator's; the target only answers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from advgan.models import losses
from advgan.models.generator import Generator

EVASION = 1.0  # usual weight of L_evasion, where the target can reject


@dataclass(frozen=True)
class Game:
    """L = L_adv + alpha L_GAN + beta L_hinge (Xiao et al. 2018, eq. 4) + gamma L_same + evasion L_evasion, with the
    form of each term.

    L_same keeps a generator with noise from giving one answer for all noise; others have none. L_evasion is for a
    target that can reject: it keeps the answers from looking suspicious.
    """

    adversarial: losses.Adversarial = "margin"
    kappa: float = 5.0
    gan: losses.GAN = "least-squares"
    alpha: float = 0.1
    beta: float = 0.05
    c: float = 0.0
    gamma: float = 0.0
    evasion: float = 0.0


@dataclass(frozen=True)
class Asked:
    """What the images of a batch shall be answered with; None where the generator has no choice.

    y_target (n,) int64, -1 for "away from the true class"; eps (n,) radii; z (n, noise).
    """

    y_target: Tensor | None = None
    eps: Tensor | None = None
    z: Tensor | None = None

    def share(self, eps: float) -> Tensor | float:
        """Each image's part of the largest radius `eps`."""
        return 1.0 if self.eps is None else self.eps / eps


def ask(generator: Generator, y: Tensor, rng: np.random.Generator, first: int, total: int, aimed: float) -> Asked:
    """Questions to the images with labels `y`: those at `first` and after it of a batch of `total` over all processes.

    A share `aimed` gets a class drawn from the wrong ones, the rest -1; radii are uniform over the trained range, noise
    is normal. They are drawn for the whole batch, so that any number of processes asks the same.
    """
    mine, device = slice(first, first + len(y)), y.device

    def here(values: np.ndarray) -> Tensor:
        return torch.from_numpy(values[mine]).to(device)

    def drawn(values: np.ndarray) -> Tensor:
        """A draw for each image; where they stand in pairs that differ in noise alone, one for each pair."""
        return here(np.repeat(values[::2], 2)[:total] if generator.noise else values)

    y_target = eps = z = None
    if generator.classes:
        wrong = (y + drawn(rng.integers(1, generator.classes, total))) % generator.classes
        y_target = wrong.where(drawn(rng.random(total)) < aimed, torch.full_like(y, -1))
    elif generator.y_target is not None:
        y_target = torch.full_like(y, generator.y_target)
    if generator.eps_min is not None:
        eps = drawn(rng.uniform(generator.eps_min, generator.threat.eps, total).astype(np.float32))
    if generator.noise:
        z = here(rng.standard_normal((total, generator.noise), np.float32))
    return Asked(y_target, eps, z)


def slices(n: int, parts: int) -> list[slice]:
    """A batch of `n` images cut into `parts` equal micro-batches."""
    size = n // parts
    return [slice(i * size, (i + 1) * size) for i in range(parts)]


def gathering(network: nn.Module, last: bool, accelerator: Accelerator) -> AbstractContextManager[Any]:
    """Around one micro-batch's forward and backward: only after the last one do the processes share their gradients."""
    return nullcontext() if last else accelerator.no_sync(network)


def discriminator_step(
    game: Game,
    discriminator: nn.Module,
    optimizer: Optimizer,
    x: Tensor,
    x_adv: Tensor,
    accelerator: Accelerator,
    *,
    accumulate: int = 1,
) -> dict[str, Tensor]:
    """Clean and (detached) perturbed images in one forward pass; nothing of it reaches the generator.

    With `accumulate` above 1 it takes so many micro-batches in turn, whose gradients add up to the whole batch's.
    """
    optimizer.zero_grad()
    found = []
    for part in slices(len(x), accumulate):
        with gathering(discriminator, part.stop == len(x), accelerator):
            real, fake = discriminator(torch.cat([x[part], x_adv[part]])).chunk(2)
            loss = losses.gan_discriminator(real, fake, form=game.gan).mean()
            accelerator.backward(loss / accumulate)
        found.append({"loss discriminator": loss, "D(real)": real.mean(), "D(fake)": fake.mean()})
    optimizer.step()
    return mean(found)


def generator_step(
    game: Game,
    generator: nn.Module,
    optimizer: Optimizer,
    critic: nn.Module,
    target: Any,
    x: Tensor,
    x_adv: Tensor | Callable[[slice], Tensor],
    y: Tensor,
    accelerator: Accelerator,
    *,
    y_target: Tensor | None = None,
    share: Tensor | float = 1.0,
    clip_norm: float = 10.0,
    accumulate: int = 1,
) -> dict[str, Tensor]:
    """All terms of the generator's loss, in one backward pass.

    y_target, share   what the images were asked for: see `Asked`
    accumulate        above 1 it takes so many micro-batches in turn, and `x_adv` answers a part of the batch when it is
                      asked: so that the activations of one alone are kept
    `critic` is the unwrapped discriminator, frozen for the while: its own gradients stay as they are, and its
    data-parallel wrapper never sees a forward pass without a backward one.
    """
    optimizer.zero_grad()
    found = []
    for part in slices(len(x), accumulate):
        with gathering(generator, part.stop == len(x), accelerator):
            loss, terms = generator_loss(
                *(game, critic, target, x[part], x_adv(part) if callable(x_adv) else x_adv, y[part], accelerator),
                y_target=None if y_target is None else y_target[part],
                share=share[part] if isinstance(share, Tensor) else share,
            )
            accelerator.backward(loss / accumulate)
        found.append(terms)
    length = accelerator.clip_grad_norm_(generator.parameters(), clip_norm)
    optimizer.step()
    return mean(found) | {"gradient norm": torch.as_tensor(length).detach()}


def generator_loss(
    game: Game,
    critic: nn.Module,
    target: Any,
    x: Tensor,
    x_adv: Tensor,
    y: Tensor,
    accelerator: Accelerator,
    *,
    y_target: Tensor | None,
    share: Tensor | float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The whole loss, a mean over the images, and its terms."""
    critic.requires_grad_(False)
    with accelerator.autocast():
        logits, judged = target(x_adv).float(), critic(x_adv).float()
        suspicion = target.suspicion(x_adv).float() if game.evasion else None
    critic.requires_grad_(True)
    terms = {
        "loss adversarial": losses.adversarial(logits, y, y_target, form=game.adversarial, kappa=game.kappa).mean(),
        "loss GAN": losses.gan_generator(judged, form=game.gan).mean(),
        "loss hinge": losses.hinge(x_adv - x, game.c * share).mean(),
    }
    loss = terms["loss adversarial"] + game.alpha * terms["loss GAN"] + game.beta * terms["loss hinge"]
    if game.gamma:
        terms["loss sameness"] = losses.sameness(x_adv - x).mean()
        loss = loss + game.gamma * terms["loss sameness"]
    if suspicion is not None:
        terms["loss evasion"] = losses.evasion(suspicion).mean()
        loss = loss + game.evasion * terms["loss evasion"]
    return loss, terms


def mean(found: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The terms of equal micro-batches as those of the whole batch."""
    return {name: torch.stack([each[name].detach() for each in found]).mean() for name in found[0]}
