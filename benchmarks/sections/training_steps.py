"""Steps of `train/advgan.py` as it is by default, run one way and another: seconds a step, once it is warm."""

from __future__ import annotations

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
from benchmarks.race import Bench, Row
from benchmarks.turns import Failed, in_turn

ROOT = Path(__file__).resolve().parents[2]
STEPS = 20  # the first so many warm up, and compile; as many more are timed
LAUNCH = ("-m", "accelerate.commands.accelerate_cli", "launch", "--config_file", str(ROOT / "train/accelerate.yaml"))
COMPILED, TWO = "compiled", "two processes, one thread each"


def compile_models(bench: Bench, generator: Generator | None) -> list[Row]:
    """With --compile and without."""
    threads = ("--threads", str(torch.get_num_threads()))
    sides = {
        "eager": partial(seconds_a_step, (), threads),
        COMPILED: partial(seconds_a_step, (), (*threads, "--compile")),
    }
    return in_turn(bench, sides, COMPILED, "a step")


def processes(bench: Bench, generator: Generator | None) -> list[Row]:
    """The same batch by two processes of one thread on the CPU, and by one of two."""
    two = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    sides = {
        "one process, two threads": partial(seconds_a_step, (*LAUNCH, "--cpu"), ("--threads", "2")),
        TWO: partial(seconds_a_step, two, ("--threads", "1")),
    }
    return in_turn(bench, sides, TWO, "a step")


def seconds_a_step(launch: tuple[str, ...], flags: tuple[str, ...]) -> float:
    """Of steps alone, neither loading nor validation, as a run's own training.json has them; with a launcher, on the
    CPU. Raises Failed."""
    environment = os.environ | ({"ACCELERATE_USE_CPU": "true"} if launch else {})
    with tempfile.TemporaryDirectory() as folder:
        words = ["--max-steps", 2 * STEPS, "--validate-every", STEPS, "--validation-images", 64, "--output-dir", folder]
        command = [sys.executable, *launch, str(ROOT / "train/advgan.py"), *map(str, words), *flags]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        if stopped := stopped_by_signal(done.returncode):
            sys.exit(stopped)
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.strip()] or [""]
            found = next((line for line in said if line.startswith("error:")), said[-1])
            raise Failed(f"train/advgan.py {' '.join(flags)}: {found.strip()[:200]}")
        first, last = json.loads((Path(folder) / "training.json").read_text())["history"]
        return float((last["seconds"] - first["seconds"]) / (last["step"] - first["step"]))
