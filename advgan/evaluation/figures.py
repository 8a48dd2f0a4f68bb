"""From per-image records to the figures of a row. Every rate is over a stated set of images."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advgan.evaluation.statistics import median_interval, wilson
from advgan.threat import TOLERANCE, Threat


def clean_records(logits: Tensor, y: Tensor, y_target: int | None) -> dict[str, Tensor]:
    """Before the attack, per image (n,): label, clean prediction and confidence, and whether the image counts.

    It counts if it is classified correctly and, for a targeted attack, its label is not the target.
    """
    confidence, prediction = logits.float().softmax(1).max(1)
    counts = (prediction == y) & (torch.ones_like(y, dtype=torch.bool) if y_target is None else y != y_target)
    return {"label": y, "clean_prediction": prediction, "clean_confidence": confidence, "counts": counts}


def outcome(records: dict[str, Tensor], threat: Threat, protocol: str, y_target: int | None) -> dict[str, Tensor]:
    """After it, per image (n,): `fooled` at any distance, `within` the threat's eps, `success` both; *_8bit alike.

    Bounded answers are within already (the harness has seen to it); minimal-norm ones are where their norm says so.
    """
    found = {}
    for form in ("", "_8bit"):
        prediction = records[f"prediction{form}"]
        near = records[f"{threat.norm}{form}"] <= threat.eps + TOLERANCE[threat.norm]
        fooled = prediction != records["label"] if y_target is None else prediction == y_target
        found[f"fooled{form}"] = records["counts"] & fooled
        found[f"within{form}"] = near | (protocol == "bounded")
        found[f"success{form}"] = found[f"fooled{form}"] & found[f"within{form}"]
    return found


def clean_figures(records: dict[str, Tensor]) -> dict[str, Any]:
    """The part of a row that is known before the attack."""
    correct = records["clean_prediction"] == records["label"]
    return {
        "n_correct": int(correct.sum()),
        "clean_accuracy": correct.double().mean().item(),
        "n_attacked": int(records["counts"].sum()),
    }


def attack_figures(records: dict[str, Tensor], protocol: str) -> dict[str, Any]:
    """Rates and sizes of a certified attack on at least one image that counts.

    asr*              over the images that count; asr_any_norm is without the bound
    robust_accuracy   over all images: right before the attack, and not made wrong within eps
    norms, ssim       over the images that count; of a minimal-norm attack over those it fooled, but l2_median takes a
                      failure as infinitely far (None where that makes it infinite); _low and _high are its 95 %
                      bootstrap interval, of minimal-norm attacks alone
    """
    counts, right = records["counts"], records["clean_prediction"] == records["label"]
    n, hits = int(counts.sum()), int(records["success"].sum())
    low, high = wilson(hits, n)
    wrong = (records["prediction"] != records["label"]) & records["within"]
    measured = records["fooled"] if protocol == "minimal-norm" else counts
    l2 = records["l2"].masked_fill(~measured, torch.inf)[counts]

    interval = median_interval(l2.numpy()) if protocol == "minimal-norm" else (math.nan, math.nan)

    def size(name: str, statistic: Callable[[Tensor], Tensor] = Tensor.mean) -> float | None:
        values = records[name][measured].double()
        return _finite(statistic(values)) if len(values) else None

    return {
        "asr": hits / n,
        "asr_low": low,
        "asr_high": high,
        "asr_8bit": records["success_8bit"].sum().item() / n,
        "asr_any_norm": records["fooled"].sum().item() / n,
        "robust_accuracy": (right & ~wrong).double().mean().item(),
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
