"""Start of a program: signals end it also while its modules are imported."""

from __future__ import annotations

from importlib import import_module

from advgan.core.shutdown import exit_on_signals


def run_program(module: str) -> None:
    """Run `main` of a module with the settings of the command line, of its class `Settings`."""
    exit_on_signals()  # also during the imports
    run = import_module("advgan.core.config").run
    program = import_module(module)
    run(program.main, program.Settings)
