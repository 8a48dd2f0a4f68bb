"""A frozen backbone whose features of each image are computed once: training of a new head in seconds."""

import hashlib

import torch
from torch import Tensor, nn

MAX_IMAGES = 200_000  # whose features are kept


class CachedFeatures(nn.Module):
    """Logits (n, k) of `model`, in eval mode, whose last layer `head` alone is trained: its input, the features of an
    image, is kept in memory from the first time on."""

    def __init__(self, model: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.model, self.head = model, head
        self.features: dict[bytes, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        keys = [hashlib.blake2b(image.numpy().tobytes(), digest_size=16).digest() for image in x.detach().cpu()]
        missing = [i for i, key in enumerate(keys) if key not in self.features]
        if missing:
            computed = features_of(self.model, self.head, x[missing])
            if len(self.features) + len(missing) > MAX_IMAGES:
                self.features.clear()
                computed, missing = features_of(self.model, self.head, x), list(range(len(keys)))
            self.features |= {keys[i]: feature.clone() for i, feature in zip(missing, computed, strict=True)}
        return self.head(torch.stack([self.features[key] for key in keys]))


@torch.no_grad()
def features_of(model: nn.Module, head: nn.Module, x: Tensor) -> Tensor:
    """The input (n, d) of the layer `head` for images `x` (n, c, h, w)."""
    found: list[Tensor] = []
    handle = head.register_forward_pre_hook(lambda _, arguments: found.append(arguments[0].detach()))
    try:
        model(x)
    finally:
        handle.remove()
    return torch.cat(found)


@torch.no_grad()
def ends_with(model: nn.Module, head: nn.Module, x: Tensor) -> bool:
    """Whether the logits of `model` for images `x` are the output of the layer `head`, one vector of features each."""
    features, logits = features_of(model, head, x), model(x)
    if features.ndim != 2 or len(features) != len(x):
        return False
    from_head = head(features)
    return from_head.shape == logits.shape and torch.allclose(from_head, logits, atol=1e-5)
