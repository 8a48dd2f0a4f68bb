"""From per-image records to the metrics of a row. Every rate is over a stated set of images."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from advgan.core.inputs import predicted
from advgan.core.threat_model import TOLERANCE, Threat
from advgan.evaluation.statistics import median_interval, rate, wilson

MANY_CLASSES = 100


def clean_records(logits: Tensor, y: Tensor, y_target: int | None, accepted: Tensor | None = None) -> dict[str, Tensor]:
    """Before the attack, per image (n,): label, clean prediction and confidence, and whether the image is eligible.

    It is (column `counts`) if it is classified correctly, not rejected (`accepted` (n,), of a target that can reject)
    and, for a targeted attack, its label is not the target class.
    """
    confidence, prediction = predicted(logits)
    records = {"label": y, "clean_prediction": prediction, "clean_confidence": confidence}
    records |= {} if accepted is None else {"clean_accepted": accepted}
    eligible = torch.ones_like(y, dtype=torch.bool) if y_target is None else y != y_target
    return records | {"counts": correct(records) & eligible}


def correct(records: dict[str, Tensor]) -> Tensor:
    """Whether each image (n,) is classified correctly before the attack, and not rejected."""
    hits = records["clean_prediction"] == records["label"]
    return hits & records["clean_accepted"] if "clean_accepted" in records else hits


def misclassified(records: dict[str, Tensor]) -> Tensor:
    """Whether each image (n,) is misclassified after the attack, within eps and not rejected."""
    errors = (records["prediction"] != records["label"]) & records["within"]
    return errors & records["accepted"] if "accepted" in records else errors


def reached(prediction: Tensor, label: Tensor, y_target: int | None) -> Tensor:
    """Whether each `prediction` (n,) is another class than `label` (n,) or, targeted, `y_target`."""
    return prediction != label if y_target is None else prediction == y_target


def changed_class(before: int | None, after: int | None, y_target: int | None) -> bool | None:
    """Whether an attack changed class `before` of an image to another or, targeted, to `y_target`; None where that is
    unknown, or nothing to reach."""
    if before is None or after is None or before == y_target:
        return None
    return after != before if y_target is None else after == y_target


def attack_outcome(
    records: dict[str, Tensor], threat: Threat, protocol: str, y_target: int | None
) -> dict[str, Tensor]:
    """After it, per image (n,): `fooled` at any distance, `within` the threat's eps, `success` both; *_8bit alike.

    Those of bounded attacks are within, as verified. A rejected image has not fooled the target.
    """
    columns = {}
    for form in ("", "_8bit"):
        prediction = records[f"prediction{form}"]
        near = records[f"{threat.norm}{form}"] <= threat.eps + TOLERANCE[threat.norm]
        success = reached(prediction, records["label"], y_target)
        success = success & records[f"accepted{form}"] if "accepted" in records else success
        columns[f"fooled{form}"] = records["counts"] & success
        columns[f"within{form}"] = near | (protocol == "bounded")
        columns[f"success{form}"] = columns[f"fooled{form}"] & columns[f"within{form}"]
    return columns


def clean_metrics(records: dict[str, Tensor]) -> dict[str, Any]:
    """The part of a row that is known before the attack; `clean_rejected` is None where the target cannot reject."""
    was_correct, accepted = correct(records), records.get("clean_accepted")
    return {
        "n_correct": int(was_correct.sum()),
        "clean_accuracy": was_correct.double().mean().item(),
        "n_attacked": int(records["counts"].sum()),
        "clean_rejected": None if accepted is None else (~accepted).double().mean().item(),
    }


def attack_metrics(records: dict[str, Tensor], protocol: str) -> dict[str, Any]:
    """Rates and norms of a verified attack on at least one eligible image.

    asr*              over the eligible images; asr_any_norm is without the bound
    robust_accuracy   over all images: correct before the attack, and not misclassified within eps (nor if rejected)
    rejected          rejected fraction of the eligible images; None if the target cannot reject
    norms, ssim       over the eligible images; of a minimum-norm attack over its successes, but l2_median counts a
                      failure as infinitely far (None if that makes it infinite); _low and _high are its 95 % bootstrap
                      interval, of minimum-norm attacks on two images or more
    """
    eligible = records["counts"]
    n, hits = int(eligible.sum()), int(records["success"].sum())
    measured = records["fooled"] if protocol == "minimal-norm" else eligible
    l2 = records["l2"].masked_fill(~measured, torch.inf)[eligible]

    several = protocol == "minimal-norm" and n > 1
    interval = median_interval(l2.numpy()) if several else (math.nan, math.nan)

    def size(name: str, statistic: Callable[[Tensor], Tensor] = Tensor.mean) -> float | None:
        values = records[name][measured].double()
        return _finite(statistic(values)) if len(values) else None

    return {
        **rate("asr", hits, n),
        "asr_8bit": records["success_8bit"].sum().item() / n,
        "asr_any_norm": records["fooled"].sum().item() / n,
        "robust_accuracy": (correct(records) & ~misclassified(records)).double().mean().item(),
        "rejected": (~records["accepted"][eligible]).double().mean().item() if "accepted" in records else None,
        "l0_mean": size("l0"),
        "l2_mean": size("l2"),
        "l2_median": _finite(np.median(l2.numpy())),
        **dict(zip(("l2_median_low", "l2_median_high"), map(_finite, interval), strict=True)),
        "linf_mean": size("linf"),
        "linf_max": size("linf", Tensor.max),
        "ssim_mean": size("ssim"),
    }


class LargestClass(NamedTuple):
    """The class that most of `n` images are brought into, `most` of them; more than `limit` of all is too many: of 100
    classes and more 0.3, of fewer 0.9, since of ten one is often the nearest for most images."""

    y: int
    most: int
    n: int
    limit: float

    @classmethod
    def of(cls, counts: Tensor, n: int) -> Self:
        """Of `counts` (k,) of each class among `n` images."""
        return cls(int(counts.argmax()), int(counts.max()), n, 0.3 if len(counts) >= MANY_CLASSES else 0.9)

    @property
    def too_many(self) -> bool:
        """Whether the lower end of the 95 % Wilson interval is above the limit."""
        return wilson(self.most, self.n)[0] > self.limit


def _finite(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None
