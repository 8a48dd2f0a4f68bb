"""train/advgan.py: the program is advgan/training/program.py, whose docstring is its help."""

import sys
from pathlib import Path

# `accelerate launch` puts train/ first on the path, where `import advgan` would find this very file.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from advgan.core.program import run_program

if __name__ == "__main__":
    run_program("advgan.training.program")
