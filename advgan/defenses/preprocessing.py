"""Defences that change the image before the classifier sees it, and how an attacker goes through them."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from advgan.defenses.base import Defended, Expectation, adaptive
from advgan.errors import InputError


class Preprocessing(Defended):
    """logits(process(x)). A subclass writes `process`: images (n, c, h, w) in [0, 1] -> images of the same shape.

    smooth   whether autograd knows its derivative. Where not, the attacker takes the identity's (BPDA, Athalye et al.
             2018, "Obfuscated gradients", section 4.1), because process(x) is near x
    draws    over how many an attacker of a random one takes the mean
    """

    smooth: ClassVar[bool] = True
    draws = 10

    def process(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(self.process(x))
        return logits

    def adaptive(self) -> nn.Module:
        through = Through(self)
        return Expectation(through, self.draws) if self.random else through


class Through(nn.Module):
    """A `Preprocessing` with a useful gradient: its own where it has one, else the identity's."""

    def __init__(self, defense: Preprocessing) -> None:
        super().__init__()
        self.defense, self.inner = defense, adaptive(defense.inner)

    def forward(self, x: Tensor) -> Tensor:
        processed = self.defense.process(x)
        if not self.defense.smooth:
            processed = x + (processed - x).detach()
        logits: Tensor = self.inner(processed)
        return logits


class BitDepth(Preprocessing):
    """`bits` per value instead of 8: round(x (2^bits - 1)) / (2^bits - 1)  (Xu et al. 2018, section 3.1)."""

    word = "bit-depth"
    smooth = False

    def __init__(self, inner: nn.Module, bits: int = 1) -> None:
        if not 1 <= bits <= 8:
            raise InputError(f"bit-depth:bits must be from 1 to 8, got {bits}")
        super().__init__(inner, bits=bits)
        self.levels = 2**bits - 1

    def process(self, x: Tensor) -> Tensor:
        return (x * self.levels).round() / self.levels
