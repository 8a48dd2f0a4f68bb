"""Settings of a training that are None, by the size of its images: small ones, as of MNIST and CIFAR, or photos.

An unrolled network starts at the gradient, and each of its steps costs several of the classifier: it takes fewer.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from advgan.data.split import are_photos
from advgan.evaluation.metrics import MANY_CLASSES
from advgan.models.generator_settings import Architecture
from advgan.models.losses import AdversarialLoss

MAX_STEPS = 10**9  # of a training, so that all that is computed from it is finite
DEFAULT_LOSS: AdversarialLoss = "margin"  # of all but untargeted generators of photos of many classes
LEARNING_RATES: dict[str, float] = {"patch": 1e-2, "unet": 4e-3, "unrolled": 2e-3, "paper": 1e-2, "resnet": 2e-3}


class SizeDefaults(NamedTuple):
    """Architecture, width, depth and levels of the generator, images a step, the length of a training (so many passes
    over the images, but at most so many steps), and the largest number of validation images."""

    architecture: Architecture
    width: int
    depth: int
    levels: int
    batch_size: int
    epochs: int
    max_steps: int
    validation_images: int


SMALL = SizeDefaults("patch", 32, 2, 1, 64, 20, 600, 1000)
PHOTOS = SizeDefaults("unet", 28, 2, 2, 16, 20, 600, 200)


def size_defaults(image_shape: Sequence[int], architecture: Architecture | None = None) -> SizeDefaults:
    """Defaults for images of shape (c, h, w), and for an architecture other than the default one."""
    defaults = PHOTOS if are_photos(image_shape) else SMALL
    if architecture is None or architecture == defaults.architecture:
        return defaults
    defaults = defaults._replace(architecture=architecture, width=SMALL.width, levels=SMALL.levels)
    if architecture == "unrolled":  # no width: its learned backward pass alone
        batch_size, max_steps = (64, 200) if defaults.batch_size == SMALL.batch_size else (8, 60)
        return defaults._replace(width=0, batch_size=batch_size, max_steps=max_steps)
    if architecture == "unet":  # of small images: a step takes longer, and fewer do
        return defaults._replace(max_steps=500)
    return defaults._replace(width=64, depth=6) if architecture == "resnet" else defaults  # the published sizes


def objective_defaults(
    image_shape: Sequence[int], architecture: Architecture, classes: int, *, targeted: bool, one_eps: bool
) -> dict[str, Any]:
    """The form of the adversarial loss, and the radius of the first step over eps: for photos of many classes, whose
    generator is otherwise close to one universal perturbation, the relativistic loss and a ball that shrinks (an
    unrolled network starts at the gradient, and needs no larger ball)."""
    photos = are_photos(image_shape) and classes >= MANY_CLASSES and not targeted
    shrinking = photos and one_eps and architecture != "unrolled"
    return {"adversarial": "relativistic" if photos else DEFAULT_LOSS, "curriculum": 2.0 if shrinking else 1.0}
