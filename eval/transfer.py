"""Who fools whom? Images made on one classifier, tried on the others: black-box attacks with a stand-in.

python eval/transfer.py --dataset mnist --target mnist-a mnist-b mnist-c --target-weights RUN RUN RUN
python eval/transfer.py --target mnist-c mnist-a --target-weights RUN RUN --pair mnist-a mnist-c --attack pgd:steps=40
python eval/transfer.py --target mnist-c mnist-b --target-weights RUN SUBSTITUTE --generator SUBSTITUTE --victim mnist-c

A matrix of sources and victims for one attack at one eps; and the curve of one step, many steps and noise against eps.
With --victim everything is tried on that classifier alone: made on itself (white box), and on stand-ins, for instance
those of train/substitute.py, with the queries that each has spent.
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
from advgan.experiments.transfer.run import Settings, main

if __name__ == "__main__":
    run(main, Settings)
