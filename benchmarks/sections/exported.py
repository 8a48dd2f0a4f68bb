"""Section onnx: the exported generator in onnxruntime and in PyTorch, on the CPU, for several batch sizes."""

import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

from advgan.attacks import AttackFn
from advgan.models.export import export_generator, read_onnx
from advgan.models.generator import Generator
from benchmarks.timing import BenchmarkRow, BenchmarkSetup, interleave, median_and_range

SIZES = (1, 8, 100)  # images at once
ONNX, EAGER = "onnxruntime", "PyTorch"


def exported(setup: BenchmarkSetup, generator: Generator | None) -> list[BenchmarkRow]:
    """Seconds for all images in batches of each of `SIZES`, in turn, with the same threads; their ratios by size."""
    if generator is None or generator.labels or generator.classes or generator.noise or generator.eps_min is not None:
        reason = "no --generator DIR given" if generator is None else "this generator takes more than images"
        return [{"side": ONNX, "status": f"skipped: {reason}"}]
    eager = generator.cpu()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "generator.onnx"
        checks = export_generator(eager, path, "onnx")
        run = read_onnx(path)
    sizes = sorted({min(size, len(setup.x)) for size in SIZES})
    cpu_setup = replace(setup, x=setup.x.cpu(), y=setup.y.cpu(), batch_sizes=sizes)
    contenders: dict[str, AttackFn] = {ONNX: lambda x, y: run({"x": x}), EAGER: lambda x, y: eager.perturb(x)}
    seconds = interleave(cpu_setup, contenders).seconds
    rows: list[BenchmarkRow] = []
    for contender in contenders:
        ratios = {
            f"{ONNX}, batch {size}": [
                a / b for a, b in zip(seconds[contender, size], seconds[ONNX, size], strict=False)
            ]
            for size in sizes
        }
        contender_seconds = {size: seconds[contender, size] for size in sizes}
        rows.append(
            {
                **{
                    "side": contender,
                    "status": "ok",
                    "rounds": len(contender_seconds[sizes[0]]),
                    "seconds": contender_seconds,
                },
                "images_per_second": {
                    size: len(cpu_setup.x) / statistics.median(contender_seconds[size]) for size in sizes
                },
                "times": {name: median_and_range(values) for name, values in ratios.items()},
                "difference": max(check.difference for check in checks),
            }
        )
    generator.to(setup.x.device)
    return rows
