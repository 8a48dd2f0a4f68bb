"""What several tests need: a small data set in class folders, a classifier of it, and programs as a user runs them."""

import io
import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy: its threads cost more than small problems gain

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from torch import nn

from advgan.classifiers import build_target, save_target
from advgan.core import program as programs
from advgan.core.errors import note
from advgan.data import load_data

ROOT = Path(__file__).resolve().parent.parent
Run = Callable[..., subprocess.CompletedProcess[str]]
torch.set_num_threads(1)  # a worker a core
LAUNCH = ["-m", "accelerate.commands.accelerate_cli", "launch"]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]


def program_module(path: str) -> ModuleType:
    """The module with `main` and `Settings` of a program, like "eval/compare.py"."""
    return programs.program_module(ROOT / path)


def environment() -> dict[str, str]:
    """The user's environment without what a launcher around the tests may have set; one thread a process."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("ACCELERATE_", "MASTER_", "WORLD_", "RANK"))}
    return kept | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "default"}


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run `python <words>` from the repository root; with launch=[...] `accelerate launch <options> <words>`, with
    processes=N `torchrun --nproc-per-node N <words>`. Each process takes seconds to start, but for the launchers, which
    are children of this one, and whose stdout is stdout and stderr: see `fork` and `ranks`."""

    def run(
        *words: object, launch: list[str] | None = None, processes: int | None = None, code: int = 0
    ) -> subprocess.CompletedProcess[str]:
        if launch is not None or processes is not None:
            launcher = [*LAUNCH, *(launch or [])] if processes is None else [*TORCHRUN, processes]
            output = tmp_path_factory.mktemp("launcher") / "output.txt"
            child = fork(*launcher, *words, output=output)
            child.join(240)
            child.kill()
            assert child.exitcode == code, f"exit code {child.exitcode}\n{output.read_text()}"
            return subprocess.CompletedProcess([*launcher, *words], code, output.read_text(), "")
        command = [sys.executable, *map(str, words)]
        done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=240)
        assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return run


@pytest.fixture(scope="session")
def script() -> Run:
    """As `program`, in one process, this one (as `__main__`): without the seconds that a start takes."""

    def run(path: str, *words: object, code: int = 0) -> subprocess.CompletedProcess[str]:
        command, out, err = [str(ROOT / path), *map(str, words)], io.StringIO(), io.StringIO()
        returned: object = 0
        with patch.object(sys, "argv", command), redirect_stdout(out), redirect_stderr(err):
            try:
                runpy.run_path(command[0], run_name="__main__")
            except SystemExit as stop:
                returned = stop.code or 0
        assert returned == code, f"exit code {returned}\n{out.getvalue()}\n{err.getvalue()}"
        return subprocess.CompletedProcess(command, code, out.getvalue(), err.getvalue())

    return run


def fork(*words: object, output: Path, variables: Mapping[str, str] | None = None) -> BaseProcess:
    """A child of this process that runs `python <words>`: a process without the seconds that a start takes.

    What it prints goes to the file `output`. CUDA allows no fork: where this process uses it the child is a new one.
    """
    context = multiprocessing.get_context("spawn" if torch.cuda.is_initialized() else "fork")
    process = context.Process(target=_run_child, args=(list(map(str, words)), output, dict(variables or {})))  # type: ignore[attr-defined]
    process.start()
    return process  # type: ignore[no-any-return]


def _run_child(words: list[str], output: Path, variables: dict[str, str]) -> None:
    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout = sys.stderr = os.fdopen(1, "w", buffering=1)
    kept = environment() | variables
    os.environ.clear()
    os.environ.update(kept)
    os.chdir(ROOT)
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = [str(ROOT / words[0]), *words[1:]]
        runpy.run_path(sys.argv[0], run_name="__main__")


def ranks(*words: object, outputs: Path, processes: int = 2, machines: int = 1) -> list[BaseProcess]:
    """Children that run `python <words>` together, with the variables that torchrun would set for them.

    What rank r prints goes to `outputs`/r.txt.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    outputs.mkdir(exist_ok=True, parents=True)
    local = processes // machines
    return [
        fork(
            *words,
            output=outputs / f"{rank}.txt",
            variables=meeting
            | {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(local)}
            | {"RANK": str(rank), "LOCAL_RANK": str(rank % local)},
        )
        for rank in range(processes)
    ]


def wait(*processes: BaseProcess, code: int = 0, timeout: float = 240) -> None:
    """The end of children, each with exit code `code`."""
    try:
        for process in processes:
            process.join(timeout)
        assert [process.exitcode for process in processes] == [code] * len(processes)
    finally:
        for process in processes:
            process.kill()


def run_ranks(*words: object, outputs: Path) -> str:
    """The output of the first of two processes that run `python <words>` together."""
    children = ranks(*words, outputs=outputs)
    try:
        wait(*children)
    except AssertionError as error:
        raise AssertionError("\n".join(file.read_text() for file in sorted(outputs.iterdir()))) from error
    return (outputs / "0.txt").read_text()


def stop_after_first_state(path: str, *words: object, states: Path, number: int) -> tuple[int | None, str]:
    """Exit code and output of a program that gets the signal `number` once it has saved a state to `states`."""
    output = states.parents[2] / "stopped.txt"
    running = fork(path, *words, output=output)
    wait_for(states, "step-*", running)
    os.kill(running.pid or 0, number)
    running.join(60)
    return running.exitcode, output.read_text()


def wait_for(directory: Path, pattern: str, process: BaseProcess) -> None:
    """The appearance of a file that the running `process` makes."""
    deadline = time.monotonic() + 120
    while not list(directory.glob(pattern)):
        assert process.exitcode is None, f"exit code {process.exitcode}"
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder data set of 3 easy classes (a bar at the top, in the middle, at the bottom), 28 x 28 grey, noisy."""
    root, rng = tmp_path_factory.mktemp("digits"), np.random.default_rng(0)
    for split, n in {"train": 40, "val": 16, "test": 16}.items():
        for label, name in enumerate(("bottom", "middle", "top")):
            directory = root / split / name
            directory.mkdir(parents=True)
            for i in range(n):
                image = rng.integers(0, 60, (28, 28))
                row = 20 - 8 * label + int(rng.integers(-2, 3))
                image[row : row + 4, 4:24] += 150
                Image.fromarray(image.astype(np.uint8)).save(directory / f"{i}.png")
    return root


@pytest.fixture(scope="session")
def classifier(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with a classifier of the three kinds of bars: right nearly always, after 15 steps."""
    torch.manual_seed(0)
    model = build_target("mnist-small", (1, 28, 28), 3)
    x, y = next(load_data("folder", digits).train.batches(120))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(15):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    directory = tmp_path_factory.mktemp("classifier")
    save_target(model.eval(), directory / "classifier", "# A test's classifier")
    return directory


def randomise_conditioning(generator: nn.Module) -> None:
    """Random weights for the modulation by conditions, which is zero before any training."""
    for name, parameter in generator.named_parameters():
        if ".film." in name:
            nn.init.normal_(parameter, std=0.5)


BLANK = np.zeros((8, 8, 3), np.uint8)


@contextmanager
def no_figures() -> Iterator[None]:
    """Figures are not drawn, and a comparison has none: most of the time of a report goes to them."""
    with (
        patch.object(FigureCanvasAgg, "draw", FigureCanvasAgg.get_renderer),
        patch("advgan.report.figures.FIGURES", ()),
        patch("advgan.report.figures.style.pixels", lambda figure: BLANK.copy()),
    ):
        yield


@pytest.fixture
def undrawn() -> Iterator[None]:
    with no_figures():
        yield


@pytest.fixture(autouse=True, scope="session")
def undrawn_validations() -> Iterator[None]:
    """Trainings draw no images of their validations, a third of the time of small ones: see test_tensorboard.py."""
    with patch("advgan.training.validation.gallery", lambda *_: BLANK.copy()):
        yield


@pytest.fixture(autouse=True)
def global_state() -> Iterator[None]:
    """One thread and all notes for each test, which must leave gradients switched on."""
    torch.set_num_threads(1)
    note.cache_clear()
    yield
    off = not torch.is_grad_enabled()
    torch.set_grad_enabled(True)  # for the next one
    assert not off, "the test has left gradients switched off"
