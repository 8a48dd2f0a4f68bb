"""How much does each step of eps cost a classifier? Accuracy and attack success against eps, from 0 on.

python eval/sweep.py --attacks noise-sign fgsm ifgsm
python eval/sweep.py --recipe recipes/tutorial.yaml --data-dir data       the curve of PyTorch's FGSM tutorial

All results are verified (advgan/evaluation). Every cell (attack x eps) is kept in OUTPUT_DIR/cells as soon as it is
done: the same call goes on where it was stopped.
"""

from __future__ import annotations

import sys
from pathlib import Path

# A program run by its path has its own folder first on the path; the library is above it.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from advgan.core.shutdown import exit_on_signals

if __name__ == "__main__":
    exit_on_signals()  # also while the rest is imported

from advgan.core.config import run
from advgan.experiments.sweep.run import Settings, main

if __name__ == "__main__":
    run(main, Settings)
