"""Accuracy of a classifier in training, on clean images and under attack; the processes share the images."""

from collections.abc import Callable
from functools import partial

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn

from advgan.attacks import fgsm, pgd
from advgan.data import Split

Attack = Callable[..., Tensor]  # (model, x, y, rng=) -> x_adv


def accuracy(net: nn.Module, split: Split, accelerator: Accelerator, attack: Attack | None = None) -> float:
    """Share of `split` that `net` classifies correctly, in eval mode, after `attack` if there is one.

    Random numbers of an attack depend on the image's index in `split` alone.
    """
    net.eval()
    # Each process has its own batch norm statistics; data parallel training would take the first's at the next step.
    broadcast(list(net.buffers()))
    correct = torch.zeros((), dtype=torch.long, device=accelerator.device)
    with torch.no_grad():
        for i, (x, y) in enumerate(split.batches(200)):
            if i % accelerator.num_processes == accelerator.process_index:
                x, y = x.to(accelerator.device), y.to(accelerator.device)
                attacked = x if attack is None else attack(net, x, y, rng=torch.Generator().manual_seed(i))
                correct += (net(attacked).argmax(1) == y).sum()
    return int(accelerator.reduce(correct, reduction="sum").item()) / len(split)


def validate(
    net: nn.Module, split: Split, accelerator: Accelerator, eps: float | None = None, most: int = 500
) -> dict[str, float]:
    """The accuracy of `net` on `split`; with `eps` also that under FGSM and PGD-10, linf, on the first `most`."""
    metrics = {"accuracy": accuracy(net, split, accelerator)}
    if eps is not None:
        subset = split.first(most)
        attacks: dict[str, Attack] = {
            "fgsm": lambda net, x, y, rng: fgsm(net, x, y, eps=eps),
            "pgd": partial(pgd, eps=eps, steps=10),
        }
        metrics |= {f"accuracy_{name}": accuracy(net, subset, accelerator, attack) for name, attack in attacks.items()}
    return metrics
