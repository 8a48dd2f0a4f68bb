"""Print a script that completes commands and flags in a shell.

    eval "$(advgan completion bash)"                          in this shell; for all, put it into ~/.bashrc
    advgan completion bash > ~/.local/share/bash-completion/completions/advgan
    advgan completion zsh > ~/.zfunc/_advgan                  where ~/.zfunc is on zsh's fpath

The script knows the commands and flags of this version: print it again after an update.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Literal

import tyro

from advgan.cli import listed


@dataclass(frozen=True)
class Settings:
    """Which shell."""

    shell: tyro.conf.Positional[Literal["bash", "zsh", "tcsh"]] = "bash"
    """The shell that is to run the script"""


def main(settings: Settings) -> None:
    known = {name: import_module(f"advgan.commands.{name}").Settings for name in listed()}
    words = ["--tyro-print-completion", settings.shell]
    tyro.extras.subcommand_cli_from_dict(known, args=words, prog="advgan")
