"""Defensive distillation: a classifier that learns another one's soft labels (Papernot et al. 2016, arXiv:1511.04508).

python train/distill.py --temperature 20                       mnist-c on the embedded digits, with all other defaults
python train/distill.py --dataset mnist --data-dir data --temperature 100 --epochs 4 --output-dir RUN
torchrun --nproc-per-node 2 train/distill.py ...                  several processes share each batch

A teacher learns the labels at temperature T; then a student of the same architecture learns what the teacher says at T
of the very images that it is shown. RUN/classifier is the student, which every other program takes as it is: at
temperature 1, with logits T times as large as a plain classifier's. RUN/teacher is the teacher.

Nothing is chosen: both nets are kept as the last step leaves them, when the learning rate has come down to nothing.
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
from advgan.training.distillation import Settings, main

if __name__ == "__main__":
    run(main, Settings)
