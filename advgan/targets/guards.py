"""Is this model a classifier that can be attacked? Asked once, before any work, of anybody's model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from advgan.errors import InputError

SAME = 1e-4  # two forwards of a deterministic model differ by rounding alone, relative to the largest logit


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
    except (RuntimeError, ValueError, TypeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"the target cannot take images of shape {tuple(x.shape[1:])}: {reason}") from error
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
