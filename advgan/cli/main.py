"""The command `advgan`: imports and runs the module of the subcommand, and no other."""

import ast
import os
import sys
from importlib import import_module
from pathlib import Path

from advgan.core.errors import InputError, did_you_mean
from advgan.core.program import prepare_process
from advgan.core.terminal import safe_streams
from advgan.core.version import __version__

PACKAGE = Path(__file__).resolve().parents[1]
# Subcommand -> its module: the docstring is its help, `Settings` its flags, `main(settings)` its work.
COMMANDS = {
    "app": "advgan.cli.app",
    "attack": "advgan.cli.attack",
    "compare": "advgan.experiments.comparison.run",
    "export": "advgan.cli.export",
    "info": "advgan.cli.info",
    "train": "advgan.training.program",
}
EXAMPLES = """\
examples:
  advgan attack photos attacked --generator RUN          adversarial PNGs of a folder tree, and manifest.csv
  advgan info checkpoints/mnist-c-conditional            configuration and card of a checkpoint
  advgan compare --target-weights RUN --generator RUN    the generator and baseline attacks

Help of a command: advgan attack --help. Exit code 2: bad input.
"""


def main(argv: list[str] | None = None) -> None:
    """Run the command in `argv`, or print the version; bad input is one line on stderr and exit code 2."""
    arguments = sys.argv[1:] if argv is None else argv
    if argv is None:  # its own process
        prepare_process()
    if arguments[:1] == ["--version"]:
        print_text(__version__)
        return
    if not arguments or arguments[0] in ("-h", "--help"):
        print_text(help_text())
        return
    name = arguments[0]
    if name not in COMMANDS:
        suggestion = did_you_mean(name, COMMANDS) or f", expected one of {', '.join(COMMANDS)}"
        with safe_streams():
            print(f"error: {InputError(f'unknown command {name!r}{suggestion}')}", file=sys.stderr)
        sys.exit(2)
    from advgan.core.config import run

    command = import_module(COMMANDS[name])
    run(command.main, command.Settings, arguments[1:], prog=f"advgan {name}")


def print_text(text: str) -> None:
    """Print `text`; exit code 1 alone where it cannot be (`advgan --help | head -1`)."""
    with safe_streams():
        try:
            print(text, flush=True)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # otherwise Python's last flush fails again
            sys.exit(1)


def help_text() -> str:
    """The text of `advgan --help`: a line per command, and examples."""
    lines = []
    for name, module in COMMANDS.items():  # the first line of each file's docstring, read without importing it
        file = PACKAGE.joinpath(*module.split(".")[1:]).with_suffix(".py")
        text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        lines.append(f"  {name:<12}{text.splitlines()[0]}")
    return "\n".join(["usage: advgan COMMAND ...", "       advgan --version", "", "commands:", *lines, "", EXAMPLES])
