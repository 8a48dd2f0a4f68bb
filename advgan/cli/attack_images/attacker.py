"""One pass of a generator over images of one size, rounded to 8 bits, with predictions before and after."""

from __future__ import annotations

import difflib
import hashlib
import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advgan.classifiers import fingerprint
from advgan.core.errors import InputError
from advgan.core.threat_model import TOLERANCE, check_class, to_8bit
from advgan.defenses import reseed
from advgan.models.generator import Generator

LEVEL = 1 / 255  # one grey level
STRIP = 256  # rows of an image that are rounded together


@dataclass(frozen=True)
class ImageAttacker:
    """A generator with its settings, and a `target` for predictions: of records, and as labels of a generator that has
    them as an input. Both on one device, in eval mode.

    Raises InputError for settings that the generator does not support, and for eps below one grey level.
    """

    generator: Generator
    eps: float
    y_target: int | None
    seed: int
    target: Any = None

    def __post_init__(self) -> None:
        if reason := self.generator.incompatibility(eps=self.eps, y_target=self.y_target):
            raise InputError(reason)
        if self.generator.threat.norm == "linf" and self.eps < LEVEL - 1e-6:
            raise InputError(f"eps must be at least one grey level, 1/255, for a change in a PNG, got {self.eps:.6g}")
        if self.generator.channels not in (1, 3):
            raise InputError(f"a PNG is grey or RGB, expected a generator of 1 or 3 channels, got {self.channels}")
        shapes = {tuple(model.image_shape) for model in (self.generator.guide, self.target) if model is not None}
        if len(shapes) > 1 or any(shape[0] != self.channels for shape in shapes):
            takes = " and ".join(str(shape) for shape in sorted(shapes))
            raise InputError(
                f"the generator takes {self.channels} channels, expected the same of guide and target, got {takes}"
            )
        if self.target is not None:
            check_class(self.y_target, self.target.num_classes)

    @property
    def channels(self) -> int:
        return self.generator.channels

    @property
    def image_size(self) -> tuple[int, int] | None:
        """The fixed (height, width) of the guide and the target; None: any."""
        model = self.target if self.generator.guide is None else self.generator.guide
        return None if model is None else (int(model.image_shape[1]), int(model.image_shape[2]))

    @property
    def sha256(self) -> str:
        """Digest of all that determines the adversarial images."""
        models = [None if model is None else fingerprint(model) for model in (self.generator, self.target)]
        seed = self.seed if self.generator.noise else None
        return hashlib.sha256(json.dumps([models, self.eps, self.y_target, seed]).encode()).hexdigest()

    def __call__(self, pixels: Tensor, names: list[str]) -> tuple[np.ndarray, list[dict[str, Any]]]:
        """Adversarial images of uint8 `pixels` (n, c, h, w), in the same form, and a record for each.

        The bound holds in grey levels: the change is rounded toward zero. Noise is drawn for each of the `names`
        separately, independent of batch and process. A record's "problem" is "" for an image
        that is finite, and in the ball in its 8-bit form.
        """
        x = pixels.float() / 255
        z = torch.stack([self._noise(name) for name in names]) if self.generator.noise else None
        before = self._predict(x)
        x_adv = self.generator.perturb(
            x, self._labels(before), y_target=self.y_target, eps=self.eps, z=z, check_finite=False
        )
        finite = x_adv.isfinite().flatten(1).all(1).tolist()
        attacked = torch.empty_like(pixels)
        squares, largest = torch.zeros(len(x), dtype=torch.float64), torch.zeros(len(x), dtype=torch.int16)
        for top in range(
            0, x.shape[2], STRIP
        ):  # in strips: float64 of a large image needs more memory than the network
            rows = slice(top, top + STRIP)
            strip = to_8bit(x_adv[:, :, rows].nan_to_num(0.0), x[:, :, rows])
            attacked[:, :, rows] = strip
            levels = (strip.short() - pixels[:, :, rows].short()).flatten(1)
            squares += levels.double().square().sum(1)
            largest = largest.maximum(levels.abs().amax(1))
        norms = {"linf": (largest.double() / 255).tolist(), "l2": (squares.sqrt() / 255).tolist()}
        labels = list(zip(before, self._predict(attacked.float() / 255), strict=True))
        records = [
            {
                **{"height": pixels.shape[2], "width": pixels.shape[3]},
                **{"linf": round(linf, 6), "l2": round(l2, 6)},
                **{f"before{key}": value for key, value in before.items()},
                **{f"after{key}": value for key, value in after.items()},
                "problem": self._problem(linf if self.generator.threat.norm == "linf" else l2, is_finite),
            }
            for linf, l2, is_finite, (before, after) in zip(norms["linf"], norms["l2"], finite, labels, strict=True)
        ]
        return attacked.numpy(), records

    def _problem(self, size: float, is_finite: bool) -> str:
        """The violation of an adversarial image whose 8-bit form has a perturbation of norm `size`; "" if none."""
        if not is_finite:
            return "the generator's output has NaN or infinity"
        norm = self.generator.threat.norm
        too_large = size > self.eps + TOLERANCE[norm]
        return f"{norm} {size:.6g} of the 8-bit image exceeds eps {self.eps:.6g}" if too_large else ""

    def _labels(self, predictions: list[dict[str, Any]]) -> Tensor | None:
        """The predicted classes (n,) where labels are an input of the generator, -1 for unknown."""
        if not self.generator.labels:
            return None
        return torch.tensor([-1 if (label := record.get("_class")) is None else label for record in predictions])

    def _noise(self, name: str) -> Tensor:
        digest = hashlib.sha256(f"{self.seed} {name}".encode("utf-8", "surrogateescape")).digest()
        rng = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        return torch.randn(self.generator.noise, generator=rng)

    @torch.no_grad()
    def _predict(self, x: Tensor) -> list[dict[str, Any]]:
        """Prediction of the target for each image: class, name and confidence; empty without a target."""
        if self.target is None:
            return [{} for _ in x]
        reseed(self.target, self.seed)
        device = next(self.generator.parameters()).device
        confidence, predicted = self.target(x.to(device)).float().softmax(1).max(1)
        names = getattr(self.target, "classes", None)
        return [
            {"": names[k] if names else str(k), "_class": k, "_confidence": round(p, 4)}
            if math.isfinite(p)
            else {"": "NaN", "_class": None, "_confidence": None}
            for k, p in zip(predicted.tolist(), confidence.tolist(), strict=True)
        ]


def class_of(text: str | None, target: Any) -> int | None:
    """The number of a class given as "3" or, of a target with class names, as "cat". Raises InputError for others."""
    if text is None or text.isdecimal():
        return None if text is None else int(text)
    names = getattr(target, "classes", None)
    if not names:
        raise InputError(f"y_target must be a class number, or a class name of --target, got {text!r}")
    if text in names:
        return list(names).index(text)
    similar = difflib.get_close_matches(text, names) or [names[0], "..."]
    raise InputError(f"the target has no class {text!r}, expected one like {', '.join(similar)}")
