"""Show the configuration, size and card of a checkpoint.

    advgan info checkpoints/mnist-c-conditional        a generator's folder
    advgan info checkpoints/runs/mnist-c               a run: its classifier and its generator
    advgan info exported.onnx                          an exported generator

No code of it is run, and PyTorch is not loaded.
"""

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table

from advgan.core.errors import InputError, one_line
from advgan.core.files import check_regular
from advgan.core.fraction import eps_text
from advgan.core.optional import require_package
from advgan.core.shipped import existing_or_shipped
from advgan.core.terminal import printable_lines
from advgan.core.training_record import describe_checkpoint
from advgan.report.escaping import in_rich

LONGEST_CARD, LONGEST_VALUE = 200_000, 2_000  # characters that are shown


@dataclass(frozen=True)
class Settings:
    """Checkpoint to show."""

    checkpoint: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """A generator's or classifier's folder (config.json, model.safetensors), a run's above them, or a .onnx file"""


def main(settings: Settings) -> None:
    directory, console = existing_or_shipped(settings.checkpoint), Console()
    if directory.suffix == ".onnx":
        _show(console, directory, _exported(directory))
        return
    folders = [
        d for d in (directory, directory / "classifier", directory / "generator") if os.path.isfile(d / "config.json")
    ]
    if not folders:
        raise InputError(f"no checkpoint in {directory}: expected config.json there, or in generator/ or classifier/")
    for folder in folders:
        _show(console, folder, describe_checkpoint(folder))
        card = folder / "README.md"
        if card.is_file():
            with card.open(errors="replace") as file:
                text = file.read(LONGEST_CARD)
            _, *parts = text.split("---\n", 2)  # the YAML between two lines of dashes is for the Hugging Face Hub
            text = parts[1] if text.startswith("---\n") and len(parts) == 2 else text
            lines = printable_lines(text)
            console.print(Markdown(lines, hyperlinks=False))  # addresses are shown, not hidden behind other text


def _exported(file: Path) -> dict[str, Any]:
    """Inputs, outputs and metadata of an ONNX file; raises InputError for another file."""
    onnx = require_package("onnx", "onnx")
    try:
        check_regular(file)
        model = onnx.load(file, load_external_data=False)
    except Exception as error:  # protobuf's own kinds of errors
        raise InputError(f"cannot read {file} as ONNX: {one_line(error)}") from None
    if not model.graph.output:  # protobuf reads an empty file as an empty model
        raise InputError(f"cannot read {file} as ONNX: it has no output")

    def shape(value: Any) -> str:
        return f"{value.name} ({', '.join(d.dim_param or str(d.dim_value) for d in value.type.tensor_type.shape.dim)})"

    return {
        "inputs": ", ".join(map(shape, model.graph.input)),
        "outputs": ", ".join(map(shape, model.graph.output)),
        "parameters": f"{sum(math.prod(weights.dims) for weights in model.graph.initializer):,}",
        "opset": ", ".join(f"{entry.domain or 'ai.onnx'} {entry.version}" for entry in model.opset_import),
        **{entry.key: entry.value for entry in model.metadata_props},
    }


def _show(console: Console, path: Path, values: dict[str, Any]) -> None:
    """The path, on one line however long, and the table of the values."""
    console.print(in_rich(path), style="italic", highlight=False, soft_wrap=True)
    table = Table(show_header=False)
    for key, value in values.items():
        number = eps_text if key.startswith("eps") else "{:.6g}".format
        text = number(value) if isinstance(value, float) else str(value)
        table.add_row(in_rich(key), in_rich(text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."))
    console.print(table)
