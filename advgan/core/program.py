"""Start of a program, with signal handlers before its imports."""

import os
import re
from importlib import import_module
from pathlib import Path
from typing import Any

from advgan.core.shutdown import exit_on_signals


def prepare_process() -> None:
    """What precedes the imports of a program: signal handlers, one thread for the BLAS of NumPy and SciPy, which
    torch's number of threads does not limit (L-BFGS used all cores), and Matplotlib without windows, whatever backend
    is set: of a notebook around it, or one that does not exist."""
    exit_on_signals()
    os.environ["MPLBACKEND"] = "agg"
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def run_program(module: str) -> None:
    """Run `main` of a module with the settings of the command line, of its class `Settings`."""
    prepare_process()
    run = import_module("advgan.core.config").run
    program = import_module(module)
    run(program.main, program.Settings)


def program_module(file: Path) -> Any:
    """The module with `main` and `Settings` that a program file train/X.py or eval/X.py runs."""
    name = re.search(r'run_program\("([\w.]+)"\)', file.read_text())
    assert name is not None, f"{file} starts no program"
    return import_module(name[1])
