"""Start of a program: signals end it also while its modules are imported."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

from advgan.core.shutdown import exit_on_signals


def run_program(module: str) -> None:
    """Run `main` of a module with the settings of the command line, of its class `Settings`."""
    exit_on_signals()  # also during the imports
    run = import_module("advgan.core.config").run
    program = import_module(module)
    run(program.main, program.Settings)


def program_module(file: Path) -> Any:
    """The module with `main` and `Settings` of a program train/X.py or eval/X.py, which its file names."""
    name = re.search(r'run_program\("([\w.]+)"\)', file.read_text())
    assert name is not None, f"{file} starts no program"
    return import_module(name[1])
