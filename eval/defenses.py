"""What is each defence worth? Defence x attack on the same test images, and for each the worst attack per image.

python eval/defenses.py --rows none bit-depth:bits=2 checkpoints/runs/fast --attacks fgsm fgsm@naive pgd:steps=40
python eval/defenses.py --recipe recipes/defenses-small.yaml        with the trainings of its rows: `make defenses`

A row is the base (`none`), a defence around it, or a hardened classifier's directory, with or without defences around
that: [LABEL=](none | DIRECTORY | DEFENSE)[+DEFENSE]... An attack by gradients knows the defence and goes through it;
@naive takes the defence's own gradients, @oblivious those of the classifier behind it.
All results are verified (advgan/evaluation). What --prepare trains, and every cell, is kept as soon as it is done: the
same call goes on where it was stopped.
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
from advgan.experiments.defenses.run import Settings, main

if __name__ == "__main__":
    run(main, Settings)
