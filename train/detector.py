"""train/detector.py: the program is advgan/training/detector.py, whose docstring is its help."""

import sys
from pathlib import Path

# A program run by its path has its own folder first on the path; the library is above it.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from advgan.core.program import run_program

if __name__ == "__main__":
    run_program("advgan.training.detector")
