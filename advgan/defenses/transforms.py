"""What happens to a written image before a classifier gets it: 8 bits, JPEG, resizing, cropping."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advgan.core.errors import InputError
from advgan.core.spec_strings import parse_spec
from advgan.core.threat_model import Norm, to_8bit
from advgan.defenses.base import checked_share, reseed
from advgan.defenses.geometry import SIDES, RandomWindow, cropped, resized
from advgan.defenses.preprocessing import BPDA, Jpeg, Preprocessing, clamp_straight_through, straight_through
from advgan.defenses.registry import DEFENSES

Transform = Callable[[Tensor], Tensor]  # images (n, c, h, w) in [0, 1] -> images of the same shape


class Png(Preprocessing):
    """The image as it is: all transforms get images of 8 bits."""

    spec_name = "png"

    def process(self, x: Tensor) -> Tensor:
        return x


class Resize(Preprocessing):
    """Each image shrunk to a random size, `share` of each side or more, and enlarged again; bilinear, antialiased."""

    spec_name = "resize"
    random = True

    def __init__(self, inner: nn.Module, share: float = 0.75) -> None:
        super().__init__(inner, share=checked_share("resize:share", share, SIDES))
        self.share = share

    def process(self, x: Tensor) -> Tensor:
        shares = self.share + (1 - self.share) * torch.rand(len(x), generator=self.rng)
        images = zip(x.split(1), shares.tolist(), strict=False)
        return torch.cat([x[:0], *(_shrunk(image, share) for image, share in images)])


class Crop(RandomWindow):
    """A window of each image, of random place and size, `share` of each side or more, enlarged to the whole."""

    spec_name = "crop"

    def __init__(self, inner: nn.Module, share: float = 0.875) -> None:
        super().__init__(inner, share, cropped)


class ResizeCrop(Preprocessing):
    """The image enlarged to `scale` of each side, with 8 bits, and its middle: 256 and 224 pixels by default."""

    spec_name = "resize-crop"

    def __init__(self, inner: nn.Module, scale: float = 256 / 224) -> None:
        if not 1 < scale <= 4:
            raise InputError(f"resize-crop:scale must be above 1 and at most 4, got {scale}")
        super().__init__(inner, scale=scale)
        self.scale = scale

    def process(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        large = rounded(resized(x, (round(h * self.scale), round(w * self.scale))))
        top, left = (round((large.shape[side] - x.shape[side]) / 2) for side in (-2, -1))
        return large[..., top : top + h, left : left + w]


KINDS: tuple[type[Preprocessing], ...] = (Png, Jpeg, Resize, Crop, ResizeCrop)
TRANSFORMS: dict[str, type[Preprocessing]] = {kind.spec_name: kind for kind in KINDS}
TRANSFORMS |= {name: kind for name, kind in DEFENSES.items() if issubclass(kind, Preprocessing)}
SMALL_SIDE = 64  # pixels; smaller images are not resized and cropped


class Transforms:
    """Images of 8 bits, made from `x_adv`, through each of several transforms; straight-through gradients.

    transforms   names with settings ("png", "jpeg:75", "crop", "random-pad:share=0.8"), or functions of images
                 (n, c, h, w) in [0, 1], differentiable, or without gradient: then that of the identity is taken
    norm         of the ball that holds `x_adv`, and its image of 8 bits; None: no ball

    Raises InputError for an unknown name or setting.
    """

    def __init__(self, transforms: Sequence[str | Transform] | str, norm: Norm | None = "linf") -> None:
        self.norm = norm
        if not (callable(transforms) or isinstance(transforms, (str, Sequence))):
            raise InputError(f"expected transforms, names or functions of images, got {transforms!r:.60}")
        given = [transforms] if isinstance(transforms, str) or callable(transforms) else list(transforms)
        self.by_name: dict[str, Transform] = {}
        for transform in given:
            name = transform_name(transform)
            if name in self.by_name:
                raise InputError(f"expected transforms of different names, got {name} twice")
            self.by_name[name] = parse_transform(transform) if isinstance(transform, str) else transform
            if not callable(self.by_name[name]):
                raise InputError(f"a transform must be a name or a function of images, got {transform!r:.60}")

    def __len__(self) -> int:
        return len(self.by_name)

    @property
    def names(self) -> list[str]:
        return list(self.by_name)

    def reseed(self, seed: int) -> None:
        """Seed every random transform that has a name."""
        for i, transform in enumerate(self.by_name.values()):
            if isinstance(transform, nn.Module):
                reseed(transform, seed + 1000 * i)

    def each(self, x_adv: Tensor, x: Tensor) -> dict[str, Tensor]:
        """`x_adv` (n, c, h, w) after each transform, by its name."""
        return self.after(as_written(x_adv, x, self.norm))

    def after(self, written: Tensor) -> dict[str, Tensor]:
        """The same for images that have 8 bits already."""
        return {name: apply(transform, written) for name, transform in self.by_name.items()}

    def mixed(self, x_adv: Tensor, x: Tensor, chosen: Tensor) -> Tensor:
        """`x_adv` (n, c, h, w), each image after the transform of the index `chosen` (n,)."""
        written = as_written(x_adv, x, self.norm)
        seen = written.clone()
        for i, transform in enumerate(self.by_name.values()):
            mine = chosen == i
            if mine.any():
                seen[mine] = apply(transform, written[mine])
        return seen


def survive_transforms(survive: Sequence[str | Transform] | str, side: int) -> Transforms:
    """The chosen transforms; for "all" those of an evaluation of images of `side` pixels: a file of 8 bits, JPEG, and
    from 64 pixels on a classifier's preprocessing of photos. Raises InputError as they do."""
    if survive in ("all", ("all",)):
        survive = ("png", "jpeg:90", "jpeg:75", *(("resize-crop",) if side >= SMALL_SIDE else ()))
    return Transforms(survive)


def transform_name(transform: Any) -> str:
    """The name of a transform: as it was given, or that of a function."""
    return transform if isinstance(transform, str) else getattr(transform, "__name__", type(transform).__name__)


def parse_transform(spec: str) -> Transform:
    """The transform of "jpeg:75" or "jpeg:quality=75", with straight-through gradients where it has none."""
    name, colon, value = spec.partition(":")
    if name in TRANSFORMS and colon and "=" not in value:
        settings = [key for key in inspect.signature(TRANSFORMS[name]).parameters if key not in ("inner", "settings")]
        spec = f"{name}:{settings[0]}={value}" if settings else spec
    name, settings_given = parse_spec(spec, TRANSFORMS, {"inner"}, "transform")
    return BPDA(TRANSFORMS[name](nn.Identity(), **settings_given))


def as_written(x_adv: Tensor, x: Tensor, norm: Norm | None) -> Tensor:
    """`x_adv` as its file of 8 bits, see `to_8bit`, with the gradient of the identity."""
    written = to_8bit(x_adv.detach(), x, norm).to(x_adv) / 255
    return straight_through(written, x_adv) if x_adv.requires_grad else written


def apply(transform: Transform, x: Tensor) -> Tensor:
    """The images after a transform. Raises InputError where it changes their shape."""
    seen = transform(x)
    if not isinstance(seen, Tensor) or seen.shape != x.shape:
        got = tuple(seen.shape) if isinstance(seen, Tensor) else type(seen).__name__
        raise InputError(f"transform {transform_name(transform)} must keep the shape {tuple(x.shape)}, got {got}")
    return straight_through(seen, x) if x.requires_grad and not seen.requires_grad else seen


def rounded(x: Tensor) -> Tensor:
    """`x` with 8 bits, and the gradient of the identity."""
    return straight_through((x * 255).round() / 255, x)


def _shrunk(x: Tensor, share: float) -> Tensor:
    """The images `x` (n, c, h, w) at `share` of each side, with 8 bits, and enlarged again."""
    h, w = x.shape[-2:]
    size = max(round(h * share), 1), max(round(w * share), 1)
    small = F.interpolate(x, size, mode="bilinear", antialias=True, align_corners=False)
    return resized(rounded(clamp_straight_through(small)), (h, w))
