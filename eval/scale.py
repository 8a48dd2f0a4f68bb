"""What a training step costs: memory, operations, bytes sent; and what follows for many GPUs. Counted, not timed.

python eval/scale.py                                     ResNet-50 at 224, 256 images a GPU
python eval/scale.py --model convnext_tiny --batch-size 64
python eval/scale.py --teraflops 100 --gigabytes 25      what your GPU sustains, and your network

Activations are counted on tensors without data, operations on one image, so that it runs on any machine. Only the
assumptions (sustained operations, bandwidth, latency) are not from here: measure yours.
"""

from __future__ import annotations

import sys
from pathlib import Path

# A program run by its path has its own folder first on the path; the library is above it.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from advgan.shutdown import exit_on_signals

if __name__ == "__main__":
    exit_on_signals()  # also while the rest is imported

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torchvision
from accelerate import Accelerator
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.optim import SGD
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import get_model, list_models

from advgan.discriminator import Discriminator
from advgan.errors import InputError
from advgan.game import Game, discriminator_step, generator_step
from advgan.generator import Architecture, Generator
from advgan.settings import Real, run
from advgan.training import checkpointed

GIB, GIGA, TERA = 2**30, 1e9, 1e12
COLLECTIVES = 4  # a step: gradients of the discriminator, of the generator, the losses, the question whether to stop


@dataclass(frozen=True)
class Settings:
    """The step, the machine that is assumed, and the training whose price is asked."""

    recipe: Path | None = None
    """YAML file of settings that become the defaults; flags override it"""
    model: str = "resnet50"
    """The target: a classifier of torchvision, with random weights"""
    image_size: int = 224
    """Pixels a side"""
    batch_size: int = 256
    """Images a step on one GPU"""
    architecture: Architecture = "patch"
    """The generator's"""
    teraflops: Real = 50.0
    """Assumed: 10^12 operations a second that one GPU sustains in such a training, in bfloat16"""
    gigabytes: Real = 10.0
    """Assumed: 10^9 bytes a second between two neighbours of the ring"""
    latency: Real = 20.0
    """Assumed: microseconds from one to the next"""
    gpus: tuple[int, ...] = (1, 8, 64)
    """How many GPUs"""
    images: int = 1_281_167
    """Training images (ImageNet's)"""
    epochs: int = 5
    """Passes over them"""


def main(settings: Settings) -> None:
    for name in ("image_size", "batch_size", "teraflops", "gigabytes", "latency", "gpus", "images", "epochs"):
        value = getattr(settings, name)
        if not all(each > 0 for each in (value if isinstance(value, tuple) else (value,))):
            raise InputError(f"{name} must be positive, got {value}")
    if settings.model not in list_models(module=torchvision.models):
        raise InputError(f"unknown model {settings.model!r}, expected a classifier of torchvision like resnet50")
    size, n = settings.image_size, settings.batch_size
    print(f"## Memory: activations kept for the gradient, {n} images of {size} x {size}, GiB\n")
    print("| generator and target | float32 | bfloat16 |\n|---|---|---|")
    for words, whole in (("all kept", True), ("--checkpoint-target", False)):
        found = [step_memory(settings, again=not whole, bf16=bf16) * n / GIB for bf16 in (False, True)]
        print(f"| {words} | {found[0]:.1f} | {found[1]:.1f} |")
    operations = step_operations(settings)
    print("\n## Operations of a step, 10^9 an image\n\n| " + " | ".join(operations) + " |")
    print("|---" * len(operations) + "|\n| " + " | ".join(f"{v / GIGA:.2f}" for v in operations.values()) + " |")
    print("\n## Bytes that each process puts into the all-reduces of a step\n")
    print("| generator | parameters | gradients | discriminator's | in all, MB |\n|---|---|---|---|---|")
    shown: tuple[Architecture, ...] = ("patch", "unet")
    for name in shown:
        sent = gradients(name)
        count = sent[0] // 4
        print(f"| {name} | {count:,} | {sent[0]:,} | {sent[1]:,} | {sum(sent) / 1e6:.2f} |")
    at_work = operations["in all"] * n / (settings.teraflops * TERA)
    print(f"\n## Efficiency: {n} images a GPU, a step computes {at_work * 1e3:.0f} ms\n")
    print(
        "| GPUs | sends, ms | efficiency | images/s | hours for the training | GPU-hours |\n|---|---|---|---|---|---|"
    )
    for count in settings.gpus:
        sends = transfer(count, sum(gradients(settings.architecture)), settings)
        rate = count * n / (at_work + sends)
        hours = settings.images * settings.epochs / rate / 3600
        share = at_work / (at_work + sends)
        print(f"| {count} | {sends * 1e3:.2f} | {share:.1%} | {rate:,.0f} | {hours:.2f} | {hours * count:.1f} |")


def transfer(count: int, size: int, settings: Settings) -> float:
    """Seconds of a step's all-reduces of `size` bytes in a ring of `count`: 2(N-1)/N of them over the slowest link, and
    2(N-1) hops for each collective. Nothing is assumed to overlap with the computation."""
    bandwidth = 2 * (count - 1) / count * size / (settings.gigabytes * GIGA)
    return bandwidth + COLLECTIVES * 2 * (count - 1) * settings.latency * 1e-6


def gradients(architecture: Architecture) -> tuple[int, int]:
    """Bytes of the gradients of generator and discriminator for RGB images. The target is frozen: it sends none."""
    nets = Generator(3, architecture=architecture), Discriminator(3, architecture)
    sizes = [sum(4 * p.numel() for p in net.parameters() if p.requires_grad) for net in nets]
    return sizes[0], sizes[1]


def networks(settings: Settings) -> tuple[Generator, Discriminator, nn.Module]:
    target = get_model(settings.model, weights=None).eval().requires_grad_(False)
    return Generator(3, 8 / 255, architecture=settings.architecture), Discriminator(3, settings.architecture), target


def step_memory(settings: Settings, *, again: bool, bf16: bool) -> float:
    """Bytes an image that the generator's step keeps between forward and backward, counted on tensors without data.

    With `again` the blocks' activations are computed a second time (`checkpointed`): then it is what is kept, and the
    largest block while it is at work.
    """
    generator, critic, target = networks(settings)
    shapes: dict[nn.Module, tuple[int, ...]] = {}
    blocks = checkpointed(target) if again else []
    for block in blocks:
        block.register_forward_pre_hook(lambda block, given: shapes.update({block: tuple(given[0].shape[1:])}))

    def step(x: Tensor) -> list[Tensor]:
        x_adv = generator(x)
        return [target(x_adv), critic(x_adv)]

    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        kept = per_image(step, (3, settings.image_size, settings.image_size))
        working = [per_image(type(block).forward.__get__(block), shapes[block], gradient=True) for block in blocks]
    return kept + max(working, default=0.0)


def per_image(call: Callable[[Tensor], Any], shape: tuple[int, ...], *, gradient: bool = False) -> float:
    """Bytes that autograd keeps of `call(x)` for each image (c, h, w): by two batches, so that weights go out."""
    two, four = (
        saved_bytes(call, lambda n=n: torch.rand(n, *shape, requires_grad=gradient), fake=True)  # type: ignore[misc]
        for n in (2, 4)
    )
    return (four - two) / 2


def saved_bytes(call: Callable[[Tensor], Any], images: Callable[[], Tensor], *, fake: bool = False) -> int:
    """Bytes of all storages, each once, that autograd keeps of `call(images())`; `fake` computes shapes alone."""
    held: dict[int, Tensor] = {}  # each is held, or its address might be used again

    def keep(tensor: Tensor) -> Tensor:
        held[tensor.untyped_storage()._cdata] = tensor.detach()
        return tensor

    with FakeTensorMode(allow_non_fake_inputs=True) if fake else torch.enable_grad():
        x = images()
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            answer = call(x)
        del answer
        return sum(tensor.untyped_storage().nbytes() for tensor in held.values())


def step_operations(settings: Settings) -> dict[str, float]:
    """Operations an image of one step (a multiplication and an addition are two): of the target, and of all."""
    generator, critic, target = networks(settings)
    x, y = torch.rand(1, 3, settings.image_size, settings.image_size), torch.zeros(1, dtype=torch.long)
    with FlopCounterMode(display=False) as forward:
        target(x)
    with FlopCounterMode(display=False) as both:
        target(x.clone().requires_grad_(True)).sum().backward()
    accelerator = Accelerator(cpu=True)
    optimizers = SGD(generator.parameters(), 0.0), SGD(critic.parameters(), 0.0)
    with FlopCounterMode(display=False) as whole:
        x_adv = generator(x)
        discriminator_step(Game(), critic, optimizers[1], x, x_adv.detach(), accelerator)
        generator_step(Game(), generator, optimizers[0], critic, target, x, x_adv, y, accelerator)
    return {
        "target, forward": forward.get_total_flops(),
        "target, back to the image": both.get_total_flops() - forward.get_total_flops(),
        "generator and discriminator": whole.get_total_flops() - both.get_total_flops(),
        "in all": whole.get_total_flops(),
    }


if __name__ == "__main__":
    run(main, Settings)
