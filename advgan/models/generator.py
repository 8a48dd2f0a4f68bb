"""The generator: a network from images to adversarial ones in one forward pass, inside ball and box by construction."""

from __future__ import annotations

import inspect
import json
import os
import reprlib
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub import ModelCard, PyTorchModelHubMixin, snapshot_download
from huggingface_hub.constants import SAFETENSORS_SINGLE_FILE
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from torch import Tensor, nn

from advgan.core.errors import InputError, listing, one_line
from advgan.core.files import atomic_write_dir, folder_path
from advgan.core.fraction import eps_text
from advgan.core.inputs import array_as_tensor, check_default_device, check_range, check_tensor, check_whole, plain
from advgan.core.json_files import check_int, check_keys, read_object
from advgan.core.shipped import existing_or_shipped
from advgan.core.threat_model import Norm, Threat, check_eps, squash_to_ball
from advgan.core.training_record import warn_unfinished
from advgan.core.weights import build_and_load, device_of, read_checkpoint, write_checkpoint
from advgan.models.config_card import config_card
from advgan.models.generator_settings import (
    COND_DIM,
    CUSTOM,
    MAX_PATCH,
    Architecture,
    build_network,
    check_classes,
    check_network,
    check_settings,
    checked_noise,
)
from advgan.models.guides import allowed_guide, check_guide, guide_config, guide_from, rebuild
from advgan.models.networks import ConditionEmbedding, GaussianSmoothing
from advgan.models.unrolled import UnrolledGradientNetwork, detach_kept

ROUNDING = 1e-6  # of a radius in float32: that of 8/255 is above 8/255


class Generator(nn.Module, PyTorchModelHubMixin):
    """Images (n, channels, h, w) in [0, 1] of any size -> adversarial images of the same shape, in one pass.

    norm, eps      the ball around the image that holds every adversarial image, by construction
    y_target       the class that this generator was trained for; None: untargeted, or any class
    architecture   "patch" (fast; `patch`, `width`, `depth` are its sizes), "unet" (for success; `levels` too),
                   "unrolled" (for small eps: `depth` iterations of a learned backward pass of its guide), "paper"
                   (Xiao et al. 2018) or "resnet" (that of the transferable attacks; `width` 64 and `depth` 6 there)
    labels         above 0: conditional on the label `y`, one of so many: the class to leave, which gradient attacks are
                   given, too. A network of the image alone tends to push all images into one class, and fails on those
                   of that class. Where `y` is unknown, the prediction of the guide replaces it, if there is one
    classes        above 0: conditional on `y_target`, one of so many classes, or untargeted
    target_classes   the `classes` that it is trained toward, at least two, others are refused; (): all
    eps_min        conditional on eps, from `eps_min` to `eps`; None: for `eps` alone
    noise          length of a noise vector z, which makes many perturbations for one image; 0: none
    universal      one perturbation for all images: a learned image is the input of the network
    smoothing      side in pixels, odd, of a Gaussian filter (deviation 1) of the unbounded perturbation, as in CDA
                   (Naseer et al. 2019: 3); 0: none
    guide          the conditioning classifier: its logits of the clean image modulate every block (FiLM). Any nn.Module
                   from images in [0, 1] to logits, of which a frozen copy becomes part of the generator, or the
                   config.json of a built-in one.
    image_shape    (c, h, w) of a guide that has no such attribute
    network        an own nn.Module instead of an `architecture`: 2 x - 1 (n, c, h, w) -> an unbounded perturbation of
                   the same shape. With conditions (labels, classes, eps_min, noise, guide) it is called as
                   network(x, cond), cond (n, 64). Sizes are padded to multiples of its attribute `size_multiple`,
                   where it has one.

    Raises InputError for an impossible ball or size.
    """

    def __init__(
        self,
        channels: int = 1,
        eps: float = 0.3,
        norm: Norm = "linf",
        y_target: int | None = None,
        *,
        architecture: Architecture = "patch",
        patch: int = 4,
        width: int = 32,
        depth: int = 2,
        levels: int = 1,
        labels: int = 0,
        classes: int = 0,
        target_classes: Sequence[int] = (),
        eps_min: float | None = None,
        noise: int = 0,
        universal: bool = False,
        smoothing: int = 0,
        guide: nn.Module | Mapping[str, Any] | None = None,
        image_shape: Sequence[int] | None = None,
        network: nn.Module | None = None,
    ) -> None:
        super().__init__()
        settings: dict[str, Any] = {
            **{"channels": channels, "eps": eps, "norm": norm, "y_target": y_target, "architecture": architecture},
            **{"patch": patch, "width": width, "depth": depth, "levels": levels, "classes": classes},
            **{"labels": labels, "eps_min": eps_min, "noise": noise, "universal": universal},
            **{"smoothing": smoothing, "target_classes": target_classes},
        }
        settings = {name: plain(value) for name, value in settings.items()}
        channels, eps, y_target, eps_min = (settings[name] for name in ("channels", "eps", "y_target", "eps_min"))
        check_settings(settings, guided=guide is not None)
        settings["target_classes"] = list(target_classes)
        self.guide = None if guide is None else guide_from(guide, image_shape)
        check_classes(settings, self.guide)
        self.channels, self.y_target, self.noise = channels, y_target, noise
        self.labels, self.classes = labels, classes
        self.target_classes: Sequence[int] = tuple(target_classes) or range(classes)
        self.threat = Threat(norm=norm, eps=eps, targeted=y_target is not None)
        self.eps_min = eps_min
        num_guide_classes = 0 if self.guide is None else self.guide.num_classes
        cond_dim = COND_DIM if labels or classes or noise or num_guide_classes or eps_min is not None else 0
        eps_range = None if eps_min is None else (eps_min, eps)
        self.cond_embedding = (
            ConditionEmbedding(cond_dim, labels, classes, eps_range, noise, num_guide_classes) if cond_dim else None
        )
        self.universal_input = nn.Parameter(torch.randn(1, channels, 32, 32)) if universal else None
        if network is not None:
            check_no_generator("network", network)
            check_network(network, architecture, cond_dim)
            settings |= {"architecture": CUSTOM, "network": type(network).__name__}
            self.size_multiple = check_int("size_multiple", getattr(network, "size_multiple", 1), 1, MAX_PATCH)
            self.network = network
        else:
            self.size_multiple, self.network = build_network(settings, self.guide, cond_dim)
        self.smooth = GaussianSmoothing(smoothing) if smoothing else None
        self._settings = settings
        self.to(memory_format=torch.channels_last)  # half as much again in speed on a CPU

    def load_guide_weights(self, classifier: nn.Module, *, init: bool = True) -> None:
        """Copy the weights of a classifier like the guide; with `init` an unrolled network starts from them anew."""
        if self.guide is not None:
            inner = self.guide if isinstance(self.guide, type(classifier)) else getattr(self.guide, "model", self.guide)
            inner.load_state_dict(classifier.state_dict())
            if init and isinstance(self.network, UnrolledGradientNetwork):
                self.network.init_from(self.guide)

    def train(self, mode: bool = True) -> Generator:
        super().train(mode)
        if self.guide is not None:
            self.guide.eval()  # frozen: it does not update its statistics
        return self

    @property
    def iterations(self) -> int:
        """Forward and backward passes of the guide that one pass of an unrolled network takes; of others 0."""
        return self.network.iterations if isinstance(self.network, UnrolledGradientNetwork) else 0

    @property
    def universal(self) -> bool:
        return self.universal_input is not None

    def raw_perturbation(
        self,
        x: Tensor,
        y: Tensor | None = None,
        y_target: Tensor | None = None,
        eps: Tensor | None = None,
        z: Tensor | None = None,
        iterations: int | None = None,
    ) -> Tensor:
        """The unbounded perturbation, the shape of `x`, which is padded to what the network needs and cropped again.

        y            labels (n,) int64, -1 for unknown; None: -1
        y_target     (n,) int64, -1 for untargeted; None: -1
        eps          (n,); None: the largest
        z            noise (n, noise); None: zeros
        iterations   of an unrolled network; None: its own

        What the generator is not conditional on is ignored.
        """
        n = x.shape[0]  # len would be a constant of an exported graph
        labels = x.new_full((n,), -1, dtype=torch.long) if y is None else y
        targets = x.new_full((n,), -1, dtype=torch.long) if y_target is None else y_target
        eps_values = x.new_full((n,), self.threat.eps) if eps is None else eps
        noise = x.new_zeros(n, self.noise) if z is None else z

        def embed(logits: Tensor | None) -> Tensor | None:
            if self.cond_embedding is None:
                return None
            known = labels if logits is None else class_to_leave(logits)
            return self.cond_embedding(known, targets, eps_values, noise, logits)

        def class_to_leave(logits: Tensor) -> Tensor:
            predicted = logits.argmax(1)
            return labels.where(labels >= 0, predicted) if self.labels else predicted

        if isinstance(self.network, UnrolledGradientNetwork):
            raw: Tensor = self.network(x, self.guide, embed, class_to_leave, targets, eps_values, iterations)
        else:
            raw = self._network_output(x, embed)
        return raw if self.smooth is None else self.smooth(raw)

    def _network_output(self, x: Tensor, embed: Callable[[Tensor | None], Tensor | None]) -> Tensor:
        """That of a network of the image alone, under the condition that `embed` makes of the guide's logits."""
        n, _, h, w = x.shape
        net_input = 2 * x - 1
        if self.universal_input is not None:
            resized = F.interpolate(self.universal_input, (h, w), mode="bilinear", align_corners=False)
            net_input = resized.expand(n, -1, -1, -1) if self.cond_embedding is not None else resized
        multiple = self.size_multiple
        padded = F.pad(net_input, (0, -w % multiple, 0, -h % multiple), mode="replicate")
        padded = padded.contiguous(memory_format=torch.channels_last)
        logits = None
        if self.guide is not None:
            with torch.no_grad():
                logits = self.guide(x).float()
        cond = embed(logits)
        raw: Tensor = self.network(padded) if cond is None and self.custom else self.network(padded, cond)
        if self.custom and (not isinstance(raw, Tensor) or raw.shape != padded.shape):
            shape = tuple(raw.shape) if isinstance(raw, Tensor) else type(raw).__name__
            raise InputError(f"network must return a perturbation {tuple(padded.shape)}, like its input, got {shape}")
        return raw[..., :h, :w].expand(n, -1, -1, -1)

    @property
    def custom(self) -> bool:
        """Whether the network is the caller's own."""
        return bool(self._settings["architecture"] == CUSTOM)

    def forward(
        self,
        x: Tensor,
        y: Tensor | None = None,
        y_target: Tensor | None = None,
        eps: Tensor | None = None,
        z: Tensor | None = None,
    ) -> Tensor:
        """x_adv (n, c, h, w), differentiable, for training, arguments as `raw_perturbation`; users want `perturb`."""
        raw = self.raw_perturbation(x, y, y_target, eps, z)
        return squash_to_ball(raw, x, self.threat.norm, self.threat.eps if eps is None else eps)

    @torch.no_grad()
    def perturb(
        self,
        x: Tensor,
        y: int | Tensor | None = None,
        eps: float | None = None,
        *,
        y_target: int | Tensor | None = None,
        z: Tensor | None = None,
        rng: torch.Generator | None = None,
        iterations: int | None = None,
        check_finite: bool = True,
    ) -> Tensor:
        """Adversarial images for clean `x` (n, c, h, w) in [0, 1]: float32, detached, on x's device, one pass.

        y            labels (n,), or one label for all, of a generator that has `labels`: true ones or a classifier's
                     predictions; -1 and None: unknown. Not used where a guide predicts them
        y_target     one class, or one for each image (n,); any of a generator that has `classes`, else its own
        eps          None: the largest; below the trained range: the same pattern, scaled down
        z            noise (n, noise) of a generator that takes it; None: drawn from `rng` (None: torch's own)
        iterations   of an unrolled network, fewer or more than in training (None: as many)

        Raises InputError for what the generator was not made for, for images of another kind, and (`check_finite`) for
        NaN or infinity in the result.
        """
        z = checked_noise(z, rng)
        self._validate_inputs(x, y, y_target, eps, z, iterations)
        device = device_of(self, x.device)
        radius = self.threat.eps if eps is None else float(eps)
        n = len(x)
        labels, targets = (
            None
            if classes is None
            else torch.as_tensor(array_as_tensor(classes, "classes")).to(device, torch.long).expand(n)
            for classes in (y, y_target)
        )
        if self.noise and z is None:
            z = torch.randn(n, self.noise, generator=rng, device="cpu" if rng is None else rng.device)
        x_adv = torch.empty_like(x, dtype=torch.float32, memory_format=torch.contiguous_format)
        size = 50 if self.iterations else 128  # what fits the cache, with a guide's activations and without
        for first in range(0, n, size):
            part = slice(first, first + size)
            chunk = x[part].to(device, torch.float32)
            raw = self.raw_perturbation(
                chunk,
                None if labels is None else labels[part],
                None if targets is None else targets[part],
                chunk.new_full((len(chunk),), radius),
                None if z is None else z[part].to(device, torch.float32),
                iterations,
            )
            x_adv[part] = squash_to_ball(raw, chunk, self.threat.norm, radius)
        if check_finite and not (finite := torch.isfinite(x_adv.flatten(1).sum(1))).all():
            count = int((~finite).sum())
            raise InputError(f"the generator gives NaN or infinity for {count} of {n} images: are its weights damaged?")
        return x_adv

    def _validate_inputs(
        self,
        x: Tensor,
        y: int | Tensor | None,
        y_target: int | Tensor | None,
        eps: float | None,
        z: Tensor | None,
        iterations: int | None,
    ) -> None:
        check_tensor(x, "images", "a float tensor (n, c, h, w) in [0, 1]", "torch.from_numpy(x)")
        if (dtype := next((tensor.dtype for tensor in self.parameters()), torch.float32)) != torch.float32:
            raise InputError(f"the generator's weights must be float32, got {dtype}: generator.float()")
        if not torch.is_floating_point(x) or x.ndim != 4 or x.shape[1] != self.channels or 0 in x.shape[1:]:
            expected = f"float images (n, {self.channels}, h, w)"
            hint = ": x[None] is a batch of one image" if x.ndim == 3 else ""
            hint = ": x.permute(0, 3, 1, 2)" if x.ndim == 4 and x.shape[3] == self.channels != x.shape[1] else hint
            raise InputError(f"this generator expects {expected} in [0, 1], got {x.dtype} {tuple(x.shape)}{hint}")
        check_range(x)
        if self.guide is not None and x.shape[1:] != self.guide.image_shape:
            shape = tuple(self.guide.image_shape)
            raise InputError(f"the guide of this generator takes images {shape}, got {tuple(x.shape[1:])}")
        labels = self.labels or getattr(self.guide, "num_classes", 0)
        if y is not None and not labels:
            raise InputError("this generator was trained without labels: expected no y; a target class is y_target")
        for label in _distinct_classes("y", y, len(x)):
            if not -1 <= label < labels:
                raise InputError(f"this generator was trained for labels 0 to {labels - 1}, got y {label}")
        for target in _distinct_classes("y_target", y_target, len(x)):
            if reason := self.incompatibility(y_target=target):
                raise InputError(reason)
        if eps is not None:
            check_eps(eps, self.threat.norm)
        if eps is not None and (reason := self.incompatibility(eps=eps, y_target=self.y_target)):
            raise InputError(reason)
        if z is not None and (not self.noise or z.shape != (len(x), self.noise)):
            expected = f"noise ({len(x)}, {self.noise})" if self.noise else "no noise"
            raise InputError(f"this generator takes {expected}, got z of shape {tuple(z.shape)}")
        if iterations is not None:
            check_whole("iterations", iterations)
        if iterations is not None and (not self.iterations or iterations < 1):
            only = "no iterations, which are for architecture unrolled"
            raise InputError(f"expected {'at least 1 iteration' if self.iterations else only}, got {iterations}")

    def incompatibility(self, *, eps: float = 0.0, norm: str | None = None, y_target: int | None = None) -> str | None:
        """Why the generator cannot attack within `eps` of `norm` toward class `y_target` (None: untargeted); None if it
        can."""
        threat = self.threat
        if norm not in (None, threat.norm):
            return f"the generator was trained for norm {threat.norm}, got {norm}"
        if eps > threat.eps * (1 + ROUNDING):
            return f"this generator was trained for eps {eps_text(threat.eps)}, got the larger {eps_text(eps)}"
        if self.classes and y_target is not None and y_target not in self.target_classes:
            trained = f"0 to {self.classes - 1}"
            if not isinstance(self.target_classes, range):
                trained = listing(self.target_classes, 20)
            return f"this generator was trained for the classes {trained}, got y_target {y_target}"
        if not self.classes and y_target != self.y_target:
            trained = "untargeted" if self.y_target is None else f"for class {self.y_target}"
            return f"this generator was trained {trained}, got y_target {y_target}"
        return None

    def supports(self, threat: Threat, y_target: int | None = None) -> bool:
        """Whether the generator can attack within the ball of `threat` toward class `y_target` (None: untargeted)."""
        return self.incompatibility(eps=threat.eps, norm=threat.norm, y_target=y_target) is None

    def differences(self, other: Generator) -> str:
        """The settings in which two generators differ so that the weights of one do not fit the other, in words; "" if
        there are none. eps, the value of eps_min, y_target and the guide's weights may differ."""
        mine, theirs = _of_network(self.config), _of_network(other.config)
        return "; ".join(f"{k} is {theirs[k]}, expected {mine[k]}" for k in mine if mine[k] != theirs.get(k))

    def __getstate__(self) -> Any:
        """For copies and pickles: without the graph of the last pass, of which a guide may keep features."""
        if self.guide is not None:
            detach_kept(self.guide)
        return super().__getstate__()

    def save(self, directory: Path | str, card: str | None = None) -> None:
        """Write config.json, model.safetensors and the `card` (Markdown; None: `generate_model_card`), all or nothing;
        other files there stay. Raises InputError for the path of a file."""

        def write(folder: Path) -> None:
            self.save_pretrained(folder)
            if card is not None:
                (folder / "README.md").write_text(card)

        atomic_write_dir(folder_path(directory), write, keep=True)

    @property
    def config(self) -> dict[str, Any]:
        """The config.json of a checkpoint: the settings that build it again, and of a guide what `advgan.models.guides`
        writes. A network of the caller's is the name of its class."""
        return dict(sorted({**self._settings, "guide": self.guide and guide_config(self.guide)}.items()))

    @property
    def identity(self) -> str:
        """What its output depends on beside its weights, for `advgan.classifiers.fingerprint`."""
        return json.dumps(self.config, sort_keys=True)

    def generate_model_card(self, *_: Any, **__: Any) -> ModelCard:
        """The card that `save_pretrained` writes where there is no README.md: what the config.json implies."""
        return ModelCard(config_card(self.config))

    def _save_pretrained(self, save_directory: Path) -> None:
        write_checkpoint(save_directory, self.config, self.state_dict())

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        source: str | Path,
        *,
        guide: nn.Module | str | None = None,
        network: nn.Module | None = None,
        allowed_guides: Collection[str] = (),
        **hub: Any,
    ) -> Generator:
        """A trained generator, in eval mode, from a folder (or its `generator/`), the Hub ("hf://user/model"), or
        a shipped one by its name ("checkpoints/mnist-c-generator").

        guide            the classifier that the generator was made with, where it is neither built in nor of a library,
                         or its name "FILE.py:FACTORY", which runs that file
        network          an own network, of the class that it was made with: it gets the saved weights
        allowed_guides   names "FILE.py:FACTORY": a guide of that name is loaded, which runs the file
        hub              as huggingface_hub.snapshot_download takes it: revision, token, cache_dir, ...

        A generator whose training was not finished is named on stderr. Raises InputError for a checkpoint that is not
        there, damaged, or of another architecture, and where guide or network are needed and not given, or others.
        """
        check_default_device()
        name = str(source)
        folder = _download(name, hub) if name.startswith("hf://") else existing_or_shipped(Path(source))
        folder = generator_folder(folder)
        warn_unfinished(folder)
        file = folder / SAFETENSORS_SINGLE_FILE
        if not file.is_file():
            raise InputError(f"no generator in {folder}: expected {SAFETENSORS_SINGLE_FILE} beside its config.json")
        config = read_object(folder / "config.json")
        tensors = read_checkpoint(folder, config)
        try:
            guide = allowed_guide(config, allowed_guides) if guide is None else guide
            arguments = _arguments(config, tensors, guide, network)
            return build_and_load(lambda: cls(**arguments), tensors, file, "the architecture in its config.json").eval()
        except InputError as error:
            raise InputError(f"the generator in {folder} cannot be loaded: {error}") from None


def check_no_generator(name: str, module: Any) -> None:
    """Raise InputError for a Generator, or a wrapper of one (`torch.compile`, DataParallel, an average of weights), in
    the place of another module or function called `name`."""
    wrapped = getattr(module, "_orig_mod", None) or getattr(module, "module", None)
    if isinstance(module, Generator) or isinstance(wrapped, Generator):
        around = "" if isinstance(module, Generator) else f"a {type(module).__name__} around "
        raise InputError(
            f"{name} must not be {around}a Generator: pass the Generator itself as generator "
            "(generator.network.compile() compiles it)"
        )


def _distinct_classes(name: str, classes: int | Tensor | None, n: int) -> list[int]:
    """The different classes of an argument for `n` images; [] for None. Raises InputError unless it is one class, or
    one for each image."""
    if classes is None:
        return []
    if isinstance(classes, (bool, str, bytes)):
        check_whole(name, classes)
    try:
        values = torch.as_tensor(array_as_tensor(classes, name))
    except (TypeError, ValueError):
        raise InputError(f"{name} must be a class or int64 classes, got {reprlib.repr(classes)}") from None
    check_tensor(values, name, "a class or int64 classes", "")
    if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        raise InputError(f"{name} must be a class or int64 classes, got {values.dtype}")
    if values.ndim and values.shape != (n,):
        raise InputError(f"{name} must be one class, or one for each of {n} images, got {tuple(values.shape)}")
    return values.unique().tolist()


def generator_folder(folder: Path) -> Path:
    """The folder of a generator's config.json: `folder` itself or its `generator/`. Raises InputError for neither."""
    for candidate in (folder, folder / "generator"):
        if os.path.isfile(candidate / "config.json"):
            return candidate
    hub = f", or hf://{folder} for the Hub" if len(folder.parts) == 2 and not os.path.exists(folder) else ""
    raise InputError(f"no generator in {folder}: expected config.json and model.safetensors there{hub}")


def _arguments(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor], guide: nn.Module | str | None, network: nn.Module | None
) -> dict[str, Any]:
    """The arguments of `Generator` for a checkpoint. Raises InputError as `Generator.from_pretrained`."""
    config = {"labels": 0, "smoothing": 0, "target_classes": [], **config}  # which older checkpoints may lack
    names = set(inspect.signature(Generator).parameters) - {"image_shape", "network"}
    check_keys("its config.json", config, names, ["network"])
    arguments = {name: config[name] for name in names}
    if config["architecture"] == CUSTOM:
        kind = config.get("network")
        if network is None:
            raise InputError(f"its network is of the class {kind!s:.60}: expected from_pretrained(..., network=MODULE)")
        if type(network).__name__ != kind:
            raise InputError(f"network must be of the class {kind!s:.60}, got {type(network).__name__}")
        arguments |= {"architecture": "patch", "network": network}
    elif network is not None:
        raise InputError(f"its architecture is {config['architecture']!s:.60}, expected no network")
    if isinstance(config["guide"], Mapping) and "sha256" in config["guide"]:
        weights = {name.removeprefix("guide."): tensor for name, tensor in tensors.items() if name.startswith("guide.")}
        arguments["guide"] = rebuild(config["guide"], weights, guide)
    elif guide is not None:
        raise InputError("its guide is built in, or it has none: expected no guide")
    if arguments["guide"] is not None:
        check_guide(config["guide"], external=True)
    return arguments


def _download(source: str, settings: dict[str, Any]) -> Path:
    """The folder that the Hub's "hf://user/model" was downloaded to. Raises InputError where it cannot be."""
    files = ["config.json", SAFETENSORS_SINGLE_FILE]
    try:
        return Path(snapshot_download(source.removeprefix("hf://"), allow_patterns=files, **settings))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise InputError(f"no generator at {source}: the Hub does not give it ({one_line(error)})") from None


def _of_network(config: Mapping[str, Any]) -> dict[str, Any]:
    """What decides a generator's weights: names, shapes and meaning."""
    free = {"eps", "y_target", "eps_min", "guide", "target_classes"}
    kept = {name: value for name, value in config.items() if name not in free}
    guide = config["guide"] or {}
    of_guide = tuple(guide.get(name) for name in ("name", "image_shape", "num_classes")) if guide else None
    return kept | {"several radii": config["eps_min"] is not None, "guide": of_guide and str(of_guide)}
