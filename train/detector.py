"""Make a detector of adversarial images for a classifier, calibrated on clean validation images, tested once.

python train/detector.py                                           feature squeezing for mnist-c on the embedded digits
python train/detector.py --kind binary --attacks fgsm pgd:steps=10 --generator RUN --output-dir DIR
python train/detector.py --kind discriminator --discriminator RUN  that of a run of train/advgan.py

Its threshold lets --fpr of the clean images be rejected. Then --defense reject:detector=DIR is the classifier that
rejects, in every program. Training takes seconds, so there is nothing to resume.
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
from advgan.training.detector import Settings, main

if __name__ == "__main__":
    run(main, Settings)
