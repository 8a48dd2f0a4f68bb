"""The amortisation gap: how much of what 40 steps of PGD achieve does one forward pass achieve, and do both add up?

python eval/amortisation.py --target-weights RUN --generator RUN --eps 0.1 0.2 0.3
python eval/amortisation.py --recipe recipes/amortisation-mnist.yaml --data-dir data

Three questions, on the same correctly classified test images. One pass beside FGSM, I-FGSM and the union of four
PGD-40, at each eps. A pass and a few gradient steps from there (warm start) beside PGD and APGD with as many. And of
generators that take any class, or noise: targeted success, and how different the draws for one image are.

All results are verified (advgan/evaluation). Every cell is kept in OUTPUT_DIR/cells as soon as it is done: the same
call goes on where it was stopped.
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
from advgan.experiments.amortisation.run import Settings, main

if __name__ == "__main__":
    run(main, Settings)
