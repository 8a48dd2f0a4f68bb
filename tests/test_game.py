"""The two steps of a round: each trains its own network, and no gradient of one reaches the other."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch.optim import SGD

from advgan.discriminator import Discriminator
from advgan.game import Game, discriminator_step, generator_step
from advgan.generator import Generator


def test_each_step_trains_its_own_network():
    torch.manual_seed(0)
    x, y = torch.rand(6, 1, 12, 12), torch.arange(6) % 3
    generator, discriminator = Generator(width=8, depth=1), Discriminator()
    target = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(144, 3)).requires_grad_(False)
    game, accelerator = Game(kappa=10.0, c=0.1), Accelerator(cpu=True)

    def weights(net):
        return [p.detach().clone() for p in net.parameters()]

    def same(net, before):
        return [torch.equal(p, q) for p, q in zip(net.parameters(), before, strict=True)]

    g, d, t = weights(generator), weights(discriminator), weights(target)
    x_adv = generator(x)
    discriminator_step(game, discriminator, SGD(discriminator.parameters(), 0.1), x, x_adv.detach(), accelerator)
    assert all(same(generator, g))
    assert all(p.grad is None for p in generator.parameters())
    assert not any(same(discriminator, d))
    d, gradients = weights(discriminator), [p.grad.clone() for p in discriminator.parameters()]
    optimizer = SGD(generator.parameters(), 0.1)
    generator_step(game, generator, optimizer, discriminator, target, x, x_adv, y, accelerator)
    assert all(same(discriminator, d))
    assert all(torch.equal(p.grad, q) for p, q in zip(discriminator.parameters(), gradients, strict=True))
    assert all(same(target, t))
    assert not any(same(generator, g))
    assert all(p.requires_grad for p in discriminator.parameters())
