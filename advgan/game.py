"""One round of the game of three networks: the discriminator's step, then the generator's; the target only answers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from advgan import losses


@dataclass(frozen=True)
class Game:
    """L = L_adv + alpha L_GAN + beta L_hinge (Xiao et al. 2018, eq. 4), with the form of each term."""

    adversarial: losses.Adversarial = "margin"
    kappa: float = 5.0
    gan: losses.GAN = "least-squares"
    alpha: float = 0.1
    beta: float = 0.05
    c: float = 0.0


def discriminator_step(
    game: Game, discriminator: nn.Module, optimizer: Optimizer, x: Tensor, x_adv: Tensor, accelerator: Accelerator
) -> dict[str, Tensor]:
    """Clean and (detached) perturbed images in one forward pass; nothing of it reaches the generator."""
    real, fake = discriminator(torch.cat([x, x_adv])).chunk(2)
    loss = losses.gan_discriminator(real, fake, form=game.gan).mean()
    optimizer.zero_grad()
    accelerator.backward(loss)
    optimizer.step()
    return {"loss discriminator": loss.detach(), "D(real)": real.detach().mean(), "D(fake)": fake.detach().mean()}


def generator_step(
    game: Game,
    generator: nn.Module,
    optimizer: Optimizer,
    critic: nn.Module,
    target: nn.Module,
    x: Tensor,
    x_adv: Tensor,
    y: Tensor,
    accelerator: Accelerator,
    *,
    y_target: Tensor | None = None,
    clip_norm: float = 10.0,
) -> dict[str, Tensor]:
    """All terms of the generator's loss, in one backward pass.

    `critic` is the unwrapped discriminator, frozen for the while: its own gradients stay as they are, and its
    data-parallel wrapper never sees a forward pass without a backward one.
    """
    critic.requires_grad_(False)
    with accelerator.autocast():
        logits, judged = target(x_adv).float(), critic(x_adv).float()
    critic.requires_grad_(True)
    adversarial = losses.adversarial(logits, y, y_target, form=game.adversarial, kappa=game.kappa).mean()
    gan = losses.gan_generator(judged, form=game.gan).mean()
    hinge = losses.hinge(x_adv - x, game.c).mean()
    optimizer.zero_grad()
    accelerator.backward(adversarial + game.alpha * gan + game.beta * hinge)
    length = accelerator.clip_grad_norm_(generator.parameters(), clip_norm)
    optimizer.step()
    parts = {"loss adversarial": adversarial, "loss GAN": gan, "loss hinge": hinge, "gradient norm": length}
    return {name: torch.as_tensor(value).detach() for name, value in parts.items()}
