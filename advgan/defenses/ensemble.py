"""Several classifiers answer as one: by majority, by their mean logits, or by their mean probabilities."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advgan.core.errors import InputError
from advgan.core.json_files import check_keys
from advgan.defenses.base import Defended, adaptive, can_reject


class Ensemble(Defended):
    """`inner` and other `members`, whose logits (m, n, k) a subclass makes one answer (n, k) of.

    members   classifiers of the same images and classes: modules; in `defend` the directories of saved ones, "DIR,DIR"
    Saved, the folder holds them all: their configs and weights, and not where they lay. The harness counts the forwards
    of `inner`, one for each image that the ensemble is asked about. Raises InputError for no members, and for members
    that do not fit.
    """

    def __init__(self, inner: nn.Module, members: str | Sequence[nn.Module] = ()) -> None:
        if isinstance(members, str):  # read by `defend`
            raise InputError(f"members of {type(self).__name__} must be classifiers, got the text {members!r}")
        found = list(members)
        if not found:
            raise InputError(f"{self.spec_name}:members must name at least one classifier to join, got none")
        for member in found:
            _check_fit(self.spec_name, member, inner)
        super().__init__(inner, members=[getattr(m, "config", {"name": type(m).__name__}) for m in found])
        self.members = nn.ModuleList(found).eval()

    @classmethod
    def check_settings(cls, settings: Mapping[str, Any]) -> None:
        check_keys(f"the settings of {cls.spec_name}", settings, ["members"])
        members = settings["members"]
        if not isinstance(members, list) or not members or not all(isinstance(member, dict) for member in members):
            raise InputError(f"{cls.spec_name}:members must be a list of configurations, got {reprlib.repr(members)}")

    @staticmethod
    def answer(logits: Tensor) -> Tensor:
        """(m, n, k) of the members -> (n, k)."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        # Copies: a member may change its images in place.
        return self.answer(torch.stack([member(x.clone()) for member in (self.inner, *self.members)]))

    def adaptive(self) -> nn.Module:
        return EnsembleView([self.inner, *self.members], self.answer)


class EnsembleView(nn.Module):
    """What an attacker differentiates: the members' adaptive views, their logits (m, n, k) joined by `answer`."""

    def __init__(self, members: Sequence[nn.Module], answer: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.views, self.answer = nn.ModuleList(map(adaptive, members)), answer

    def forward(self, x: Tensor) -> Tensor:
        return self.answer(torch.stack([view(x.clone()) for view in self.views]))


class MeanLogits(Ensemble):
    """The mean of the members' logits: who is surer has more weight."""

    spec_name = "mean-logits"

    @staticmethod
    def answer(logits: Tensor) -> Tensor:
        return logits.mean(0)


class MeanProbabilities(Ensemble):
    """The logarithm of the mean of the members' probabilities (Strauss et al. 2017, "Ensemble methods as a defense to
    adversarial perturbations", arXiv:1709.03423).
    """

    spec_name = "mean-probabilities"

    @staticmethod
    def answer(logits: Tensor) -> Tensor:
        return logits.float().log_softmax(2).logsumexp(0) - math.log(len(logits))


class MajorityVote(Ensemble):
    """How many members decide for each class, and half a vote to break ties: of the classes with the most votes the one
    with the largest mean probability has it. The gradient is zero: an attacker takes that of `MeanProbabilities`.
    """

    spec_name = "vote"

    @staticmethod
    def answer(logits: Tensor) -> Tensor:
        k = logits.shape[2]
        votes = F.one_hot(logits.argmax(2), k).sum(0)
        first = votes == votes.amax(1, keepdim=True)
        tie_break = logits.float().softmax(2).mean(0).masked_fill(~first, -1).argmax(1)
        return votes + F.one_hot(tie_break, k) / 2 + 0 * logits.sum(0)

    def adaptive(self) -> nn.Module:
        return EnsembleView([self.inner, *self.members], MeanProbabilities.answer)


def _check_fit(word: str, member: nn.Module, inner: nn.Module) -> None:
    """Raise InputError for a member that rejects, or says that it answers other questions than `inner`."""
    if can_reject(member):
        raise InputError(f"{word} cannot join a classifier that rejects, expected members that answer every image")
    for what, key in (
        ("images of shape", "image_shape"),
        ("classes", "num_classes"),
        ("classes", "classes"),
    ):
        ours, theirs = getattr(inner, key, None), getattr(member, key, None)
        if None not in (ours, theirs) and ours != theirs:
            raise InputError(f"{word}:members must answer as the classifier they join, {what} {ours}, got {theirs}")
