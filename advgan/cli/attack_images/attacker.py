"""An attack on a batch of photos, by a generator's pass or with the target's gradients, rounded to 8 bits; with
predictions before and after.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advgan.attacks import AttackSpec, make_attack
from advgan.attacks.carry import carry_back
from advgan.classifiers import fingerprint
from advgan.cli.attack_images.decode import Batch, Photo
from advgan.core.errors import InputError
from advgan.core.fraction import eps_text
from advgan.core.inputs import predicted
from advgan.core.threat_model import TOLERANCE, Threat, check_class, to_8bit
from advgan.core.weights import device_of
from advgan.data.image_file import as_array, as_image
from advgan.data.model_input import ModelInput
from advgan.defenses import attack_view, reseed
from advgan.evaluation.compatibility import gradient_fault_of
from advgan.evaluation.metrics import changed_class
from advgan.models.generator import Generator

LEVEL = 1 / 255  # one grey level
STRIP = 256  # rows of an image that are rounded together
GRADIENT_PIXELS = 1_000_000  # of the images that an attack with gradients gets at once: 20 of 224 x 224


@dataclass(frozen=True)
class ImageAttacker:
    """An attack `spec` within `threat` (None: a minimum-norm attack, without a ball) toward class `y_target` (None:
    untargeted), by `generator` or with `target`, the classifier, which predicts the classes of records, and labels of a
    generator that has them as an input. Both on one device, in eval mode. `model_input` makes the classifier's input of
    a photo; None: photos are attacked at their own size.

    Raises InputError for models of other channels or sizes, for eps below one grey level, and for an attack that cannot
    be run with them.
    """

    spec: AttackSpec
    threat: Threat | None
    y_target: int | None
    seed: int
    generator: Generator | None
    target: Any
    model_input: ModelInput | None = None

    def __post_init__(self) -> None:
        if self.generator is not None and self.threat is not None:
            eps, norm = self.threat.eps, self.threat.norm
            if reason := self.generator.incompatibility(eps=eps, norm=norm, y_target=self.y_target):
                raise InputError(reason)
        if not self.one_pass:
            self._check_attack()
        if self._linf and self.threat is not None and self.threat.eps < LEVEL - 1e-6:
            raise InputError(
                f"eps must be at least one grey level, 1/255, for a change in a PNG, got {eps_text(self.threat.eps)}"
            )
        if self.channels not in (1, 3):
            raise InputError(f"a PNG is grey or RGB, expected a generator of 1 or 3 channels, got {self.channels}")
        guide = None if self.generator is None else self.generator.guide
        shapes = {tuple(model.image_shape) for model in (guide, self.target) if model is not None}
        if len(shapes) > 1 or any(shape[0] != self.channels for shape in shapes):
            takes = " and ".join(str(shape) for shape in sorted(shapes))
            raise InputError(
                f"the generator takes {self.channels} channels, expected the same of guide and target, got {takes}"
            )
        if self.target is not None:
            check_class(self.y_target, self.target.num_classes)

    def _check_attack(self) -> None:
        """Raise InputError where the target cannot be attacked, and for wrong settings of the attack."""
        if self.target is None:
            raise InputError(f"attack {self.spec.label} needs the classifier under attack, expected --target")
        if self.spec.access == "gradients" and (fault := gradient_fault_of(self.target)):
            raise InputError(
                f"attack {self.spec.label} needs gradients: {fault}; square, hopskipjump and generators need none"
            )
        x = torch.zeros(0, *self.target.image_shape, device=self.device)
        make_attack(self.spec, self.target, self.threat or Threat(), self.y_target, torch.Generator(), self.generator)(
            x, torch.zeros(0, dtype=torch.long, device=self.device)
        )

    @property
    def one_pass(self) -> bool:
        """Whether the attack is a pass of the generator alone."""
        return self.spec.name == "advgan" and not self.spec.settings

    @property
    def device(self) -> torch.device:
        model = self.target if self.generator is None else self.generator
        return device_of(model)

    @property
    def y_target_name(self) -> str | None:
        """The target's name of the target class; None without."""
        names = getattr(self.target, "classes", None)
        return names[self.y_target] if names and self.y_target is not None else None

    @property
    def channels(self) -> int:
        return int(self.target.image_shape[0]) if self.generator is None else self.generator.channels

    @property
    def sha256(self) -> str:
        """Digest of all that determines the adversarial images."""
        models = [None if model is None else fingerprint(model) for model in (self.generator, self.target)]
        threat, size = self.threat, self.model_input
        ball = None if threat is None else [threat.norm, threat.eps]
        sampling = None if size is None else [size.height, size.width, size.resize]
        random = self.spec.attack.random or (self.generator is not None and bool(self.generator.noise))
        settings = [models, self.spec.label, ball, self.y_target, self.seed if random else None, sampling]
        return hashlib.sha256(json.dumps(settings).encode()).hexdigest()

    def __call__(self, batch: Batch, names: Sequence[str]) -> tuple[list[np.ndarray], list[dict[str, Any]]]:
        """Adversarial photos uint8 (c, h, w) of a batch, and a record for each.

        The bound holds in grey levels, for the photos (linf) or for the inputs (l2, which grows with the number of
        pixels). A record's "problem" is "" for an image that is finite, and in the ball in its 8-bit form. Predictions
        are those of the inputs that the photos have once they are written and read again; "input_class" is that of the
        attacked input itself, where it is not the photo.
        """
        x = batch.images.float() / 255
        before = self._predict(x)
        labels = torch.tensor([-1 if (label := record.get("_class")) is None else label for record in before])
        x_adv = self.perturb(x, labels, names)
        finite = x_adv.isfinite().flatten(1).all(1).tolist()
        inputs = self._rounded(x_adv, x, batch.images)
        carried = [self._is_carried(photo) for photo in batch.photos]
        if not any(carried):
            nothing: dict[str, Any] = {}
            photos, attacked, after = list(inputs.numpy()), [nothing] * len(x), self._predict(inputs.float() / 255)
        else:
            delta = x_adv.nan_to_num(0.0) - x
            photos = [
                self._carried(photo, delta[i]) if carried[i] else inputs[i].numpy()
                for i, photo in enumerate(batch.photos)
            ]
            assert self.model_input is not None, "of photos of another size"
            seen = np.stack([as_array(self.model_input(as_image(photo))) for photo in photos])
            attacked, after = self._predict(x + delta), self._predict(torch.from_numpy(seen).float() / 255)
        records = []
        for i, photo in enumerate(photos):
            linf, l2 = _norms(photo, batch.photos[i].pixels)
            ball = linf if self._linf else _norms(inputs[i].numpy(), batch.images[i].numpy())[1]
            records.append(
                {
                    **{"height": photo.shape[1], "width": photo.shape[2], "linf": round(linf, 6), "l2": round(l2, 6)},
                    **{f"before{key}": value for key, value in before[i].items()},
                    **{f"after{key}": value for key, value in after[i].items()},
                    **({"input_class": attacked[i]["_class"]} if carried[i] and attacked[i] else {}),
                    **self._success(before[i], after[i]),
                    "problem": self._problem(ball, finite[i]),
                }
            )
        return photos, records

    @property
    def _linf(self) -> bool:
        return self.threat is not None and self.threat.norm == "linf"

    def perturb(self, x: Tensor, labels: Tensor, names: Sequence[str]) -> Tensor:
        """Adversarial images, not checked, of `x` (n, c, h, w) float32 in [0, 1] with the predicted `labels` (n,), -1
        for unknown. `names` of the images seed noise."""
        if self.one_pass and self.generator is not None:
            noise = self.generator.noise
            z = torch.stack([torch.randn(noise, generator=self._rng(name)) for name in names]) if noise else None
            y = labels if self.generator.labels else None
            eps = None if self.threat is None else self.threat.eps
            return self.generator.perturb(x, y, y_target=self.y_target, eps=eps, z=z, check_finite=False)
        model = attack_view(self.target, self.spec.view) if self.spec.access == "gradients" else self.target
        rng, step = self._rng(names[0]), max(1, GRADIENT_PIXELS // (x.shape[2] * x.shape[3]))
        attack = make_attack(self.spec, model, self.threat or Threat(), self.y_target, rng, self.generator)
        pairs = zip(x.split(step), labels.clamp_min(0).split(step), strict=True)
        return torch.cat([attack(images.to(self.device), y.to(self.device)).cpu() for images, y in pairs])

    def _rng(self, name: str) -> torch.Generator:
        digest = hashlib.sha256(f"{self.seed} {name}".encode("utf-8", "surrogateescape")).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))

    def _success(self, before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
        """Whether the attack succeeded, where there is a target."""
        return {"success": changed_class(before["_class"], after["_class"], self.y_target)} if after else {}

    def _is_carried(self, photo: Photo) -> bool:
        """Whether the perturbation is carried to the photo: where that is not the input; and where there is no ball,
        since dithering leaves more of one below a grey level than rounding."""
        return photo.input is not photo.pixels or (self.threat is None and self.model_input is not None)

    def _carried(self, photo: Photo, delta: Tensor) -> np.ndarray:
        """The photo with the perturbation of its input."""
        assert self.model_input is not None, "of photos of another size"
        eps = self.threat.eps if self._linf and self.threat is not None else None
        return carry_back(torch.from_numpy(photo.pixels.copy()), delta, self.model_input, eps).numpy()

    def _rounded(self, x_adv: Tensor, x: Tensor, pixels: Tensor) -> Tensor:
        """`x_adv` as uint8, in the ball, if any; in strips: float64 of a large image takes much memory."""
        norm, rounded = None if self.threat is None else self.threat.norm, torch.empty_like(pixels)
        for top in range(0, x.shape[2], STRIP):
            rows = slice(top, top + STRIP)
            rounded[:, :, rows] = to_8bit(x_adv[:, :, rows].nan_to_num(0.0), x[:, :, rows], norm)
        return rounded

    def _problem(self, size: float, is_finite: bool) -> str:
        """The violation of an adversarial image whose 8-bit form has a perturbation of norm `size`; "" if none."""
        threat = self.threat
        if not is_finite:
            return f"the {'generator' if self.generator else 'attack'}'s output has NaN or infinity"
        if threat is None or size <= threat.eps + TOLERANCE[threat.norm]:
            return ""
        return f"{threat.norm} {size:.6g} of the 8-bit image exceeds eps {threat.eps:.6g}"

    @torch.no_grad()
    def _predict(self, x: Tensor) -> list[dict[str, Any]]:
        """Prediction of the target for each image: class, name and confidence; empty without a target."""
        if self.target is None:
            return [{} for _ in x]
        reseed(self.target, self.seed)
        confidence, classes = predicted(self.target(x.to(self.device)))
        names = getattr(self.target, "classes", None)
        return [
            {"": names[k] if names else str(k), "_class": k, "_confidence": round(p, 4)}
            if math.isfinite(p)
            else {"": "NaN", "_class": None, "_confidence": None}
            for k, p in zip(classes.tolist(), confidence.tolist(), strict=True)
        ]


def _norms(changed: np.ndarray, image: np.ndarray) -> tuple[float, float]:
    """linf and l2 of the difference of two uint8 images (c, h, w), in units of [0, 1]; in strips, to save memory."""
    largest, square = 0, 0.0
    for top in range(0, image.shape[1], STRIP):
        rows = slice(top, top + STRIP)
        levels = changed[:, rows].astype(np.int16) - image[:, rows]
        largest = max(largest, int(np.abs(levels).max()))
        square += float(np.square(levels, dtype=np.float64).sum())
    return largest / 255, math.sqrt(square) / 255
