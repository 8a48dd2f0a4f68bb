"""Diversity of the draws of a generator with noise on one image, and the success of their union."""

from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from advgan.evaluation.statistics import wilson

DRAWS = (1, 4, 16)


def diversity(x_adv: Tensor, success: Tensor, prediction: Tensor, noise: Tensor) -> dict[str, Any]:
    """Of k draws for each of n >= 1 images, as plain values.

    x_adv        (k, n, c, h, w) the draws
    success      (k, n) bool, is it misclassified?; prediction (k, n) of the target
    noise        (2, n, c, h, w) two independent sign noises of the same eps on the same images: the measure of distance

    union        draws -> ASR with its Wilson interval, an image counting where any of its first so many draws fools
    distance     mean l2 distance between two draws of an image, over the same of the two noises (both cut at the box,
                 so that 1 is as different as independent noise, and 0 is one attack many times)
    classes      mean number of different classes that the draws of an image are taken for; class_share over the k draws
    """
    k, n = success.shape
    pairs = list(combinations(range(k), 2))
    mean_distance = (
        torch.stack([_distance(x_adv[i], x_adv[j]) for i, j in pairs]).mean() if pairs else torch.tensor(0.0)
    )
    noise_distance = _distance(noise[0], noise[1]).mean()
    classes = torch.stack([(prediction == label).any(0) for label in prediction.unique()]).sum(0).double().mean().item()
    union_rates = {}
    for draws in (draws for draws in DRAWS if draws <= k):
        n_success = int(success[:draws].any(0).sum())
        union_rates[str(draws)] = [n_success / n, *wilson(n_success, n)]
    return {
        **{"n": n, "draws": k, "union": union_rates},
        "distance": (mean_distance / noise_distance.clamp_min(1e-12)).item(),
        **{"classes": classes, "class_share": classes / k},
    }


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """l2 distance (n,) between images (n, c, h, w)."""
    return (a - b).flatten(1).norm(dim=1)
