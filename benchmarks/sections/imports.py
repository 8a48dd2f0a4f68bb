"""What `import advgan` takes in a fresh process, and what it brings along."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

from advgan.models.generator import Generator
from benchmarks.race import Bench, Row
from benchmarks.turns import Failed, in_turn

ROOT = Path(__file__).resolve().parents[2]
TORCH = "import torch"
STATEMENTS = ("import advgan", "from advgan import Generator", "import advgan.attacks, advgan.classifiers")
# Packages that nobody who imports the library has asked for.
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


def imports(bench: Bench, generator: Generator | None) -> list[Row]:
    sides = {statement: partial(seconds_of, statement) for statement in (TORCH, *STATEMENTS)}
    rows = in_turn(bench, sides, TORCH, "an import")
    for row in rows:
        if row["status"] == "ok":
            row["heavy"] = brought(row["side"])
    return rows


def seconds_of(statement: str) -> float:
    """Of the statement alone, in a process of its own. Raises Failed."""
    return float(_child(statement)["seconds"])  # type: ignore[arg-type]


def brought(statement: str) -> list[str]:
    """Which of the `HEAVY` packages are imported after it."""
    modules = _child(statement)["modules"]
    return [name for name in HEAVY if name in modules]  # type: ignore[operator]


def _child(statement: str) -> dict[str, object]:
    command = [sys.executable, "-c", CHILD, statement]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise Failed(f"{statement}: {(done.stderr.strip().splitlines() or [''])[-1][:200]}")
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found
