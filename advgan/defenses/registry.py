"""The defences by the names they have on the command line and in every report: bit-depth:bits=3+reject:detector=RUN."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from advgan.defenses.base import Defended
from advgan.defenses.compression import Int8, Prune
from advgan.defenses.ensemble import MeanLogits, MeanProbabilities, Vote
from advgan.defenses.filters import Gaussian, Median, TotalVariation
from advgan.defenses.geometry import CropResize, RandomCrop, RandomPad
from advgan.defenses.masking import LabelsOnly, NoisyGradients, Saturated, TruncatedGradients
from advgan.defenses.preprocessing import BitDepth, Jpeg
from advgan.defenses.rejection import Reject
from advgan.words import parse_call

M = TypeVar("M", bound=nn.Module)

KINDS: tuple[type[Defended], ...] = (
    *(BitDepth, Jpeg, Median, Gaussian, TotalVariation, CropResize, RandomCrop, RandomPad),
    *(Int8, Prune),
    *(Vote, MeanLogits, MeanProbabilities),
    *(LabelsOnly, Saturated, NoisyGradients, TruncatedGradients),
    Reject,
)
DEFENSES = {kind.word: kind for kind in KINDS}


def defend(model: M, words: str | None) -> M | Defended:
    """`model` behind the defences that `words` name, each with settings after colons, from the inside out: in "a+b" b
    stands around a, and sees the image first. None is none.

    Raises InputError for an unknown name, an unknown setting, or a value that a defence cannot take.
    """
    found: M | Defended = model
    for word in words.split("+") if words else ():
        name, settings = parse_call(word, DEFENSES, {"inner"}, "defense")
        found = DEFENSES[name](found, **settings)
    found.eval()
    return found
