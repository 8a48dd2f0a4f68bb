"""Ensembles of classifiers: majority vote, mean logits, or mean probabilities."""

import math
import reprlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advgan.core.errors import InputError
from advgan.core.json_files import check_keys
from advgan.core.rejection import can_reject
from advgan.defenses.base import Defended, adaptive


class Ensemble(Defended):
    """`inner` and other `members`; a subclass combines their logits (m, n, k) into (n, k).

    members   classifiers of the same images and classes: modules; in `defend` the directories of saved ones, "DIR,DIR"
    A saved ensemble holds configs and weights of all members, not their paths. The evaluation counts the forwards of
    `inner`, one for each image. Raises InputError for no members, and for members of other shapes or classes.
    """

    def __init__(self, inner: nn.Module, members: str | Sequence[nn.Module] = ()) -> None:
        if isinstance(members, str):  # parsed by `defend`
            raise InputError(f"members of {type(self).__name__} must be classifiers, got the text {members!r}")
        classifiers = list(members)
        if not classifiers:
            raise InputError(f"{self.spec_name}:members must name at least one classifier to join, got none")
        for member in classifiers:
            _check_fit(self.spec_name, member, inner)
        super().__init__(inner, members=[getattr(m, "config", {"name": type(m).__name__}) for m in classifiers])
        self.members = nn.ModuleList(classifiers).eval()

    @classmethod
    def check_settings(cls, settings: Mapping[str, Any]) -> None:
        check_keys(f"the settings of {cls.spec_name}", settings, ["members"])
        members = settings["members"]
        if not isinstance(members, list) or not members or not all(isinstance(member, dict) for member in members):
            raise InputError(f"{cls.spec_name}:members must be a list of configurations, got {reprlib.repr(members)}")

    @staticmethod
    def combine(logits: Tensor) -> Tensor:
        """(m, n, k) of the members -> (n, k)."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        # Copies: a member may change its images in place.
        return self.combine(torch.stack([member(x.clone()) for member in (self.inner, *self.members)]))

    def adaptive(self) -> nn.Module:
        return EnsembleView([self.inner, *self.members], self.combine)


class EnsembleView(nn.Module):
    """Adaptive view of an ensemble: the members' adaptive views, their logits (m, n, k) joined by `combine`."""

    def __init__(self, members: Sequence[nn.Module], combine: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.views, self.combine = nn.ModuleList(map(adaptive, members)), combine

    def forward(self, x: Tensor) -> Tensor:
        return self.combine(torch.stack([view(x.clone()) for view in self.views]))


class MeanLogits(Ensemble):
    """The mean of the members' logits: more confident members have more weight."""

    spec_name = "mean-logits"

    @staticmethod
    def combine(logits: Tensor) -> Tensor:
        return logits.mean(0)


class MeanProbabilities(Ensemble):
    """The logarithm of the mean of the members' probabilities (Strauss et al. 2017, "Ensemble methods as a defense to
    adversarial perturbations", arXiv:1709.03423).
    """

    spec_name = "mean-probabilities"

    @staticmethod
    def combine(logits: Tensor) -> Tensor:
        return logits.float().log_softmax(2).logsumexp(0) - math.log(len(logits))


class MajorityVote(Ensemble):
    """The number of votes for each class, and half a vote that breaks ties, for the class with the largest mean
    probability of those with the most votes. Its gradient is zero: adaptive attacks use that of `MeanProbabilities`.
    """

    spec_name = "vote"

    @staticmethod
    def combine(logits: Tensor) -> Tensor:
        k = logits.shape[2]
        votes = F.one_hot(logits.argmax(2), k).sum(0)
        first = votes == votes.amax(1, keepdim=True)
        tie_break = logits.float().softmax(2).mean(0).masked_fill(~first, -1).argmax(1)
        return votes + F.one_hot(tie_break, k) / 2 + 0 * logits.sum(0)

    def adaptive(self) -> nn.Module:
        return EnsembleView([self.inner, *self.members], MeanProbabilities.combine)


def _check_fit(defense: str, member: nn.Module, inner: nn.Module) -> None:
    """Raise InputError for a member that rejects, or has other shapes or classes than `inner`."""
    if can_reject(member):
        raise InputError(f"{defense} cannot join a classifier that rejects, expected members without rejection")
    for description, key in (("images of shape", "image_shape"), ("classes", "num_classes"), ("classes", "classes")):
        expected, actual = getattr(inner, key, None), getattr(member, key, None)
        if None not in (expected, actual) and expected != actual:
            raise InputError(
                f"{defense}:members must fit the classifier, expected {description} {expected}, got {actual}"
            )
