"""Is this model a classifier that can be attacked? Asked once, before any work, of anybody's model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from advgan.errors import InputError, reason

SAME = 1e-4  # two forwards of a deterministic model differ by rounding alone, relative to the largest logit


# What models are trained behind, by how many channels it is for: each x -> (x - mean) / std.
NORMALISATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "ImageNet's": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "CIFAR-10's": ((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)),
    "MNIST's": ((0.1307,), (0.3081,)),
    "that to [-1, 1]": ((0.5,), (0.5,)),
    "that to [0, 255]": ((0.0,), (1 / 255,)),
}


class OneLogit(nn.Module):
    """A two-class `model` with one logit f, (n,) or (n, 1), as one with the logits (0, f): class 1 wins where f > 0."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        f = self.model(x).reshape(len(x), 1)
        return torch.cat([torch.zeros_like(f), f], dim=1)


def check_target(model: nn.Module, x: Tensor, num_classes: int) -> nn.Module:
    """`model` itself if it maps images `x` (n, c, h, w) in [0, 1] to logits (n, num_classes), always the same.

    A two-class model that answers with one logit f comes back as logits (0, f). A few images are enough. The model is
    left as found. Raises InputError if it cannot take the images, answers with no logits, or is random in eval mode
    and has no part that says so (`random`, as a defence has).
    """
    modes = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad():
            first, second = model.eval()(x), model(x)
    except (RuntimeError, ValueError, TypeError, AssertionError, IndexError) as error:
        made_for = getattr(model, "image_shape", None)
        size = f"; it was made for {tuple(made_for)}" if made_for and tuple(made_for) != tuple(x.shape[1:]) else ""
        raise InputError(
            f"the target cannot take images of shape {tuple(x.shape[1:])}: {reason(error)}{size}"
        ) from error
    finally:
        for module, training in modes.items():
            module.training = training
    if not isinstance(first, Tensor):
        raise InputError(f"the target must answer with a tensor of logits, got {type(first).__name__}")
    one_logit = num_classes == 2 and first.shape in {(len(x),), (len(x), 1)}
    if first.shape != (len(x), num_classes) and not one_logit:
        raise InputError(
            f"the target must answer {len(x)} images of {num_classes} classes with logits of shape "
            f"{(len(x), num_classes)}, got {tuple(first.shape)}"
        )
    if not first.is_floating_point():
        raise InputError(f"the target must answer with logits, got {first.dtype} (predicted labels?)")
    if not (torch.isfinite(first).all() and torch.isfinite(second).all()):
        raise InputError("the target answers with NaN or infinity, expected finite logits: are its weights damaged?")
    difference = (first - second).abs().max().item()
    on_purpose = any(getattr(module, "random", False) for module in model.modules())
    if not on_purpose and difference > SAME * max(1.0, first.abs().max().item()):
        raise InputError(
            f"the target is random in eval mode: two forwards of the same images differ by {difference:.3g}; "
            "a deterministic one is expected (dropout called by hand? random preprocessing?)"
        )
    if not one_logit and first.min() >= 0 and (first.float().sum(1) - 1).abs().max() < 1e-3:
        raise InputError(
            "the target answers with probabilities (rows sum to 1), expected logits: leave out its softmax"
        )
    return OneLogit(model) if one_logit else model


@torch.no_grad()
def check_normalised(model: nn.Module, x: Tensor, y: Tensor) -> None:
    """Raise InputError if `model` seems to miss a normalisation inside: it is seldom right on images `x` (n, c, h, w)
    in [0, 1] with labels `y` (n,), and mostly right on them normalised as models usually are. 64 images are enough.
    """

    def accuracy(images: Tensor) -> float:
        return (model(images).argmax(1) == y).float().mean().item()

    chance, as_they_are = 1 / int(y.unique().numel()), accuracy(x)
    if as_they_are > 0.5 + chance / 2:
        return
    found = {}
    for name, (mean, std) in NORMALISATIONS.items():
        if len(mean) in (1, x.shape[1]):
            column = torch.tensor([mean, std])[:, :, None, None]
            found[name] = accuracy((x - column[0]) / column[1])
    best = max(found, key=found.__getitem__)
    if found[best] >= as_they_are + 0.3 and found[best] > 0.5 + 0.75 * chance:
        inside = ", ".join(
            f"{word} {' '.join(f'{value:.4g}' for value in values)}"
            for word, values in zip(("mean", "std"), NORMALISATIONS[best], strict=True)
        )
        raise InputError(
            f"the target is right on {as_they_are:.0%} of {len(x)} images, and on {found[best]:.0%} after {best} "
            f"normalisation ({inside}): expected a target with that inside, for images in [0, 1] "
            "(torchvision:NAME:WEIGHTS brings its own, a FILE.py:FACTORY can add it)"
        )
