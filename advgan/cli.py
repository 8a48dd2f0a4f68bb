"""advgan: adversarial images in one forward pass."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import tyro
from rich.console import Console
from rich.markdown import Markdown
from rich.markup import escape
from rich.table import Table
from safetensors import SafetensorError, safe_open

from advgan.errors import InputError


def main(argv: list[str] | None = None) -> None:
    """The `advgan` command; bad input is one line on stderr and exit code 2."""
    try:
        tyro.extras.subcommand_cli_from_dict({"info": info, "version": version}, args=argv, description=__doc__)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def info(directory: tyro.conf.Positional[Path], /) -> None:
    """Describe a checkpoint: its configuration, its size, its card.

    Args:
        directory: A generator's or classifier's folder (config.json, model.safetensors), or a run's above them
    """
    found = [d for d in (directory, directory / "classifier", directory / "generator") if (d / "config.json").is_file()]
    if not found:
        raise InputError(f"no checkpoint in {directory}: expected config.json there, or in generator/ or classifier/")
    console = Console()
    for folder in found:
        console.print(_summary(folder))
        card = folder / "README.md"
        if card.is_file():
            console.print(Markdown(_without_front_matter(card.read_text(errors="replace"))))


def version() -> None:
    """Print the version."""
    from advgan import __version__

    print(__version__)


def _summary(folder: Path) -> Table:
    """Configuration and weights as a table; raises InputError for a damaged checkpoint."""
    try:
        config = json.loads((folder / "config.json").read_text())
        with safe_open(folder / "model.safetensors", framework="pt") as weights:
            sizes = [weights.get_slice(name).get_shape() for name in weights.keys()]  # noqa: SIM118
    except (ValueError, SafetensorError, OSError) as error:  # neither JSON nor text is a ValueError
        raise InputError(f"the checkpoint in {folder} is damaged: {' '.join(str(error).split())}") from None
    if not isinstance(config, dict):
        raise InputError(f"the checkpoint in {folder} is damaged: config.json must hold an object, got {config!r:.60}")
    count = sum(math.prod(shape) for shape in sizes)
    table = Table(title=escape(str(folder)), show_header=False, title_justify="left")
    for key, value in config.items():
        table.add_row(escape(key), escape(f"{value:.6g}" if isinstance(value, float) else str(value)))
    table.add_row("parameters", f"{count:,}")
    return table


def _without_front_matter(card: str) -> str:
    """A card's text; the YAML between its first two lines of dashes, if both are there, is for the Hugging Face Hub."""
    parts = card.split("---\n", 2)
    return parts[2] if card.startswith("---\n") and len(parts) == 3 else card
