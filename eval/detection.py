"""What is a detector worth? Its ROC against attacks that do not know it, and against those that do.

python eval/detection.py --detector DIR                            one or more that train/detector.py has made
python eval/detection.py --detector DIR --attacks pgd:steps=40@oblivious pgd:steps=40 square
python eval/detection.py --detector DIR --generator BEFORE AFTER   AFTER: trained with --defense reject:detector=DIR

An attack with @oblivious sees the classifier alone; without, the detector too. Metrics are
recomputed from the images (advgan/evaluation); success means that an image is not rejected. Every result is kept in
OUTPUT_DIR/cells as soon as it is done: the same command resumes.
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
from advgan.experiments.detection.run import Settings, main

if __name__ == "__main__":
    run(main, Settings)
