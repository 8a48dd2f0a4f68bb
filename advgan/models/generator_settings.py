"""Settings of a generator: their limits, what must agree with guide and network, and the network that they describe."""

import inspect
from collections.abc import Mapping
from numbers import Real
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from advgan.classifiers.base import MAX_CLASSES
from advgan.core.errors import InputError, listing
from advgan.core.fraction import eps_text
from advgan.core.inputs import array_as_tensor
from advgan.core.json_files import check_int
from advgan.core.threat_model import check_eps
from advgan.core.weights import check_weights
from advgan.models.networks import PatchNetwork, ResNetNetwork, UNet, XiaoNetwork
from advgan.models.unrolled import UnrolledGradientNetwork

Architecture = Literal["patch", "unet", "unrolled", "paper", "resnet"]
CUSTOM = "custom"  # the architecture of a config.json whose network was the caller's own
COND_DIM = 64  # length of the condition vector

# The largest sizes that a config.json may have: far above what anybody trains.
MAX_CHANNELS, MAX_PATCH, MAX_WIDTH, MAX_DEPTH, MAX_LEVELS, MAX_NOISE = 4096, 256, 16_384, 1000, 8, 65_536
MAX_SMOOTHING = 255


def check_architecture(architecture: Any) -> None:
    """Raise InputError unless it is one of `Architecture`."""
    if not isinstance(architecture, str) or architecture not in get_args(Architecture):
        raise InputError(f"architecture must be patch, unet, unrolled, paper or resnet, got {architecture!r:.60}")


def check_settings(settings: Mapping[str, Any], *, guided: bool) -> None:
    """Raise InputError, before anything is built, for impossible arguments of a `Generator`."""
    for name, least, most in (
        ("channels", 1, MAX_CHANNELS),
        ("patch", 1, MAX_PATCH),
        ("width", int(settings["architecture"] != "unrolled"), MAX_WIDTH),
        ("depth", 0, MAX_DEPTH),
        ("levels", 0, MAX_LEVELS),
        ("labels", 0, MAX_CLASSES),
        ("classes", 0, MAX_CLASSES),
        ("noise", 0, MAX_NOISE),
        ("smoothing", 0, MAX_SMOOTHING),
    ):
        check_int(name, settings[name], least, most)
    if settings["smoothing"] and settings["smoothing"] % 2 == 0:
        raise InputError(f"smoothing must be 0 or an odd number of pixels, got {settings['smoothing']}")
    y_target, eps, eps_min = settings["y_target"], settings["eps"], settings["eps_min"]
    if y_target is not None:
        check_int("y_target", y_target, 0, MAX_CLASSES)
    if not isinstance(settings["universal"], bool):
        raise InputError(f"universal must be True or False, got {settings['universal']!r:.60}")
    check_architecture(settings["architecture"])
    for name, number in (("eps", eps), ("eps_min", eps if eps_min is None else eps_min)):
        if isinstance(number, bool) or not isinstance(number, Real):
            raise InputError(f"{name} must be a number, got {number!r:.60}")
    check_eps(eps, settings["norm"])
    if eps_min is not None and not check_eps(eps_min, settings["norm"], "eps_min") < eps:
        raise InputError(f"eps_min must be below eps {eps_text(eps)}, got {eps_text(eps_min)}")
    if settings["universal"] and settings["labels"]:
        raise InputError(f"a universal perturbation cannot depend on the label, got labels {settings['labels']}")
    if settings["universal"] and guided:
        raise InputError("a universal perturbation cannot depend on a guide's logits of the image, got both")
    if y_target is not None and settings["classes"]:
        raise InputError(f"classes {settings['classes']} means any class, expected no y_target, got {y_target}")
    check_target_classes(settings["target_classes"], settings["classes"])
    if settings["architecture"] == "unrolled" and not guided:
        raise InputError(
            "architecture unrolled is a backward pass of its guide: expected a guide, got none (guide=True of "
            "fit is the model itself)"
        )


def check_target_classes(target_classes: Any, classes: int) -> None:
    """Raise InputError unless `target_classes` are none, or two and more different ones of so many `classes`."""
    if not isinstance(target_classes, (list, tuple)) or any(type(value) is not int for value in target_classes):
        raise InputError(f"target_classes must be a list of class numbers, got {target_classes!r:.60}")
    if not target_classes:
        return
    if not classes:
        raise InputError(f"target_classes does nothing without any class, got {listing(target_classes)}")
    different = sorted(set(target_classes))
    if len(different) < len(target_classes) or len(different) < 2:
        raise InputError(f"target_classes must be two different classes or more, got {listing(target_classes)}")
    if different[0] < 0 or different[-1] >= classes:
        wrong = different[0] if different[0] < 0 else different[-1]
        raise InputError(f"target_classes must be 0 to {classes - 1}, got {wrong}")


def check_classes(settings: Mapping[str, Any], guide: Any) -> None:
    """Raise InputError unless images and classes of a generator are those of its guide, where they have to be."""
    if guide is None:
        return
    channels, classes, y_target = settings["channels"], settings["classes"], settings["y_target"]
    if guide.image_shape[0] != channels:
        raise InputError(f"the guide takes images {tuple(guide.image_shape)}, got a generator of channels {channels}")
    count = guide.num_classes
    if settings["labels"] not in (0, count):
        raise InputError(f"the guide has {count} classes, expected as many labels, got {settings['labels']}")
    if settings["architecture"] == "unrolled" and (
        classes not in (0, count) or (y_target is not None and y_target >= count)
    ):
        target = f"classes {classes}" if classes else f"y_target {y_target}"
        raise InputError(
            f"architecture unrolled targets the classes of its guide, expected one of {count}, got {target}"
        )


def check_network(network: Any, architecture: str, cond_dim: int) -> None:
    """Raise InputError unless `network` is a module that takes what a generator gives it."""
    if not isinstance(network, nn.Module):
        raise InputError(f"network must be an nn.Module, got {type(network).__name__}")
    check_weights(network)
    if architecture != "patch":
        raise InputError(f"expected network or architecture, got a network and architecture {architecture}")
    given = ("x", "cond") if cond_dim else ("x",)
    try:
        inspect.signature(network.forward).bind(*given)
    except TypeError:
        conditions = " with labels, classes, eps_min, noise or a guide" if cond_dim else ""
        raise InputError(
            f"network is called as network({', '.join(given)}){conditions}, got {type(network).__name__}.forward"
            f"{inspect.signature(network.forward)}"
        ) from None


def build_network(settings: Mapping[str, Any], guide: Any, cond_dim: int) -> tuple[int, nn.Module]:
    """The network of an architecture, and the number of pixels that the sides of its input are multiples of."""
    channels, patch, width = settings["channels"], settings["patch"], settings["width"]
    depth, levels = settings["depth"], settings["levels"]
    if settings["architecture"] == "paper":
        return 4, XiaoNetwork(channels, cond_dim)
    if settings["architecture"] == "resnet":
        return 4, ResNetNetwork(channels, width, depth, cond_dim)
    if settings["architecture"] == "unrolled":
        return 1, UnrolledGradientNetwork(guide, depth, width, cond_dim, settings["norm"])
    if settings["architecture"] == "unet":
        return patch * 2**levels, UNet(channels, patch, width, depth, levels, cond_dim)
    return patch, PatchNetwork(channels, patch, width, depth, cond_dim)


def checked_noise(z: Any, rng: Any) -> Tensor | None:
    """`z` as a tensor, or None. Raises InputError for another type of it, or of `rng`."""
    z = array_as_tensor(z, "z")
    if z is not None and not isinstance(z, Tensor):
        raise InputError(f"z must be noise (n, noise), got {z!r:.60}")
    if rng is not None and not isinstance(rng, torch.Generator):
        raise InputError(f"rng must be a torch.Generator, got {type(rng).__name__}")
    return z
