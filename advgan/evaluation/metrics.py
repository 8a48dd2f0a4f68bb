"""From per-image records to the figures of a row. Every rate is over a stated set of images."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advgan.core.threat_model import TOLERANCE, Threat
from advgan.evaluation.statistics import median_interval, wilson


def clean_records(logits: Tensor, y: Tensor, y_target: int | None, accepted: Tensor | None = None) -> dict[str, Tensor]:
    """Before the attack, per image (n,): label, clean prediction and confidence, and whether the image counts.

    It counts if it is classified correctly and, for a targeted attack, its label is not the target. Where the target
    can reject (`accepted` (n,) says which images it does not), a rejected one counts as little as a wrong one.
    """
    confidence, prediction = logits.float().softmax(1).max(1)
    records = {"label": y, "clean_prediction": prediction, "clean_confidence": confidence}
    records |= {} if accepted is None else {"clean_accepted": accepted}
    aimed = torch.ones_like(y, dtype=torch.bool) if y_target is None else y != y_target
    return records | {"counts": right(records) & aimed}


def right(records: dict[str, Tensor]) -> Tensor:
    """Which images (n,) bool are classified correctly before the attack, and not rejected."""
    found = records["clean_prediction"] == records["label"]
    return found & records["clean_accepted"] if "clean_accepted" in records else found


def wrong(records: dict[str, Tensor]) -> Tensor:
    """Which images (n,) bool are classified wrongly after it, within eps: rejected ones are not."""
    found = (records["prediction"] != records["label"]) & records["within"]
    return found & records["accepted"] if "accepted" in records else found


def outcome(records: dict[str, Tensor], threat: Threat, protocol: str, y_target: int | None) -> dict[str, Tensor]:
    """After it, per image (n,): `fooled` at any distance, `within` the threat's eps, `success` both; *_8bit alike.

    Bounded answers are within already (the harness has seen to it); minimal-norm ones are where their norm says so. An
    answer that the target rejects has not fooled it.
    """
    found = {}
    for form in ("", "_8bit"):
        prediction = records[f"prediction{form}"]
        near = records[f"{threat.norm}{form}"] <= threat.eps + TOLERANCE[threat.norm]
        fooled = prediction != records["label"] if y_target is None else prediction == y_target
        fooled = fooled & records[f"accepted{form}"] if "accepted" in records else fooled
        found[f"fooled{form}"] = records["counts"] & fooled
        found[f"within{form}"] = near | (protocol == "bounded")
        found[f"success{form}"] = found[f"fooled{form}"] & found[f"within{form}"]
    return found


def clean_metrics(records: dict[str, Tensor]) -> dict[str, Any]:
    """The part of a row that is known before the attack; `clean_rejected` is None where the target cannot reject."""
    correct, accepted = right(records), records.get("clean_accepted")
    return {
        "n_correct": int(correct.sum()),
        "clean_accuracy": correct.double().mean().item(),
        "n_attacked": int(records["counts"].sum()),
        "clean_rejected": None if accepted is None else (~accepted).double().mean().item(),
    }


def attack_metrics(records: dict[str, Tensor], protocol: str) -> dict[str, Any]:
    """Rates and sizes of a verified attack on at least one image that counts.

    asr*              over the images that count; asr_any_norm is without the bound
    robust_accuracy   over all images: right before the attack, and not made wrong within eps (rejected: not made wrong)
    rejected          share of the answers, to images that count, that the target rejects; None where it cannot
    norms, ssim       over the images that count; of a minimal-norm attack over those it fooled, but l2_median takes a
                      failure as infinitely far (None where that makes it infinite); _low and _high are its 95 %
                      bootstrap interval, of minimal-norm attacks alone and of two images at least
    """
    counts = records["counts"]
    n, hits = int(counts.sum()), int(records["success"].sum())
    low, high = wilson(hits, n)
    measured = records["fooled"] if protocol == "minimal-norm" else counts
    l2 = records["l2"].masked_fill(~measured, torch.inf)[counts]

    several = protocol == "minimal-norm" and n > 1
    interval = median_interval(l2.numpy()) if several else (math.nan, math.nan)

    def size(name: str, statistic: Callable[[Tensor], Tensor] = Tensor.mean) -> float | None:
        values = records[name][measured].double()
        return _finite(statistic(values)) if len(values) else None

    return {
        "asr": hits / n,
        "asr_low": low,
        "asr_high": high,
        "asr_8bit": records["success_8bit"].sum().item() / n,
        "asr_any_norm": records["fooled"].sum().item() / n,
        "robust_accuracy": (right(records) & ~wrong(records)).double().mean().item(),
        "rejected": (~records["accepted"][counts]).double().mean().item() if "accepted" in records else None,
        "l0_mean": size("l0"),
        "l2_mean": size("l2"),
        "l2_median": _finite(np.median(l2.numpy())),
        **dict(zip(("l2_median_low", "l2_median_high"), map(_finite, interval), strict=True)),
        "linf_mean": size("linf"),
        "linf_max": size("linf", Tensor.max),
        "ssim_mean": size("ssim"),
    }


def _finite(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None
