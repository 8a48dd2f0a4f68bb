"""The attacker: a network that writes an adversarial image in one forward pass, inside ball and box by construction."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from huggingface_hub import PyTorchModelHubMixin, snapshot_download
from huggingface_hub.constants import SAFETENSORS_SINGLE_FILE
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from torch import Tensor, nn

from advgan.errors import InputError, reason
from advgan.inputs import check_tensor, check_whole
from advgan.json_files import check_int, check_keys, read_object
from advgan.mirror import Mirror, read
from advgan.networks import PaperNetwork, PatchNetwork, UNet, Wanted
from advgan.runs import warn_unfinished
from advgan.storage import write_aside
from advgan.targets.base import MAX_CLASSES, check_shape
from advgan.targets.checkpoint import build_configured
from advgan.targets.registry import target_family
from advgan.threat import Norm, Threat, bounded, check_eps
from advgan.weights import build_and_load, read_checkpoint, write_checkpoint

Architecture = Literal["patch", "unet", "mirror", "paper"]
WANTED = 64  # length of the vector that says what an answer shall be

# The largest sizes that a config.json may have: far above what anybody trains.
MAX_CHANNELS, MAX_PATCH, MAX_WIDTH, MAX_DEPTH, MAX_LEVELS, MAX_NOISE = 4096, 256, 16_384, 1000, 8, 65_536


def check_architecture(architecture: Any) -> None:
    """Raise InputError unless it is one of `Architecture`."""
    if not isinstance(architecture, str) or architecture not in get_args(Architecture):
        raise InputError(f"architecture must be patch, unet, mirror or paper, got {architecture!r:.60}")


def check_guide(guide: Any) -> None:
    """Raise InputError, before anything is built, unless `guide` is the configuration of a built-in target."""
    if not isinstance(guide, Mapping):
        raise InputError(f"guide must be the configuration of a classifier, got {guide!r:.60}")
    check_keys("guide", guide, ["name", "image_shape", "num_classes"], ["classes"])
    target_family(guide["name"])
    check_shape(guide["image_shape"], "guide: image_shape must be (1 or 3, h, w)")
    check_int("guide: num_classes", guide["num_classes"], 2, MAX_CLASSES)


class Generator(nn.Module, PyTorchModelHubMixin):
    """Images (n, channels, h, w) in [0, 1] of any size -> adversarial images of the same shape, in one pass.

    norm, eps      the ball that every answer lies in (with the box [0, 1]), by construction
    y_target       the class that this generator was trained to pull toward; None: away from the true one, or any
    architecture   "patch" (ours, fast; `patch`, `width`, `depth` are its sizes), "unet" (ours, for success; `levels`
                   too), "mirror" (ours, for small eps: a guide that is a chain of layers, and they transposed,
                   `depth` times one after the other) or "paper" (Xiao et al. 2018)
    classes        above 0: each answer is pulled toward the class that is asked for, of so many, or away from its own
    eps_min        each answer keeps to the radius that is asked for, from `eps_min` to `eps`; None: made for `eps`
    noise          length of a vector z, from which one image gets many different answers; 0: one answer
    universal      one perturbation for all images: a learned picture takes the image's place as the network's input
    guide          a classifier inside the generator, whose frozen answer to the clean image modulates every block: the
                   config.json of a built-in target (its weights are among the generator's). Without one a generator
                   tends to push all images into one class, and leaves those that are of that class already.

    Raises InputError for an impossible ball or size.
    """

    def __init__(
        self,
        channels: int = 1,
        eps: float = 0.3,
        norm: Norm = "linf",
        y_target: int | None = None,
        architecture: Architecture = "patch",
        patch: int = 4,
        width: int = 32,
        depth: int = 2,
        levels: int = 1,
        classes: int = 0,
        eps_min: float | None = None,
        noise: int = 0,
        universal: bool = False,
        guide: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        for name, value, least, most in (
            ("channels", channels, 1, MAX_CHANNELS),
            ("patch", patch, 1, MAX_PATCH),
            ("width", width, 1, MAX_WIDTH),
            ("depth", depth, 0, MAX_DEPTH),
            ("levels", levels, 0, MAX_LEVELS),
            ("classes", classes, 0, MAX_CLASSES),
            ("noise", noise, 0, MAX_NOISE),
        ):
            check_int(name, value, least, most)
        if y_target is not None:
            check_int("y_target", y_target, 0, MAX_CLASSES)
        if not isinstance(universal, bool):
            raise InputError(f"universal must be True or False, got {universal!r:.60}")
        check_architecture(architecture)
        for name, number in (("eps", eps), ("eps_min", eps if eps_min is None else eps_min)):
            if isinstance(number, bool) or not isinstance(number, Real):
                raise InputError(f"{name} must be a number, got {number!r:.60}")
        check_eps(eps, norm)
        if eps_min is not None and not check_eps(eps_min, norm, "eps_min") < eps:
            raise InputError(f"eps_min must be below eps {eps:.6g}, got {eps_min:.6g}")
        if universal and guide is not None:
            raise InputError("a universal perturbation cannot depend on what a guide says of the image, got both")
        if guide is not None:
            check_guide(guide)
        if y_target is not None and classes:
            raise InputError(f"classes {classes} means any class, expected no y_target, got {y_target}")
        if architecture == "mirror" and guide is None:
            raise InputError("architecture mirror turns its guide around: expected a guide, got none")
        if architecture == "mirror" and guide is not None:  # it goes toward a class by what the guide says of it
            told = guide["num_classes"]
            if classes not in (0, told) or (y_target is not None and y_target >= told):
                aim = f"classes {classes}" if classes else f"y_target {y_target}"
                raise InputError(f"a mirror aims at the classes of its guide, expected one of {told}, got {aim}")
        self.channels, self.y_target, self.classes, self.noise = channels, y_target, classes, noise
        self.threat = Threat(norm=norm, eps=eps, targeted=y_target is not None)
        self.eps_min = eps_min
        network: nn.Module
        self.guide = None if guide is None else build_configured(guide).requires_grad_(False).eval()
        guided = 0 if self.guide is None else self.guide.num_classes
        condition = WANTED if classes or noise or guided or eps_min is not None else 0
        between = None if eps_min is None else (eps_min, eps)
        self.wanted = Wanted(condition, classes, between, noise, guided) if condition else None
        self.picture = nn.Parameter(torch.randn(1, channels, 32, 32)) if universal else None
        if architecture == "paper":
            self.multiple, network = 4, PaperNetwork(channels, condition)
        elif architecture == "mirror":
            self.multiple, network = 1, Mirror(self.guide, depth, width, condition, norm)
        elif architecture == "unet":
            self.multiple, network = patch * 2**levels, UNet(channels, patch, width, depth, levels, condition)
        else:
            self.multiple, network = patch, PatchNetwork(channels, patch, width, depth, condition)
        self.network = network
        self.to(memory_format=torch.channels_last)  # half as much again in speed on a CPU

    def take_guide(self, classifier: nn.Module, *, start: bool = True) -> None:
        """Copy the weights of a classifier like the guide; at the `start` of a training a mirror begins from them."""
        if self.guide is not None:
            self.guide.load_state_dict(classifier.state_dict())
            if start and isinstance(self.network, Mirror):
                self.network.start(self.guide)

    def train(self, mode: bool = True) -> Generator:
        super().train(mode)
        if self.guide is not None:
            self.guide.eval()  # it is told nothing new
        return self

    @property
    def rounds(self) -> int:
        """How often a mirror asks its guide for one answer, each time a forward and one as large back; others: 0."""
        return self.network.rounds if isinstance(self.network, Mirror) else 0

    @property
    def universal(self) -> bool:
        return self.picture is not None

    def raw(
        self,
        x: Tensor,
        y_target: Tensor | None = None,
        eps: Tensor | None = None,
        z: Tensor | None = None,
        rounds: int | None = None,
    ) -> Tensor:
        """The unbounded perturbation, the shape of `x`, which is padded to what the network needs and cropped again.

        y_target (n,) holds -1 where the answer shall lead away from the true class, eps (n,) radii, z (n, noise) noise;
        None is -1, the largest eps, and zeros; of a mirror `rounds` is None for its own. What the generator was not
        made for is left aside.
        """
        n, _, h, w = x.shape
        aims = x.new_full((n,), -1, dtype=torch.long) if y_target is None else y_target
        radii = x.new_full((n,), self.threat.eps) if eps is None else eps
        noise = x.new_zeros(n, self.noise) if z is None else z
        if isinstance(self.network, Mirror) and self.wanted is not None:
            reading = read(self.guide, x)
            wanted = self.wanted(aims, radii, noise, reading[1])
            mirrored: Tensor = self.network(x, self.guide, reading, wanted, aims, radii, rounds)
            return mirrored
        seen = 2 * x - 1
        if self.picture is not None:
            one = F.interpolate(self.picture, (h, w), mode="bilinear", align_corners=False)
            seen = one.expand(n, -1, -1, -1) if self.wanted is not None else one
        padded = F.pad(seen, (0, -w % self.multiple, 0, -h % self.multiple), mode="replicate")
        wanted = logits = None
        if self.guide is not None:
            with torch.no_grad():
                logits = self.guide(x).float()
        if self.wanted is not None:
            wanted = self.wanted(aims, radii, noise, logits)
        raw: Tensor = self.network(padded.contiguous(memory_format=torch.channels_last), wanted)[..., :h, :w]
        return raw.expand(n, -1, -1, -1)

    def forward(
        self, x: Tensor, y_target: Tensor | None = None, eps: Tensor | None = None, z: Tensor | None = None
    ) -> Tensor:
        """x_adv (n, c, h, w), differentiable, for training, with what `raw` takes; users want `perturb`."""
        return bounded(self.raw(x, y_target, eps, z), x, self.threat.norm, self.threat.eps if eps is None else eps)

    @torch.no_grad()
    def perturb(
        self,
        x: Tensor,
        y_target: int | Tensor | None = None,
        eps: float | None = None,
        z: Tensor | None = None,
        rng: torch.Generator | None = None,
        rounds: int | None = None,
        *,
        check_finite: bool = True,
    ) -> Tensor:
        """Adversarial images for clean `x` (n, c, h, w) in [0, 1]: float32, detached, on x's device, one pass.

        y_target   one class, or one for each image (n,); any, where the generator has `classes`, else its own
        eps        None is the largest; below the trained range it is the same pattern, scaled down
        z          noise (n, noise) of a generator that takes it; None draws it from `rng` (None: torch's own)
        rounds     of a mirror, fewer or more than it was trained with (None): what an answer costs, and how good it is

        Raises InputError for what the generator was not made for, for images of another kind, and (`check_finite`) for
        NaN or infinity in the result.
        """
        self._check(x, y_target, eps, z, rounds)
        device = next(self.parameters()).device
        radius = self.threat.eps if eps is None else eps
        n = len(x)
        aims = None if y_target is None else torch.as_tensor(y_target).to(device, torch.long).expand(n)
        if self.noise and z is None:
            z = torch.randn(n, self.noise, generator=rng, device="cpu" if rng is None else rng.device)
        x_adv = torch.empty_like(x, dtype=torch.float32, memory_format=torch.contiguous_format)
        for first in range(0, n, 128):  # what fits the cache
            part = slice(first, first + 128)
            chunk = x[part].to(device, torch.float32).contiguous(memory_format=torch.channels_last)  # for every step
            raw = self.raw(
                chunk,
                None if aims is None else aims[part],
                chunk.new_full((len(chunk),), radius),
                None if z is None else z[part].to(device, torch.float32),
                rounds,
            )
            x_adv[part] = bounded(raw, chunk, self.threat.norm, radius)
        if check_finite and not (finite := torch.isfinite(x_adv).flatten(1).all(1)).all():
            count = int((~finite).sum())
            raise InputError(f"the generator gives NaN or infinity for {count} of {n} images: are its weights damaged?")
        return x_adv

    def _check(
        self, x: Tensor, y_target: int | Tensor | None, eps: float | None, z: Tensor | None, rounds: int | None
    ) -> None:
        check_tensor(x, "images", "a float tensor (n, c, h, w) in [0, 1]", "torch.from_numpy(x)")
        if not torch.is_floating_point(x) or x.ndim != 4 or x.shape[1] != self.channels:
            expected = f"float images (n, {self.channels}, h, w)"
            raise InputError(f"this generator expects {expected} in [0, 1], got {x.dtype} {tuple(x.shape)}")
        if x.numel() and not (x.min() >= 0 and x.max() <= 1):
            raise InputError(f"images must lie in [0, 1], got {x.min().item():.4g} to {x.max().item():.4g}")
        if self.guide is not None and x.shape[1:] != self.guide.image_shape:
            raise InputError(f"this generator's guide sees images {self.guide.image_shape}, got {tuple(x.shape[1:])}")
        if isinstance(y_target, (bool, str, bytes)):
            check_whole("y_target", y_target)
        aims = torch.as_tensor(-1 if y_target is None else y_target)
        if aims.is_floating_point() or aims.is_complex() or aims.dtype == torch.bool:
            raise InputError(f"y_target must be a class or int64 classes, got {aims.dtype}")
        if isinstance(eps, Tensor):
            raise InputError(f"eps must be one radius for all images, got a tensor {tuple(eps.shape)}")
        if aims.ndim and aims.shape != x.shape[:1]:
            raise InputError(f"y_target must be one class, or one for each of {len(x)} images, got {tuple(aims.shape)}")
        for aim in aims.unique().tolist() if y_target is not None else ():
            if reason := self.unfit(y_target=aim):
                raise InputError(reason)
        if eps is not None:
            check_eps(eps, self.threat.norm)
        if eps is not None and (reason := self.unfit(eps=eps, y_target=self.y_target)):
            raise InputError(reason)
        if z is not None and (not self.noise or z.shape != (len(x), self.noise)):
            made = f"noise ({len(x)}, {self.noise})" if self.noise else "no noise"
            raise InputError(f"this generator takes {made}, got z of shape {tuple(z.shape)}")
        if rounds is not None:
            check_whole("rounds", rounds)
        if rounds is not None and (not self.rounds or rounds < 1):
            expected = "at least 1 round" if self.rounds else "no rounds, which are for architecture mirror"
            raise InputError(f"expected {expected}, got {rounds}")

    def unfit(self, *, eps: float = 0.0, norm: str | None = None, y_target: int | None = None) -> str | None:
        """Why there is no answer within `eps` of `norm` toward class `y_target` (None: away); None if there is one."""
        own = self.threat
        if norm not in (None, own.norm):
            return f"the generator was trained for norm {own.norm}, {norm} was asked for"
        if eps > own.eps:
            return f"this generator was trained for eps {own.eps:.6g}, got the larger {eps:.6g}"
        if self.classes and y_target is not None and not 0 <= y_target < self.classes:
            return (
                f"this generator was trained for the classes 0 to {self.classes - 1}, y_target {y_target} was asked for"
            )
        if not self.classes and y_target != self.y_target:
            trained = "untargeted" if self.y_target is None else f"for class {self.y_target}"
            return f"this generator was trained {trained}, y_target {y_target} was asked for"
        return None

    def differences(self, other: Generator) -> str:
        """The settings in which two generators differ so that the weights of one do not fit the other, in words; "" if
        there are none. eps, the value of eps_min, y_target and the guide's weights may differ."""
        mine, theirs = _of_network(self.config), _of_network(other.config)
        return "; ".join(f"{k} is {theirs[k]}, expected {mine[k]}" for k in mine if mine[k] != theirs[k])

    def save(self, directory: Path, card: str) -> None:
        """Write config.json, model.safetensors and the `card` (Markdown), all or nothing; what stood there goes."""

        def write(folder: Path) -> None:
            self.save_pretrained(folder)
            (folder / "README.md").write_text(card)

        write_aside(directory, write)

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that build it again: the config.json of a checkpoint."""
        config: Any = self._hub_mixin_config  # a dict: the arguments of __init__
        return dict(config)

    @property
    def identity(self) -> str:
        """What its output depends on beside its weights, for `advgan.targets.fingerprint`."""
        return json.dumps(self.config, sort_keys=True)

    def _save_pretrained(self, save_directory: Path) -> None:
        write_checkpoint(save_directory, self.config, self.state_dict())

    @classmethod
    def from_pretrained(cls, source: str | Path, **hub: Any) -> Generator:  # type: ignore[override]
        """A trained generator, in eval mode, from a folder (or its `generator/`) or the Hub ("hf://user/model").

        hub   for the Hub, as huggingface_hub.snapshot_download takes it: revision, token, cache_dir, ...

        A generator whose training was not finished is named on stderr. Raises InputError for a checkpoint that is not
        there, damaged, or of another architecture.
        """
        name = str(source)
        folder = _download(name, hub) if name.startswith("hf://") else Path(source)
        if not os.path.isfile(folder / "config.json"):
            if not os.path.isfile(folder / "generator" / "config.json"):
                raise InputError(f"no generator in {folder}: expected config.json and model.safetensors there")
            folder = folder / "generator"
        warn_unfinished(folder)
        file = folder / SAFETENSORS_SINGLE_FILE
        if not file.is_file():
            raise InputError(f"no generator in {folder}: expected {SAFETENSORS_SINGLE_FILE} beside its config.json")
        config = read_object(folder / "config.json")
        tensors = read_checkpoint(folder, config)
        try:
            check_keys("its config.json", config, inspect.signature(cls).parameters)
            return build_and_load(lambda: cls(**config), tensors, file, "the architecture in its config.json").eval()
        except InputError as error:
            raise InputError(f"the generator in {folder} cannot be loaded: {error}") from None


def _download(source: str, settings: dict[str, Any]) -> Path:
    """The folder that the Hub's "hf://user/model" was downloaded to. Raises InputError where it cannot be."""
    files = ["config.json", SAFETENSORS_SINGLE_FILE]
    try:
        return Path(snapshot_download(source.removeprefix("hf://"), allow_patterns=files, **settings))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise InputError(f"no generator at {source}: the Hub does not give it ({reason(error)})") from None


def _of_network(config: Mapping[str, Any]) -> dict[str, Any]:
    """What decides a generator's weights: names, shapes and meaning."""
    free = {"eps", "y_target", "eps_min", "guide"}
    kept = {name: value for name, value in config.items() if name not in free}
    guide = config["guide"] or {}
    of_guide = tuple(guide.get(name) for name in ("name", "image_shape", "num_classes")) if guide else None
    return kept | {"several radii": config["eps_min"] is not None, "guide": of_guide and str(of_guide)}
