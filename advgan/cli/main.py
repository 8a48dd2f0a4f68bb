"""The command `advgan`: imports and runs the module of the subcommand, and no other."""

from __future__ import annotations

import ast
import sys
from importlib import import_module
from pathlib import Path

from advgan.core.errors import InputError, did_you_mean
from advgan.core.shutdown import exit_on_signals
from advgan.core.terminal import printable, safe_streams
from advgan.core.version import __version__

PACKAGE = Path(__file__).resolve().parents[1]
# Subcommand -> its module: the docstring is its help, `Settings` its flags, `main(settings)` its work.
COMMANDS = {
    "attack": "advgan.cli.attack",
    "compare": "advgan.experiments.comparison.run",
    "export": "advgan.cli.export",
    "info": "advgan.cli.info",
    "train": "advgan.training.program",
}
EXAMPLES = """\
examples:
  advgan attack photos attacked --generator RUN          adversarial PNGs of a folder tree, and manifest.csv
  advgan info checkpoints/mnist-c-conditional            what a checkpoint is, and what it is worth
  advgan compare --target-weights RUN --generator RUN    the generator beside the classic attacks

Each command has a page of its own: advgan attack --help. A failed call ends with exit code 2 for bad input.
"""


def main(argv: list[str] | None = None) -> None:
    """Run the command that `argv` names, or print the version; bad input is one line on stderr and exit code 2."""
    words = sys.argv[1:] if argv is None else argv
    if argv is None:  # a process of its own
        exit_on_signals()  # also while a command is imported
    if words[:1] == ["--version"]:
        print(__version__)
        return
    if not words or words[0] in ("-h", "--help"):
        with safe_streams():
            print(overview())
        return
    try:
        name = known(words[0])
    except InputError as error:
        with safe_streams():
            print(f"error: {printable(error)}", file=sys.stderr)
        sys.exit(2)
    from advgan.core.config import run

    command = import_module(COMMANDS[name])
    run(command.main, command.Settings, words[1:], prog=f"advgan {name}")


def overview() -> str:
    """The page of `advgan --help`: a line for each command, and examples."""
    lines = [f"  {name:<12}{about}" for name, about in listed().items()]
    return "\n".join(["usage: advgan COMMAND ...", "       advgan --version", "", "commands:", *lines, "", EXAMPLES])


def listed() -> dict[str, str]:
    """Command -> the first line of its file's docstring, read without importing it."""
    files = {name: PACKAGE.joinpath(*module.split(".")[1:]).with_suffix(".py") for name, module in COMMANDS.items()}
    texts = {name: ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "" for name, file in files.items()}
    return {name: text.partition("\n")[0] for name, text in texts.items()}


def known(word: str) -> str:
    """`word` itself, if it is a command. Raises InputError that suggests the nearest ones otherwise."""
    if word in COMMANDS:
        return word
    near = did_you_mean(word, list(COMMANDS)) or f", expected one of {', '.join(COMMANDS)}"
    raise InputError(f"unknown command {word!r}{near}")
