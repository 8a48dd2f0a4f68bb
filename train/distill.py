"""train/distill.py: the program is advgan/training/distillation.py, whose docstring is its help."""

from __future__ import annotations

import sys
from pathlib import Path

# A program run by its path has its own folder first on the path; the library is above it.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from advgan.core.shutdown import exit_on_signals

if __name__ == "__main__":
    exit_on_signals()  # also while the rest is imported

from advgan.core.config import run
from advgan.training.distillation import Settings, main

if __name__ == "__main__":
    run(main, Settings)
