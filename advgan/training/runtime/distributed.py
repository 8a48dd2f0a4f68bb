"""The processes of a program: all of them started, CPU threads shared, a common end."""

import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta

import psutil
import torch
from accelerate import Accelerator
from accelerate.state import is_initialized
from accelerate.utils import DistributedType, InitProcessGroupKwargs, set_seed

from advgan.core.errors import InputError, note, one_line
from advgan.core.json_files import check_int
from advgan.core.lock import release
from advgan.training.runtime.loop import LAUNCHED

LAUNCHER_FAULT = "a launcher's variables in the environment (RANK, WORLD_SIZE, ACCELERATE_*; without one: unset them)"
MAX_THREADS = 4096  # of one process: OpenMP crashes where it cannot start them all


def init_accelerator(
    seed: int, threads: int | None = None, *, bf16: bool = False, patient: bool = False, one_process: bool = False
) -> Accelerator:
    """The Accelerator of a program: all processes the launcher was asked for, all cores used once, seeds set.

    `threads` per process; None is OMP_NUM_THREADS, but not of a launcher, which sets it to 1 and halves the speed on a
    CPU: there, and without that variable, the local processes share the cores that this program may use. The others are
    those of `make_accelerator`.
    """
    check_threads(threads)
    if not 0 <= seed < 2**32:
        raise InputError(f"seed must be from 0 to {2**32 - 1}, got {seed}")
    accelerator = make_accelerator(bf16=bf16, patient=patient, one_process=one_process)
    if accelerator.device.type == "cpu" or threads is not None:
        local = _whole_number("LOCAL_WORLD_SIZE", accelerator.num_processes)
        torch.set_num_threads(threads or _default_threads(local))
    set_seed(seed)
    n, n_threads = accelerator.num_processes, torch.get_num_threads()
    processes, threads_text = f"{n} process{'es' * (n > 1)}", f"{n_threads} thread{'s' * (n_threads > 1)}"
    each = " each" if n > 1 else ""
    accelerator.print(f"{processes} on {accelerator.device.type}, {threads_text}{each}", flush=True)
    return accelerator


def _default_threads(local_processes: int) -> int:
    """CPU threads of a process: OMP_NUM_THREADS without a launcher, else its part of the cores."""
    chosen = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # "4,2": of nested regions too
    if LAUNCHED.isdisjoint(os.environ) and re.fullmatch(r"[0-9]{1,4}", chosen) and 0 < int(chosen) <= MAX_THREADS:
        return int(chosen)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // local_processes)


def _whole_number(variable: str, default: int, minimum: int = 1) -> int:
    """The value of an environment variable of launchers. Raises InputError for other values."""
    text = os.environ.get(variable, str(default))
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < minimum:
        raise InputError(
            f"the environment variable {variable} must be a whole number from {minimum} on, got {text!r:.60}"
        )
    return int(text)


def check_threads(threads: int | None) -> None:
    """Raise InputError for a number of CPU threads that torch cannot start."""
    if threads is not None:
        check_int("threads", threads, 1, MAX_THREADS)


def make_accelerator(*, bf16: bool = False, patient: bool = False, one_process: bool = False) -> Accelerator:
    """The Accelerator of this process and those launched with it.

    `bf16` asks for mixed precision where the launcher was not asked; `patient` lets the processes wait for each other
    for days, not minutes. Raises InputError for engines that cannot train two networks, where fewer processes started
    than were requested, and with `one_process`, of a program that is started without a launcher, for several.
    """
    if (precision := os.environ.get("ACCELERATE_MIXED_PRECISION", "no")) not in ("no", "bf16"):
        raise InputError(f"mixed precision must be no or bf16, got {precision}: one loss scale cannot fit two nets")
    _check_all_started()
    world = _whole_number("WORLD_SIZE", 1)
    if "RANK" in os.environ and (rank := _whole_number("RANK", 0, 0)) >= world > 1:
        raise InputError(f"the environment variable RANK must be below WORLD_SIZE, {world}, got {rank}")
    if world > 1 and not (torch.cuda.is_available() or torch.xpu.is_available()):
        os.environ["ACCELERATE_USE_CPU"] = "true"  # or each process of torchrun would think it is alone
    waiting = [InitProcessGroupKwargs(timeout=timedelta(days=7))] if patient else []
    fault = "bf16 cannot be switched on in this process any more" if is_initialized() else LAUNCHER_FAULT
    try:
        accelerator = Accelerator(mixed_precision="bf16" if bf16 else None, kwargs_handlers=waiting)
    except (ValueError, ImportError) as error:
        raise InputError(f"{fault}: {one_line(error)}") from None
    if accelerator.distributed_type in (DistributedType.DEEPSPEED, DistributedType.FSDP, DistributedType.MEGATRON_LM):
        raise InputError(
            "expected one process or data parallel processes: two networks that train in turn cannot share one "
            f"{accelerator.distributed_type.value} engine; choose distributed_type NO, MULTI_GPU or MULTI_CPU"
        )
    if accelerator.num_processes != world:
        raise InputError(f"the launcher started {world} processes, {accelerator.num_processes} found each other")
    if one_process and accelerator.num_processes > 1:
        raise InputError(f"expected one process, started without a launcher, got {accelerator.num_processes}")
    if accelerator.mixed_precision == "bf16" and accelerator.device.type == "cpu" and not _has_bf16_units():
        note("this CPU has no bfloat16 matrix units: mixed precision is slower than --no-bf16 (bf16=False)")
    return accelerator


def _has_bf16_units() -> bool:
    """Whether the CPU multiplies bfloat16 matrices in hardware; True where torch is too old to report it."""
    capabilities: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    units = ("amx_bf16", "avx512_bf16", "bf16", "sve_bf16")
    return not capabilities or any(capabilities.get(name) for name in units)


def _check_all_started() -> None:
    """Raise InputError where `accelerate launch --cpu --num_processes N` started one process.

    Without MPI its simple launcher sets MASTER_ADDR for N processes, then starts a single one (accelerate 1.15), on
    each of several machines alike. The number stands only on the launcher's command line, or in its configuration.
    """
    environment = os.environ
    if "MASTER_ADDR" not in environment or "ACCELERATE_USE_CPU" not in environment or "WORLD_SIZE" in environment:
        return
    if "PMI_SIZE" in environment or "OMPI_COMM_WORLD_SIZE" in environment:
        return
    command, before = _launcher()
    if "accelerate" not in command:
        return

    def count(flag: str) -> int | None:
        match = re.search(rf"--{flag.replace('_', '[_-]')}[ =](\d+)", command)
        return int(match[1]) if match else None

    processes, machines = count("num_processes"), count("num_machines") or 1
    if processes == 1 or (processes is None and "MASTER_ADDR" in before):
        return
    nodes = f"--nnodes {machines} " if machines > 1 else ""
    local = "N" if processes is None else max(1, processes // machines)
    spec = sys.modules["__main__"].__spec__  # None: started by its path
    program = sys.argv[0] if spec is None else f"-m {spec.name.removesuffix('.__main__')}"
    raise InputError(
        f"accelerate launch started 1 of {processes or 'several'} processes, which it does on CPUs without MPI; "
        f"expected torchrun {nodes}--nproc-per-node {local} {program} ..."
    )


def _launcher() -> tuple[str, dict[str, str]]:
    """Command line and environment of the parent process; that environment counts as this one's where it is hidden."""
    parent = psutil.Process().parent()
    if parent is None:
        return "", {}
    command = " ".join(parent.cmdline())
    try:
        return command, parent.environ()
    except psutil.Error:
        return command, dict(os.environ)


def shutdown(accelerator: Accelerator, code: int = 0) -> None:
    """End all processes together, with exit code `code`. Of several, each leaves at once: what gloo's threads still
    hold when the interpreter shuts down aborted one run in twenty (torch 2.15, "terminate called without an active
    exception").
    """
    several = accelerator.num_processes > 1
    accelerator.wait_for_everyone()
    accelerator.end_training()
    if several:
        release()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    if code:
        sys.exit(code)


def in_any_process(accelerator: Accelerator, condition: bool) -> bool:
    """Whether the condition holds in one of the processes, all of which call this."""
    held = torch.tensor([float(condition)], device=accelerator.device)
    return bool(accelerator.reduce(held, reduction="sum").item() > 0)


@contextmanager
def restored_accelerator(accelerator: Accelerator) -> Iterator[None]:
    """A block after which the networks and optimizers that were prepared in it are removed from `accelerator`."""
    lists = [accelerator._models, accelerator._optimizers]
    before = [len(prepared) for prepared in lists]
    try:
        yield
    finally:
        for prepared, n in zip(lists, before, strict=True):
            del prepared[n:]
