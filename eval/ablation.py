"""What each term of the loss buys: the same recipe trained without it, over seeds, reported on the test images.

python eval/ablation.py --seeds 0                         every variant of recipes/mnist-c.yaml
python eval/ablation.py --seeds 0 1 2 --variants full     the recipe itself, mean of three seeds

Each cell is `train/advgan.py` and then `eval/compare.py`, in a directory of its own. A cell that is there already
is kept if it was trained with the same settings; one that was stopped goes on.
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
from advgan.experiments.ablation.run import Settings, main

if __name__ == "__main__":
    run(main, Settings)
