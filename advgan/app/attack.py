"""One image, one pass of a generator: the adversarial image, predictions, files, and other attacks beside it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from advgan.app.digits import mnist_form
from advgan.attacks import make_attack
from advgan.core.errors import InputError
from advgan.core.fraction import eps_text
from advgan.core.json_files import read_object
from advgan.core.shipped import CLASSIFIER_OF, check_shipped, shipped
from advgan.core.threat_model import Threat, delta_norms
from advgan.core.weights import device_of
from advgan.data.image_file import as_array
from advgan.data.model_input import ModelInput
from advgan.defenses import load_classifier, reseed
from advgan.defenses.transforms import Transforms
from advgan.evaluation.compatibility import gradient_fault_of
from advgan.evaluation.metrics import changed_class
from advgan.evaluation.runner import timed
from advgan.models.generator import Generator

UNTARGETED = -1  # in place of a target class
TOP = 5  # classes that are shown
FILES = {"png": "PNG (8 bits)", "jpeg:75": "JPEG 75"}
OTHERS = {"fgsm": "FGSM", "pgd:steps=10": "PGD, 10 steps"}
SECONDS, MOST_CALLS = 0.1, 50  # of the timing of an attack, after one call that warms up
DIGITS = tuple("0123456789")


@dataclass(frozen=True)
class Pair:
    """A classifier, and a generator that attacks it, both in eval mode and on one device.

    model_input   the classifier's input of a picture of any size
    note          a sentence shown with the results; "": none

    Raises InputError where the two do not fit.
    """

    name: str
    classifier: Any
    generator: Generator
    model_input: ModelInput
    note: str = ""
    gradient_fault: str | None = field(init=False)

    def __post_init__(self) -> None:
        if self.generator.channels != self.image_shape[0] or self.image_shape[0] not in (1, 3):
            raise InputError(
                f"{self.name}: expected a generator and a classifier of the same 1 or 3 channels, got "
                f"{self.generator.channels} and {self.image_shape[0]}"
            )
        guide = self.generator.guide
        if guide is not None and tuple(guide.image_shape) != self.image_shape:
            raise InputError(f"{self.name}: the generator takes {tuple(guide.image_shape)}, got {self.image_shape}")
        object.__setattr__(self, "gradient_fault", gradient_fault_of(self.classifier))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(c, h, w) of the classifier's input."""
        return (int(self.classifier.image_shape[0]), self.model_input.height, self.model_input.width)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, or the numbers of the classes."""
        names = getattr(self.classifier, "classes", None)
        return tuple(names) if names else tuple(map(str, range(self.classifier.num_classes)))

    @property
    def takes_digits(self) -> bool:
        """Whether the classifier is one of handwritten digits: 28 x 28 pixels, classes 0 to 9."""
        return self.image_shape == (1, 28, 28) and self.classes == DIGITS

    @property
    def y_targets(self) -> list[int | None]:
        """Target classes that the generator can be given; None: untargeted."""
        classes = [target for target in self.generator.target_classes if target < len(self.classes)]
        return [None, *classes] if classes else [self.generator.y_target]

    @property
    def in_levels(self) -> bool:
        """Whether eps is shown in grey levels of 255: where the largest is a whole number of them, like 8/255."""
        return "/" in eps_text(self.generator.threat.eps)

    def prepare(self, picture: Image.Image) -> tuple[Tensor, list[str]]:
        """The classifier's input (1, c, h, w) in [0, 1] of a picture in mode L or RGB, and what was done to it. Raises
        InputError for a picture without a digit, where the classifier takes digits, or too large after resizing."""
        if self.takes_digits:
            pixels, steps = mnist_form(np.asarray(picture.convert("L"), np.float32) / 255)
            return torch.from_numpy(pixels)[None, None], steps
        channels, height, width = self.image_shape
        grey = picture.convert("L" if channels == 1 else "RGB")
        steps = [] if picture.size == (width, height) else [str(self.model_input)]
        steps += ["converted to grey"] if channels == 1 and picture.mode != "L" else []
        try:
            array = as_array(self.model_input(grey))
        except OSError as error:  # too many pixels after the resizing
            raise InputError(str(error)) from None
        return torch.from_numpy(array.copy())[None].float() / 255, steps


@dataclass(frozen=True)
class Prediction:
    """A class and its softmax probability."""

    label: int
    name: str
    probability: float


@dataclass(frozen=True)
class Outcome:
    """Prediction for an image that an attack made, or for a file of one. success: None where the image is of the
    target class already; seconds: None where no time was measured."""

    name: str
    prediction: Prediction
    success: bool | None
    seconds: float | None = None


@dataclass(frozen=True)
class AttackedImage:
    """The image `x` and the adversarial image `x_adv`, (1, c, h, w) float32 in [0, 1], and all that is shown of them.

    before, after   the five most probable classes, in descending order
    success         of the pass: another class than before or, targeted, the target class; None where the image is of
                    the target class already
    files           after the image was written and read again
    attacks         the pass, FGSM and PGD with 10 steps, with the times measured for this image
    """

    x: Tensor
    x_adv: Tensor
    threat: Threat
    y_target: int | None
    before: list[Prediction]
    after: list[Prediction]
    success: bool | None
    files: list[Outcome]
    attacks: list[Outcome]

    @property
    def norms(self) -> dict[str, float]:
        """linf and l2 of the perturbation, in units of [0, 1]."""
        norms = delta_norms(self.x_adv - self.x)
        return {norm: norms[norm].item() for norm in ("linf", "l2")}


def attack_image(pair: Pair, x: Tensor, eps: float | None = None, y_target: int | None = None) -> AttackedImage:
    """Attack `x` (1, c, h, w) in [0, 1] by one pass within `eps` (None: the generator's largest).

    The label of the attacks, and of an input of the generator, is the prediction for `x`. Raises InputError for an
    `eps` or a target class that the generator was not trained for, and for an image of another shape.
    """
    generator, threat = pair.generator, pair.generator.threat
    if x.shape != (1, *pair.image_shape):
        raise InputError(f"expected one image {(1, *pair.image_shape)}, got {tuple(x.shape)}")
    y_target = generator.y_target if y_target is None else y_target
    threat = Threat(threat.norm, threat.eps if eps is None else eps, y_target is not None)
    if reason := generator.incompatibility(eps=threat.eps, y_target=y_target):
        raise InputError(reason)
    device = device_of(generator)
    x = x.to(device, torch.float32)
    before = predict(pair, x)
    y = torch.tensor([before[0].label], device=device)

    def outcome(name: str, image: Tensor, seconds: float | None = None) -> Outcome:
        prediction = predict(pair, image)[0]
        return Outcome(name, prediction, changed_class(before[0].label, prediction.label, y_target), seconds)

    def one_pass(images: Tensor, labels: Tensor) -> Tensor:
        rng = torch.Generator().manual_seed(0)
        given = labels if generator.labels else None
        return generator.perturb(images, given, threat.eps, y_target=y_target, rng=rng)

    x_adv, seconds = repeated(device, one_pass, x, y)
    attacks = [outcome("one pass", x_adv, seconds)]
    for spec, name in OTHERS.items() if pair.gradient_fault is None else ():
        attack = make_attack(spec, pair.classifier, threat, y_target, torch.Generator().manual_seed(0))
        attacks.append(outcome(name, *repeated(device, attack, x, y)))
    written = Transforms(list(FILES), threat.norm).each(x_adv.cpu(), x.cpu())
    files = [outcome(FILES[name], image.to(device)) for name, image in written.items()]
    after = predict(pair, x_adv)
    return AttackedImage(
        x.cpu(), x_adv.cpu(), threat, y_target, before, after, attacks[0].success, files=files, attacks=attacks
    )


@torch.no_grad()
def predict(pair: Pair, x: Tensor, top: int = TOP) -> list[Prediction]:
    """The `top` most probable classes of one image (1, c, h, w). Raises InputError for NaN."""
    reseed(pair.classifier, 0)
    logits = pair.classifier(x).float()[0]
    if not logits.isfinite().all():
        raise InputError("the classifier's output has NaN or infinity for this image")
    labels = logits.topk(min(top, len(logits))).indices
    values = logits.softmax(0)[labels]
    return [
        Prediction(label, pair.classes[label], value)
        for label, value in zip(labels.tolist(), values.tolist(), strict=True)
    ]


def repeated(device: torch.device, attack: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> Any:
    """Result of the attack, and the median of the seconds that it takes: after one call that warms up, as many calls as
    fit in a tenth of a second, at least one and at most 50."""
    x_adv, first = timed(device, attack, x, y)
    calls = min(max(math.floor(SECONDS / max(first, 1e-9)), 1), MOST_CALLS)
    times: Sequence[float] = [timed(device, attack, x, y)[1] for _ in range(calls)]
    return x_adv, median(times)


def load_shipped(name: str) -> Pair:
    """A shipped generator and its classifier. Raises InputError for an unknown name."""
    check_shipped(name)
    classifier = load_classifier(str(shipped(f"checkpoints/{CLASSIFIER_OF[name]}")))
    generator = Generator.from_pretrained(shipped(f"checkpoints/{name}"))
    return Pair(name, classifier, generator, ModelInput(*classifier.image_shape[1:]))


def shipped_label(name: str) -> str:
    """The name of a shipped generator with its architecture and goal; another name as it is."""
    if name not in CLASSIFIER_OF:
        return name
    config = read_object(shipped(f"checkpoints/{name}") / "config.json")
    return f"{name} ({config['architecture']}, {'any target class' if config['classes'] else 'untargeted'})"
