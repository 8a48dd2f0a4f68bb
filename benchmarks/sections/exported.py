"""Section onnx: the exported generator in onnxruntime beside PyTorch, on the CPU, one image at a time and many."""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

from advgan.attacks import AttackFn
from advgan.models.export import export_generator, read_onnx
from advgan.models.generator import Generator
from benchmarks.race import Bench, Row, median_and_range, race

SIZES = (1, 8, 100)  # images at once
ONNX, EAGER = "onnxruntime", "PyTorch"


def exported(bench: Bench, generator: Generator | None) -> list[Row]:
    """Seconds for all images in batches of each of `SIZES`, in turn, with the same threads; their ratios by size."""
    if generator is None or generator.classes or generator.noise or generator.eps_min is not None:
        why = "no --generator DIR given" if generator is None else "this generator takes more than images"
        return [{"side": ONNX, "status": f"skipped: {why}"}]
    eager = generator.cpu()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "generator.onnx"
        checks = export_generator(eager, path, "onnx")
        run = read_onnx(path)
    sizes = sorted({min(size, len(bench.x)) for size in SIZES})
    here = replace(bench, x=bench.x.cpu(), y=bench.y.cpu(), batch_sizes=sizes)
    sides: dict[str, AttackFn] = {ONNX: lambda x, y: run({"x": x}), EAGER: lambda x, y: eager.perturb(x)}
    seconds = race(here, sides).seconds
    rows: list[Row] = []
    for side in sides:
        ratios = {
            f"{ONNX}, batch {size}": [a / b for a, b in zip(seconds[side, size], seconds[ONNX, size], strict=False)]
            for size in sizes
        }
        own = {size: seconds[side, size] for size in sizes}
        rows.append(
            {
                **{"side": side, "status": "ok", "rounds": len(own[sizes[0]]), "seconds": own},
                "images_per_second": {size: len(here.x) / statistics.median(own[size]) for size in sizes},
                "times": {name: median_and_range(found) for name, found in ratios.items()},
                "difference": max(check.difference for check in checks),
            }
        )
    generator.to(bench.x.device)
    return rows
