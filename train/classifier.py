"""Train a classifier: any built-in target on any data set, hardened or not, chosen on validation, tested once.

python train/classifier.py                                           mnist-c on the embedded digits, with all defaults
python train/classifier.py --dataset mnist --data-dir data --epochs 4 --output-dir RUN
python train/classifier.py --adversarial pgd --eps 0.3 ...           adversarial training
torchrun --nproc-per-node 2 train/classifier.py ...                  several processes share each batch
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
from advgan.training.classifier import Settings, main

if __name__ == "__main__":
    run(main, Settings)
