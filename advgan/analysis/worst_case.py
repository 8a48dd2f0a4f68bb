"""What a defender has to expect: an image is lost if any attack fools it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from advgan.analysis.groups import by_attack, groups
from advgan.evaluation.evaluate import Result
from advgan.evaluation.metrics import correct, misclassified
from advgan.evaluation.statistics import wilson


def worst_case(results: Iterable[Result]) -> list[dict[str, Any]]:
    """Per group the worst case per image over all attacks, all seeds, failed ones left out (Carlini et al. 2019,
    "Report per-example attack success rate"): the mean over images of the worst attack, not the worst attack's mean.

    asr and its Wilson interval are over the images that count, robust_accuracy over all of them, as in a row; `needed`
    says of each attack how many images only it fools.
    """
    found = []
    for group, members in groups(results).items():
        records = members[0].records
        counts = records["counts"]
        success = {attack: any_success(runs) for attack, runs in by_attack(members).items()}
        fooled = torch.stack(list(success.values())).sum(0)
        lost = torch.stack([misclassified(result.records) for result in members]).any(0)
        hits, n_attacked = int((fooled > 0).sum()), int(counts.sum())
        low, high = wilson(hits, n_attacked)
        found.append(
            {
                **group._asdict(),
                **{"attacks": list(success), "n": len(counts), "n_attacked": n_attacked},
                **{"asr": hits / n_attacked, "asr_low": low, "asr_high": high},
                "robust_accuracy": (correct(records) & ~lost).double().mean().item(),
                "needed": {attack: int((own & (fooled == 1)).sum()) for attack, own in success.items()},
            }
        )
    return found


def any_success(results: Iterable[Result]) -> Tensor:
    """(n,) bool: which images at least one of the results fools within eps."""
    return torch.stack([result.records["success"] for result in results]).any(0)
