"""Export a trained generator to one file, ONNX or torch's .pt2, with the same outputs.

    advgan export checkpoints/mnist-c-generator
    advgan export RUN --format pt2
    advgan export hf://USER/MODEL --output attack.onnx

The exported model maps images in [0, 1], any number, of any size (with a guide: of its size), to adversarial images,
including ball and box. Before it is written it is compared with PyTorch for several numbers and sizes.
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
    """Generator, format and output file."""

    directory: tyro.conf.Positional[PathOrAddress]
    """A generator's folder, a run that holds one, or hf://USER/MODEL"""
    recipe: Path | None = None
    """YAML file of settings, or name of a shipped recipe; flags override it"""
    format: Format | None = None
    """Format: onnx, for onnxruntime and others, or pt2, for torch.export.load; None: by the suffix of --output, else
    onnx"""
    output: Path | None = None
    """Output file, replaced if it exists; None: generator.onnx or generator.pt2 in the folder"""
    guide: NameOrPath | None = None
    """Guide of the generator in a Python file, FILE.py:FACTORY, which is run; None: no such guide"""


def main(settings: Settings) -> None:
    if settings.output is None and settings.directory.startswith("hf://"):
        raise InputError(f"{settings.directory} is no folder to write to, expected --output FILE, got none")
    generator = Generator.from_pretrained(settings.directory, guide=settings.guide)
    kind: Format = settings.format or ("pt2" if settings.output and settings.output.suffix == ".pt2" else "onnx")
    output = settings.output or Path(settings.directory) / f"generator.{kind}"
    checks = export_generator(generator, output, kind)
    Console(width=80).print(checks_table(checks, kind))
    print(f"exported     {output} ({output.stat().st_size / 1e6:.2f} MB)")


def checks_table(checks: list[Check], kind: Format) -> Table:
    """The table of comparisons for the terminal."""
    result = Table(title=f"{'onnxruntime' if kind == 'onnx' else 'pt2'} compared with PyTorch", title_justify="left")
    for header in ("images", "largest difference", "ball and box"):
        result.add_column(header, justify="left" if header == "images" else "right")
    for check in checks:
        shape = " x ".join(map(str, check.shape))
        result.add_row(shape, f"{check.difference:.1e}", "; ".join(check.violations) or "kept")
    return result
