"""Defensive distillation against temperature: the table of Papernot et al. 2016, and the attacks that it does not stop.

python eval/distillation.py --recipe recipes/distillation-small.yaml       three temperatures, minutes
python eval/distillation.py --recipe recipes/distillation.yaml --data-dir data
python eval/distillation.py --runs A B C        finished runs of train/distill.py, one of them of temperature 1

For each temperature a student is distilled (train/distill.py, in OUTPUT_DIR/T-20), as far as that is not done. Then all
are attacked on the same test images: by JSMA toward every wrong class, with the derivative of the softmax in float32 as
in 2016, of the logits, and of the softmax without underflow; by other attacks; and, with --generator-recipe, by one
pass of a generator that train/advgan.py trains on each (OUTPUT_DIR/generator-20). "none" is the teacher of T = 1: a
plain classifier.

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
from advgan.experiments.distillation.run import Settings, main

if __name__ == "__main__":
    run(main, Settings)
