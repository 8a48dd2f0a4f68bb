"""Export a trained generator to one file, ONNX or torch's .pt2, with the same outputs, or to a page for browsers.

    advgan export checkpoints/mnist-c-generator
    advgan export checkpoints/mnist-c-generator --format web --output page
    advgan export hf://USER/MODEL --output attack.onnx

The exported model maps images in [0, 1], any number, of any size (with a guide: of its size), to adversarial images,
including ball and box. Before it is written it is compared with PyTorch for several numbers and sizes.

Format web is a folder with index.html: a page to draw a digit or drop a picture, attacked in the browser, without a
server or a network. It needs a classifier, that of the run or --target, and the npm package onnxruntime-web.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.table import Table

from advgan.app.web import write_page
from advgan.cli.attack_images.loading import load_pair
from advgan.cli.attack_images.settings import PairSettings
from advgan.core.errors import InputError
from advgan.core.recipe import PathOrAddress
from advgan.models.export import Check, Format, export_generator
from advgan.models.generator import Generator


@dataclass(frozen=True)
class Settings(PairSettings):
    """Generator, format, output and, for a page, the classifier."""

    directory: Annotated[PathOrAddress, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A generator's folder, a run that holds one, or hf://USER/MODEL"""
    recipe: Path | None = None
    """YAML file of settings, or name of a shipped recipe; flags override it"""
    format: Literal["onnx", "pt2", "web"] | None = None
    """Format: onnx, for onnxruntime and others, pt2, for torch.export.load, or web, a page; None: by the suffix of
    --output, else onnx"""
    output: Path | None = None
    """Output file or page's folder, replaced if it exists; None: generator.onnx, generator.pt2 or web in the folder"""
    runtime: Path | None = None
    """Folder or .tgz of the npm package onnxruntime-web, of format web; None: fetched by npm pack"""


def main(settings: Settings) -> None:
    if settings.output is None and settings.directory.startswith("hf://"):
        raise InputError(f"{settings.directory} is no folder to write to, expected --output FILE, got none")
    if settings.format == "web":
        return export_page(settings)
    of_page = {field.name: field.default for field in fields(PairSettings) if field.name != "guide"}
    for name, default in {**of_page, "runtime": None}.items():
        if (value := getattr(settings, name)) != default:
            raise InputError(f"{name} is for format web, expected none, got {value}")
    generator = Generator.from_pretrained(settings.directory, guide=settings.guide)
    kind: Format = settings.format or ("pt2" if settings.output and settings.output.suffix == ".pt2" else "onnx")
    output = settings.output or Path(settings.directory) / f"generator.{kind}"
    checks = export_generator(generator, output, kind)
    Console(width=80).print(checks_table(checks, kind))
    print(f"exported     {output} ({output.stat().st_size / 1e6:.2f} MB)")


def export_page(settings: Settings) -> None:
    """Write the page of the settings, and print the comparisons and its place."""
    output = settings.output or Path(settings.directory) / "web"
    checks = write_page(load_pair(settings.directory, settings), output, settings.runtime)
    Console(width=80).print(checks_table(checks, "onnx"))
    size = sum(file.stat().st_size for file in output.iterdir())
    print(f"exported     {output / 'index.html'} ({size / 1e6:.1f} MB in all)")


def checks_table(checks: list[Check], kind: Format) -> Table:
    """The table of comparisons for the terminal."""
    result = Table(title=f"{'onnxruntime' if kind == 'onnx' else 'pt2'} compared with PyTorch", title_justify="left")
    for header in ("images", "largest difference", "ball and box"):
        result.add_column(header, justify="left" if header == "images" else "right")
    for check in checks:
        shape = " x ".join(map(str, check.shape))
        result.add_row(shape, f"{check.difference:.1e}", "; ".join(check.violations) or "kept")
    return result
