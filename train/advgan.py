"""train/advgan.py: the program is advgan/training/program.py, whose docstring is its help."""

from __future__ import annotations

import sys
from pathlib import Path

# `accelerate launch` puts train/ first on the path, where `import advgan` would find this very file.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from advgan.core.shutdown import exit_on_signals

if __name__ == "__main__":
    exit_on_signals()  # also while the rest is imported

from advgan.core.config import run
from advgan.training.program import Settings, main

__all__ = ["Settings", "main"]

if __name__ == "__main__":
    run(main, Settings)
