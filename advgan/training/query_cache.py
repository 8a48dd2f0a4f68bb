"""The responses of a black box: each image is queried once, and its response is used in every later round."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from advgan.classifiers import BlackBox
from advgan.core.threat_model import to_8bit
from advgan.core.weights import device_of
from advgan.data import Split
from advgan.training.runtime.checkpoint import TrainState


class QueryCache(TrainState):
    """Responses (n, k) to the attacker's `clean` images, to the `adversarial` ones of all rounds, and to `validation`
    images; the adversarial images themselves, uint8 (m, c, h, w), are `sent`.

    per_round   largest number of adversarial images that a round queries
    seed        of every random choice of images
    """

    def __init__(self, per_round: int, seed: int) -> None:
        empty = {key: torch.empty(0) for key in ("clean", "adversarial", "validation")}
        super().__init__(**empty, sent=torch.empty(0, dtype=torch.uint8))
        self.per_round, self.seed = per_round, seed

    def query(self, black_box: BlackBox, key: str, split: Split) -> None:
        """Append to self[key] the responses to the images of `split` that have none there yet."""
        remaining = split.take(torch.arange(len(self[key]), len(split)))
        for x, _ in remaining.batches(black_box.batch_size):
            self[key] = torch.cat([self[key], black_box.query(x)])

    def query_adversarial(self, black_box: BlackBox, generator: Any, train: Split, round_: int) -> None:
        """Append the responses to adversarial images by `generator`, of training images chosen for this round. Where
        the service fails half way, the next call sends the same images and continues after the last response.
        """
        order = np.random.default_rng((self.seed, round_)).permutation(len(train))[: self.per_round]
        device = device_of(generator)
        with torch.no_grad():
            new = [
                to_8bit(generator(x.to(device)), x.to(device), generator.threat.norm).cpu()
                for x, _ in train.take(torch.from_numpy(order)).batches(250)
            ]
        sent = torch.cat([self["sent"], *new])
        self.query(black_box, "adversarial", Split(sent, torch.zeros(len(sent))))
        self["sent"] = sent

    def mixed_batch(self, x: Tensor, b: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Half of the clean images `x` with responses `b`, and as many adversarial ones with theirs: of all rounds,
        half of them of the newest."""
        half, total, newest = len(x) // 2, len(self["adversarial"]), min(self.per_round, len(self["clean"]))
        first = np.where(np.arange(len(x) - half) % 2, total - newest, 0)  # every other one is among the newest
        chosen = torch.from_numpy(np.random.default_rng((self.seed, step, 1)).integers(first, total))
        x_adv = self["sent"][chosen].to(x.device).float() / 255
        return torch.cat([x[:half], x_adv]), torch.cat([b[:half], self["adversarial"][chosen].to(x.device)])
