"""Defenses by their names on the command line and in reports: bit-depth:bits=3+reject:detector=RUN."""

from advgan.defenses.base import Defended
from advgan.defenses.compression import Int8, Prune
from advgan.defenses.detection import RejectingClassifier
from advgan.defenses.ensemble import MajorityVote, MeanLogits, MeanProbabilities
from advgan.defenses.filters import Gaussian, Median, TotalVariation
from advgan.defenses.geometry import CropResize, RandomCrop, RandomPad
from advgan.defenses.masking import LabelsOnly, NoisyGradients, Saturated, TruncatedGradients
from advgan.defenses.preprocessing import BitDepth, Jpeg

KINDS: tuple[type[Defended], ...] = (
    *(BitDepth, Jpeg, Median, Gaussian, TotalVariation, CropResize, RandomCrop, RandomPad),
    *(Int8, Prune),
    *(MajorityVote, MeanLogits, MeanProbabilities),
    *(LabelsOnly, Saturated, NoisyGradients, TruncatedGradients),
    RejectingClassifier,
)
DEFENSES = {kind.spec_name: kind for kind in KINDS}
