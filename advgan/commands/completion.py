"""Print a script that completes commands, flags and files in a shell.

    eval "$(advgan completion bash)"                          in this shell; for all, put it into ~/.bashrc
    advgan completion bash > ~/.local/share/bash-completion/completions/advgan
    advgan completion zsh > ~/.zfunc/_advgan                  where ~/.zfunc is on zsh's fpath

The script knows the commands and flags of this version: print it again after an update.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Literal

import tyro

from advgan.cli import listed

# tyro's function knows no files in places without a flag, and answers with one empty word there.
FILES = """
_advgan() { _tyro_advgan; [ -n "${COMPREPLY[0]}" ] || COMPREPLY=(); }
complete -o bashdefault -o default -F _advgan advgan"""


@dataclass(frozen=True)
class Settings:
    """Which shell."""

    shell: tyro.conf.Positional[Literal["bash", "zsh", "fish"]] = "bash"
    """The shell that is to run the script"""


def main(settings: Settings) -> None:
    known = {name: import_module(f"advgan.commands.{name}").Settings for name in listed()}
    words = ["--tyro-print-completion", settings.shell]
    with suppress(SystemExit):  # so tyro ends what it prints
        tyro.extras.subcommand_cli_from_dict(known, args=words, prog="advgan")
    if settings.shell == "bash":
        print(FILES)
