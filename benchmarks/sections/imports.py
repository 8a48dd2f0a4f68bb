"""Time of `import advgan` in a fresh process, and the heavy packages that it imports."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

from advgan.models.generator import Generator
from benchmarks.interleaved import MeasurementFailed, interleave_measurements
from benchmarks.timing import BenchmarkRow, BenchmarkSetup

ROOT = Path(__file__).resolve().parents[2]
TORCH = "import torch"
STATEMENTS = ("import advgan", "from advgan import Generator", "import advgan.attacks, advgan.classifiers")
# Packages that the library must not import by itself.
HEAVY = (
    *("timm", "transformers", "datasets", "onnx", "onnxruntime", "onnxscript", "foolbox", "torchattacks", "art"),
    *("matplotlib", "scipy", "tensorboard", "torchvision", "accelerate", "pandas"),
)
CHILD = """
import json, sys, time
began = time.perf_counter()
exec(sys.argv[1])
took = time.perf_counter() - began
print(json.dumps({"seconds": took, "modules": sorted({name.partition(".")[0] for name in sys.modules})}))
"""


def imports(setup: BenchmarkSetup, generator: Generator | None) -> list[BenchmarkRow]:
    contenders = {statement: partial(seconds_of, statement) for statement in (TORCH, *STATEMENTS)}
    rows = interleave_measurements(setup, contenders, TORCH, "an import")
    for row in rows:
        if row["status"] == "ok":
            row["heavy"] = heavy_imports(row["side"])
    return rows


def seconds_of(statement: str) -> float:
    """Seconds of the statement alone, in a process of its own. Raises MeasurementFailed."""
    return float(_child(statement)["seconds"])  # type: ignore[arg-type]


def heavy_imports(statement: str) -> list[str]:
    """The `HEAVY` packages that it imports."""
    modules = _child(statement)["modules"]
    return [name for name in HEAVY if name in modules]  # type: ignore[operator]


def _child(statement: str) -> dict[str, object]:
    command = [sys.executable, "-c", CHILD, statement]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if process.returncode:
        raise MeasurementFailed(f"{statement}: {(process.stderr.strip().splitlines() or [''])[-1][:200]}")
    return json.loads(process.stdout.splitlines()[-1])
