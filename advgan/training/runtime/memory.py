"""Training in less time or memory: compiled networks, and activation checkpointing."""

from functools import partial

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from advgan.core.errors import InputError, explained


def compile_models(*networks: nn.Module, sample: Tensor) -> None:
    """Compile each network in place (`torch.compile`); the first takes `sample`, each other the previous output.

    The names of the weights stay as they are. One pass forward and back shows whether it works: raises InputError with
    the compiler's reason where it does not.
    """
    for net in networks:
        net.compile()
    output = sample
    with explained("compile does not work here, leave it out: "):  # errors of the C++ compiler, of Triton, ...
        for net in networks:
            output = net(output)
        output.sum().backward()
    for net in networks:
        net.zero_grad(set_to_none=True)


def enable_activation_checkpointing(model: nn.Module) -> list[nn.Module]:
    """Recompute the activations of each block of a frozen `model` in the backward pass; returns the blocks.

    A block is an innermost entry with layers of its own of an nn.Sequential or nn.ModuleList. Only the input of each is
    stored. Raises InputError for a model without blocks. (Chen et al. 2016, "Training deep nets with sublinear memory
    cost".)
    """
    lists = (module for module in model.modules() if isinstance(module, (nn.Sequential, nn.ModuleList)))
    entries = {child for container in lists for child in container.children() if list(child.children())}
    blocks = [entry for entry in entries if entries.isdisjoint(set(entry.modules()) - {entry})]
    if not blocks:
        raise InputError(f"checkpoint_target needs a target made of blocks, got none in {type(model).__name__}")
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    return blocks
