"""Metrics of defensive distillation: JSMA toward every class, robustness, the softmax's gradients."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from advgan.attacks.active_set import CHUNK
from advgan.attacks.common import frozen_eval
from advgan.core.weights import device_of
from advgan.evaluation.evaluate import Result
from advgan.evaluation.statistics import rate

SMALL_GRADIENT = 1e-3


def all_targets(results: Sequence[Result], pixels: int, limit: int) -> dict[str, Any]:
    """JSMA's `results` on the same images of `pixels` (h w), one for each class aimed at, taken together.

    asr         of all n pairs of a correctly classified image and a class that is not its own (Wilson interval asr_low,
                asr_high as if pairs were independent)
    changed     mean share of the pixels that a success changes; None without one
    robustness  rho_adv, the mean over images of the share of pixels that the nearest class takes (Papernot et al. 2016,
                arXiv:1511.04508, section II-D); an image that was never fooled counts with `limit` pixels, the most
                that the attack may change: at best a lower bound, and where it fails for other reasons not even that

    A class that all images are of has no pairs. All None where an attack failed or there are no pairs at all.
    """
    results = [result for result in results if result.row["n_attacked"]]
    keys = ("n", "asr", "asr_low", "asr_high", "changed", "robustness")
    if not results or any(result.row["status"] != "ok" for result in results):
        return dict.fromkeys(keys)
    eligible, success, l0 = (
        torch.stack([result.records[name] for result in results]) for name in ("counts", "fooled", "l0")
    )
    n, hits = int(eligible.sum()), int(success.sum())
    nearest = l0.double().masked_fill(~success, min(limit, pixels)).amin(0)[eligible.any(0)] / pixels
    changed = (l0[success].double().mean() / pixels).item() if hits else None
    return {"n": n, **rate("asr", hits, n), "changed": changed, "robustness": nearest.mean().item()}


def amplitude(model: nn.Module, x: Tensor) -> Tensor:
    """The largest |dp_j/dx_i| of each image `x` (n, c, h, w) over pixels i and classes j, p the softmax: (n,).

    In float32, as autograd computes it: 0 where p rounds to 0 and 1. `model` is left as found.
    """
    amplitudes, device = [], device_of(model)
    with frozen_eval(model), torch.enable_grad():
        for part in x.split(CHUNK):
            leaf = part.to(device).requires_grad_()
            p = model(leaf).float().softmax(1)
            rows = [
                torch.autograd.grad(class_probability.sum(), leaf, retain_graph=True)[0]
                for class_probability in p.unbind(1)
            ]
            amplitudes.append(torch.stack([row.flatten(1).abs().amax(1) for row in rows]).amax(0).cpu())
    return torch.cat(amplitudes)


def amplitude_statistics(amplitudes: Tensor) -> dict[str, float]:
    """Mean and quantiles of the `amplitudes` (n,), n >= 1, and the shares of images below `SMALL` and of exactly 0."""
    low, median, high = torch.quantile(amplitudes.double(), torch.tensor([0.1, 0.5, 0.9], dtype=torch.double)).tolist()
    return {
        **{"n": len(amplitudes), "mean": amplitudes.double().mean().item()},
        **{"low": low, "median": median, "high": high},
        **{
            "small": (amplitudes < SMALL_GRADIENT).double().mean().item(),
            "zero": (amplitudes == 0).double().mean().item(),
        },
    }
