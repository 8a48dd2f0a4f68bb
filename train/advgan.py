"""Train a generator that attacks a fixed classifier in one forward pass (AdvGAN, Xiao et al. 2018, arXiv:1801.02610).

accelerate launch train/advgan.py                                    the embedded digits, with all defaults
torchrun --nproc-per-node 2 train/advgan.py ...                      several processes share each batch
python train/advgan.py --dataset mnist --data-dir data --target mnist-c --target-weights RUN --eps 8/255

The same program as `advgan train`: advgan/training/program.py.
"""

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
