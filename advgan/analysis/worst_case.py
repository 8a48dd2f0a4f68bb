"""The worst case over attacks, image by image: an attack succeeds if any attack does."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from advgan.analysis.groups import by_attack, groups
from advgan.evaluation.evaluate import Result
from advgan.evaluation.metrics import correct, misclassified
from advgan.evaluation.statistics import rate


def worst_case(results: Iterable[Result]) -> list[dict[str, Any]]:
    """Per group the worst case per image over all attacks, all seeds, failed ones left out (Carlini et al. 2019,
    "Report per-example attack success rate"): the mean over images of the worst attack, not the worst attack's mean.

    asr and its Wilson interval are over the eligible images, robust_accuracy over all images, as in a row; `needed` is,
    per attack, the number of images on which only that attack succeeds.
    """
    entries = []
    for group, members in groups(results).items():
        records = members[0].records
        eligible = records["counts"]
        success = {attack: any_success(runs) for attack, runs in by_attack(members).items()}
        n_successful = torch.stack(list(success.values())).sum(0)
        misclassified_by_any = torch.stack([misclassified(result.records) for result in members]).any(0)
        hits, n_attacked = int((n_successful > 0).sum()), int(eligible.sum())
        entries.append(
            {
                **group._asdict(),
                **{"attacks": list(success), "n": len(eligible), "n_attacked": n_attacked},
                **rate("asr", hits, n_attacked),
                "robust_accuracy": (correct(records) & ~misclassified_by_any).double().mean().item(),
                "needed": {
                    attack: int((success_of & (n_successful == 1)).sum()) for attack, success_of in success.items()
                },
            }
        )
    return entries


def any_success(results: Iterable[Result]) -> Tensor:
    """Whether at least one of the results succeeds within eps, per image: (n,) bool."""
    return torch.stack([result.records["success"] for result in results]).any(0)
