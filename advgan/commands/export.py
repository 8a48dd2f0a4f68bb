"""A trained generator as one file that other programs run, in ONNX or as torch's own .pt2; its answers are PyTorch's.

    advgan export checkpoints/mnist-c-generator
    advgan export RUN --format pt2
    advgan export RUN --output attack.onnx

The file takes images in [0, 1], any number, of any size (a generator with a guide: of its guide's), and answers with
adversarial ones; ball and box are inside it. Before it is kept it is compared with PyTorch on several of both.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from advgan.export import Check, Format, export_generator
from advgan.generator import Generator


@dataclass(frozen=True)
class Settings:
    """What is exported, and where to."""

    directory: tyro.conf.Positional[Path]
    """A generator's folder, or the run that holds it"""
    recipe: Path | None = None
    """YAML file of settings that become the defaults; flags override it"""
    format: Format = "onnx"
    """onnx, for onnxruntime and what else reads it, or pt2, for torch.export.load and torch's compilers"""
    output: Path | None = None
    """The file, which is replaced if it is there; None: generator.onnx or generator.pt2 in the directory"""


def main(settings: Settings) -> None:
    generator = Generator.from_pretrained(settings.directory)
    output = settings.output or settings.directory / f"generator.{settings.format}"
    checks = export_generator(generator, output, settings.format)
    Console(width=80).print(table(checks, settings.format))
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
