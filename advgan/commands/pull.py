"""Fetch a checkpoint from the Hugging Face Hub, or from a folder: configuration, safetensors and card, no more.

    advgan pull user/my-attack my-attack
    advgan pull user/my-attack my-attack --revision 4f2c1e0
    advgan pull ./handed-on my-attack                         a folder; needs no network

Nothing is unpickled: a repository without model.safetensors is refused, and its other files are left where they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from advgan import hub


@dataclass(frozen=True)
class Settings:
    """What comes from where."""

    repo: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="REPO")]
    """USER/MODEL on the Hub, or a folder: one that is there, or a name that begins with ./ or /"""
    output_dir: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """The folder it comes to"""
    recipe: Path | None = None
    """YAML file of settings that become the defaults; flags override it"""
    revision: str | None = None
    """A branch, tag or commit; None takes the newest"""
    force: bool = False
    """Replace the checkpoint that is there"""


def main(settings: Settings) -> None:
    hub.pull(settings.repo, settings.output_dir, revision=settings.revision, force=settings.force)
    print(f"checkpoint in {settings.output_dir}: advgan info {settings.output_dir}")
