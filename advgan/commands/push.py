"""Send a checkpoint to the Hugging Face Hub, or copy it to a folder: configuration, safetensors and card, no more.

    advgan push RUN/generator user/my-attack                  a private repository
    advgan push RUN/generator user/my-attack --public         for everybody: the card says what it is and is not for
    advgan push RUN/generator ./to-hand-on                    a folder; needs no network

The Hub wants a token: `hf auth login`, or HF_TOKEN in the environment.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from advgan import hub
from advgan.errors import listing
from advgan.terminal import printable


@dataclass(frozen=True)
class Settings:
    """What goes where."""

    checkpoint: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """The folder of a generator or a classifier: config.json, model.safetensors, README.md"""
    repo: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="REPO")]
    """USER/MODEL on the Hub, or a folder: one that is there, or a name that begins with ./ or /"""
    recipe: Path | None = None
    """YAML file of settings that become the defaults; flags override it"""
    public: bool = False
    """Make a new repository one that everybody sees"""
    force: bool = False
    """Replace a checkpoint in a folder"""


def main(settings: Settings) -> None:
    address = hub.push(settings.checkpoint, settings.repo, public=settings.public, force=settings.force)
    if names := hub.left_out(settings.checkpoint):
        print(f"note: not published: {printable(listing(names))}", file=sys.stderr)
    print(address)
