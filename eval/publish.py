"""Measure a run on test images that it has not seen, and publish it: weights, configuration and a card of its figures.

python eval/publish.py --run checkpoints/runs/mnist-c --target mnist-c --target-weights checkpoints/runs/mnist-c \
    --dataset mnist --data-dir data --output-dir checkpoints/mnist-c-generator

A run of train/classifier.py (with --classifier) or train/advgan.py becomes a folder with config.json, model.safetensors
and README.md (the run's card, and these figures), which `load_target` or `Generator.from_pretrained` loads. --also adds
a second data set, which anybody can measure again without a download.
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
from advgan.experiments.publish import Settings, main

if __name__ == "__main__":
    run(main, Settings)
