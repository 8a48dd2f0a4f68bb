"""A comparison on disk: results.json and records for programs, report.md, galleries and TensorBoard for people."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from advgan.report.table import markdown
from advgan.report.tensorboard import write_comparison
from advgan.storage import write_aside, write_file


def write_results(
    directory: Path,
    results: Mapping[str, Any],
    galleries: Mapping[str, np.ndarray],
    records: Mapping[str, Mapping[str, Tensor]],
) -> None:
    """Write all five to `directory`, each aside and renamed; results.json last, so that it speaks for the rest.

    results     "environment", "target" and "rows" (as `evaluate` makes them)
    galleries   attack -> picture (height, width, 3) uint8
    records     attack -> column -> one entry per image (n,), as in `Result.records`; a line per image in its .csv
    """

    def write_galleries(folder: Path) -> None:
        for attack, image in galleries.items():
            Image.fromarray(image).save(folder / f"{attack}.png")

    def write_records(folder: Path) -> None:
        for attack, columns in records.items():
            with (folder / f"{attack}.csv").open("w", newline="") as file:
                lines = zip(*(column.numpy() for column in columns.values()), strict=True)
                csv.writer(file).writerows([["id", *columns], *([i, *line] for i, line in enumerate(lines))])

    text = json.dumps(results, indent=2, allow_nan=False) + "\n"
    write_aside(directory / "galleries", write_galleries)
    write_aside(directory / "records", write_records)
    write_comparison(directory / "logs" / "compare", results, galleries)
    write_file(directory / "report.md", report(results, galleries))
    write_file(directory / "results.json", text)


def report(results: Mapping[str, Any], galleries: Mapping[str, np.ndarray]) -> str:
    """The comparison in Markdown: what was attacked where, the tables, the galleries."""
    target, env = results["target"], results["environment"]
    gpu = f", {env['gpu']}" if env["gpu"] else ""
    head = [
        f"# Attacks on {target['name']} ({target['dataset']})",
        "",
        f"{env['date']}, torch {env['packages']['torch']}, {env['cpu']}{gpu}, {env['threads']} threads, "
        f"commit {env['commit'] or 'unknown'}",
        "",
        f"    {' '.join(env['command'])}",
        "",
    ]
    pictures = [
        part for attack in galleries for part in (f"## {attack}", "", f"![{attack}](galleries/{attack}.png)", "")
    ]
    return "\n".join([*head, markdown(results["rows"]), "", *pictures])
