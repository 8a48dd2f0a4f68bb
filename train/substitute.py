"""Attack a classifier that only answers queries: learn a substitute from its answers, and a generator against that.

python train/substitute.py --dataset mnist --data-dir data --target mnist-c --target-weights RUN
python train/substitute.py --distillation static --answers labels --images 2000 --budget 2000 ...

Static: the substitute f learns the black box b's answers on the attacker's images, then the generator fools f.
Dynamic (Xiao et al. 2018, arXiv:1801.02610, section 3.3): both in turn, in rounds; before each but the first, b is
asked about the newest adversarial images, and f learns from its answers to these, too (and to those of earlier rounds,
which are paid for). Static is dynamic with one round: both take the same steps.

The attacker knows no labels: the class of a training image is what b says of it. The generator that is kept is the last
round's, so no query is spent on choosing one. Queries of the attack, and those of validation, which only measure, are
counted apart.
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
from advgan.training.substitute import Settings, main

if __name__ == "__main__":
    run(main, Settings)
