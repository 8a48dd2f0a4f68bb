"""A trained generator as one file that other programs run, in ONNX or as torch's own .pt2; with the same outputs.

    advgan export checkpoints/mnist-c-generator
    advgan export RUN --format pt2
    advgan export hf://USER/MODEL --output attack.onnx

The file takes images in [0, 1], any number, of any size (a generator with a guide: of its guide's), and returns
adversarial ones; ball and box are inside it. Before it is kept it is compared with PyTorch on several of both.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from advgan.core.errors import InputError
from advgan.core.recipe import NameOrPath, PathOrAddress
from advgan.models.export import Check, Format, export_generator
from advgan.models.generator import Generator


@dataclass(frozen=True)
class Settings:
    """What is exported, and where to."""

    directory: tyro.conf.Positional[PathOrAddress]
    """A generator's folder, a run that holds one, or hf://USER/MODEL"""
    recipe: Path | None = None
    """YAML file of settings, or name of a shipped recipe; flags override it"""
    format: Format | None = None
    """onnx, for onnxruntime and what else reads it, or pt2, for torch.export.load and torch's compilers; None: what
    --output ends in, onnx without one"""
    output: Path | None = None
    """The file, which is replaced if it is there; None: generator.onnx or generator.pt2 in the folder"""
    guide: NameOrPath | None = None
    """Name of the generator's guide, FILE.py:FACTORY, where it is from a Python file, which is run; None: any other"""


def main(settings: Settings) -> None:
    if settings.output is None and settings.directory.startswith("hf://"):
        raise InputError(f"{settings.directory} is no folder to write to, expected --output FILE, got none")
    generator = Generator.from_pretrained(settings.directory, guide=settings.guide)
    kind: Format = settings.format or ("pt2" if settings.output and settings.output.suffix == ".pt2" else "onnx")
    output = settings.output or Path(settings.directory) / f"generator.{kind}"
    checks = export_generator(generator, output, kind)
    Console(width=80).print(table(checks, kind))
    print(f"exported     {output} ({output.stat().st_size / 1e6:.2f} MB)")


def table(checks: list[Check], kind: Format) -> Table:
    """What was compared, for the terminal."""
    drawn = Table(title=f"{'onnxruntime' if kind == 'onnx' else 'pt2'} beside PyTorch", title_justify="left")
    for head in ("images", "largest difference", "ball and box"):
        drawn.add_column(head, justify="left" if head == "images" else "right")
    for check in checks:
        shape = " x ".join(map(str, check.shape))
        drawn.add_row(shape, f"{check.difference:.1e}", "; ".join(check.violations) or "kept")
    return drawn
