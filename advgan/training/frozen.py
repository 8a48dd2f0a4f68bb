"""The caller's model and settings of the process, borrowed for a training and given back as they were."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from advgan.classifiers.adapters import as_module
from advgan.core.inputs import copy_images
from advgan.core.random_state import float32_default, preserved_random_states
from advgan.core.weights import check_weights
from advgan.training.run_directory import Place
from advgan.training.runtime.distributed import check_threads, make_accelerator, restored_accelerator


@contextmanager
def frozen(model: Any, device: torch.device) -> Iterator[nn.Module]:
    """`model`, or a module around a function, on `device`, in eval mode and without gradients of its weights; then
    its modes, flags, methods and device are what they were. It gets copies of its images. A model on several devices
    stays there.

    Raises InputError for what cannot be called.
    """
    module = as_module(model)
    check_weights(module)
    changed = ("training", "forward", "_compiled_call_impl")  # the last two: activation checkpointing, torch.compile
    attributes = {part: {name: vars(part)[name] for name in changed if name in vars(part)} for part in module.modules()}
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    devices = {tensor.device for tensor in (*module.parameters(), *module.buffers())}
    moved = len(devices) == 1 and devices != {device}
    copies = module.register_forward_pre_hook(copy_images)
    try:
        if moved:
            module.to(device)
        module.eval()
        module.requires_grad_(False)
        yield module
    finally:
        copies.remove()
        if moved:
            module.to(devices.pop())
        for parameter in trained:
            parameter.requires_grad_(True)
        for part, before in attributes.items():
            for name in changed:
                vars(part).pop(name, None)
            vars(part).update(before)


@contextmanager
def process_settings(threads: int | None) -> Iterator[None]:
    """A block with gradients and new tensors of float32, on `threads` CPU threads (None: as many as before), whose
    random draws and thread count leave no trace."""
    check_threads(threads)
    before = torch.get_num_threads()
    try:
        with preserved_random_states(), float32_default(), torch.inference_mode(False), torch.enable_grad():
            torch.set_num_threads(threads or before)
            yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def training_context(
    place: Place,
    accelerator: Accelerator | None,
    *,
    threads: int | None = None,
    bf16: bool = False,
    one_process: bool = False,
) -> Iterator[Accelerator]:
    """The block of a training from Python and its Accelerator (None: a new one), in `process_settings`, the directory
    locked; afterwards the networks that were prepared are removed from the Accelerator."""
    with process_settings(threads):
        accelerator = accelerator or make_accelerator(bf16=bf16, one_process=one_process)
        with restored_accelerator(accelerator), place.acquired():
            yield accelerator
