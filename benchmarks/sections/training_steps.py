"""Seconds per step of `train/advgan.py` with its defaults, after a warm-up: compiled or not, one or two processes."""

import json
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import torch

from advgan.core.shutdown import stopped_by_signal
from advgan.models.generator import Generator
from benchmarks.interleaved import MeasurementFailed, interleave_measurements
from benchmarks.timing import BenchmarkRow, BenchmarkSetup

ROOT = Path(__file__).resolve().parents[2]
STEPS = 20  # of the warm-up, which compiles; as many more are timed
LAUNCH = ("-m", "accelerate.commands.accelerate_cli", "launch", "--config_file", str(ROOT / "train/accelerate.yaml"))
COMPILED, TWO = "compiled", "two processes, one thread each"


def compile_models(setup: BenchmarkSetup, generator: Generator | None) -> list[BenchmarkRow]:
    """With --compile and without."""
    threads = ("--threads", str(torch.get_num_threads()))
    contenders = {
        "eager": partial(seconds_a_step, (), threads),
        COMPILED: partial(seconds_a_step, (), (*threads, "--compile")),
    }
    return interleave_measurements(setup, contenders, COMPILED, "a step")


def processes(setup: BenchmarkSetup, generator: Generator | None) -> list[BenchmarkRow]:
    """The same batch by two processes of one thread on the CPU, and by one of two."""
    two = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    contenders = {
        "one process, two threads": partial(seconds_a_step, (*LAUNCH, "--cpu"), ("--threads", "2")),
        TWO: partial(seconds_a_step, two, ("--threads", "1")),
    }
    return interleave_measurements(setup, contenders, TWO, "a step")


def seconds_a_step(launch: tuple[str, ...], flags: tuple[str, ...]) -> float:
    """Seconds per step, without loading and validation, from the run's training.json; with a launcher, on the CPU.
    Raises MeasurementFailed."""
    environment = os.environ | ({"ACCELERATE_USE_CPU": "true"} if launch else {})
    with tempfile.TemporaryDirectory() as folder:
        arguments = [
            "--max-steps",
            2 * STEPS,
            "--validate-every",
            STEPS,
            "--validation-images",
            64,
            "--output-dir",
            folder,
        ]
        command = [sys.executable, *launch, str(ROOT / "train/advgan.py"), *map(str, arguments), *flags]
        process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        if stopped := stopped_by_signal(process.returncode):
            sys.exit(stopped)
        if process.returncode:
            error_lines = [line for line in process.stderr.splitlines() if line.strip()] or [""]
            message = next((line for line in error_lines if line.startswith("error:")), error_lines[-1])
            raise MeasurementFailed(f"train/advgan.py {' '.join(flags)}: {message.strip()[:200]}")
        first, last = json.loads((Path(folder) / "training.json").read_text())["history"]
        return float((last["seconds"] - first["seconds"]) / (last["step"] - first["step"]))
