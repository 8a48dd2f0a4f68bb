"""What a black box has said, kept: each question is asked once, and its answer learned from in every later round."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from advgan.classifiers import BlackBox
from advgan.core.threat_model import to_8bit
from advgan.data import Split
from advgan.training.runtime.checkpoint import Record


class Told(Record):
    """Answers (n, k) about the attacker's `clean` images, the `adversarial` ones of all rounds, and those that
    `validation` only measures with; the adversarial images themselves, uint8 (m, c, h, w), are `sent`.

    `each_round` are the most adversarial images that a round asks about, `seed` that of every draw.
    """

    def __init__(self, each_round: int, seed: int) -> None:
        nothing = {key: torch.empty(0) for key in ("clean", "adversarial", "validation")}
        super().__init__(**nothing, sent=torch.empty(0, dtype=torch.uint8))
        self.each_round, self.seed = each_round, seed

    def ask(self, black_box: BlackBox, key: str, split: Split) -> None:
        """Append to self[key] the answers about the images of `split` that have none there yet."""
        rest = split.take(torch.arange(len(self[key]), len(split)))
        for x, _ in rest.batches(black_box.batch_size):
            self[key] = torch.cat([self[key], black_box.query(x)])

    def ask_about_attack(self, black_box: BlackBox, generator: Any, train: Split, round_: int) -> None:
        """Append the answers about adversarial images by `generator` as it is now, of training images drawn for this
        round. Where the service fails half way, the next call sends the same images and goes on after the last answer.
        """
        order = np.random.default_rng((self.seed, round_)).permutation(len(train))[: self.each_round]
        device = next(generator.parameters()).device
        with torch.no_grad():
            new = [
                to_8bit(generator(x.to(device)), x.to(device)).cpu()
                for x, _ in train.take(torch.from_numpy(order)).batches(250)
            ]
        sent = torch.cat([self["sent"], *new])
        self.ask(black_box, "adversarial", Split(sent, torch.zeros(len(sent))))
        self["sent"] = sent

    def mixed(self, x: Tensor, b: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Half of the clean images `x` with answers `b`, and as many adversarial ones with theirs: of all rounds, half
        of them of the newest."""
        half, pool, new = len(x) // 2, len(self["adversarial"]), min(self.each_round, len(self["clean"]))
        first = np.where(np.arange(len(x) - half) % 2, pool - new, 0)  # every other one is among the newest
        chosen = torch.from_numpy(np.random.default_rng((self.seed, step, 1)).integers(first, pool))
        x_adv = self["sent"][chosen].to(x.device).float() / 255
        return torch.cat([x[:half], x_adv]), torch.cat([b[:half], self["adversarial"][chosen].to(x.device)])
