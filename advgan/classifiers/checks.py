"""Is this model a classifier that can be attacked? Asked once, before any work, of anybody's model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from advgan.classifiers.black_box import BlackBox
from advgan.core.errors import InputError, one_line, warn
from advgan.core.inputs import check_images

SAME = 1e-4  # two forwards of a deterministic model differ by rounding alone, relative to the largest logit
DEPENDS = 0.05  # relative to the spread of the logits: int8 activations, scaled by the batch, stay below
DETACHED = "its output is detached from its input: no_grad, detach, argmax, int8 or another runtime"
ROUNDS = 2e-3  # the same for arithmetic of 32 bits, on a GPU too
ALONE = 5  # images that are tried alone


# What models are trained behind, by how many channels it is for: each x -> (x - mean) / std.
NORMALISATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "ImageNet's": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "CIFAR-10's": ((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)),
    "MNIST's": ((0.1307,), (0.3081,)),
    "that to [-1, 1]": ((0.5,), (0.5,)),
    "that to [0, 255]": ((0.0,), (1 / 255,)),
}
NORMALISATION_IMAGES = 64  # enough to show that one is missing
FEWEST_GAINED = 8  # images that a normalisation must turn right: by chance one of five does so with at most 5 / 2^8


class OutputFault(InputError):
    """Outputs that cannot be attacked as logits: the `name` of the fault, what was `measured`, what is `expected`."""

    def __init__(self, name: str, measured: str, expected: str) -> None:
        super().__init__(f"{measured}, expected {expected}")
        self.name, self.measured, self.expected = name, measured, expected


class BinaryLogit(nn.Module):
    """A two-class `model` with one logit f, (n,) or (n, 1), as one with the logits (0, f): class 1 wins where f > 0.

    In the mode that `model` is in, and with its name, images, classes and config where it has them.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.num_classes = model, 2
        self.training = model.training
        for key in ("name", "image_shape", "classes", "config", "normalises"):
            if hasattr(model, key):
                setattr(self, key, getattr(model, key))

    def forward(self, x: Tensor) -> Tensor:
        return two_logits(self.model(x))


class Scripted(nn.Module):
    """A TorchScript `script` as a module that takes hooks, in eval mode and no other."""

    def __init__(self, script: torch.jit.ScriptModule) -> None:
        super().__init__()
        self.script = script.eval() if hasattr(script, "training") else script  # a frozen one has no mode
        self.training = False

    def train(self, mode: bool = True) -> Scripted:
        return self

    def forward(self, x: Tensor) -> Any:
        return self.script(x)


def two_logits(f: Tensor) -> Tensor:
    """Logits (n, 2), (0, f), of one logit f (n,) or (n, 1)."""
    f = f.reshape(len(f), 1)
    return torch.cat([torch.zeros_like(f), f], dim=1)


def check_target(model: nn.Module, x: Tensor, num_classes: int) -> nn.Module:
    """`model` itself if it maps images `x` (n, c, h, w) in [0, 1] to logits (n, num_classes), always the same.

    A two-class model that returns one logit f comes back as logits (0, f), a TorchScript module in a plain one. A
    few images are enough. The model and the images are left as found; one that changes its input in place is given
    copies, here as in every attack. A black box is asked about n + 1 images. A model in training mode is checked in
    eval mode, with a warning; one that passes no gradient is another.

    Raises InputError if it cannot take the images, returns no logits or with probabilities, depends on the batch,
    or is random in eval mode and has no part that says so (`random`, as a defense has).
    """
    check_images(x)
    if not len(x):
        raise InputError("expected a few images to try the target on, got none")
    if isinstance(model, BlackBox):
        return _checked_black_box(model, x, num_classes)
    if isinstance(model, torch.jit.ScriptModule):
        model = Scripted(model)
    if any(getattr(module, "training", False) for module in model.modules()):
        warn(f"the model is in training mode{acting(model)} and is checked in eval mode: call model.eval()")
    with evaluating(model):
        first, second = _forward(model, x), _forward(model, x)
        one_logit = num_classes == 2 and isinstance(first, Tensor) and first.shape in {(len(x),), (len(x), 1)}
        _check_logits(first, len(x), num_classes, one_logit)
        if not (torch.isfinite(first).all() and torch.isfinite(second).all()):
            raise InputError("the target returns NaN or infinity, expected finite logits: are its weights damaged?")
        difference = (first - second).abs().max().item()
        random = any(getattr(module, "random", False) for module in model.modules())
        if not random and difference > SAME * max(1.0, first.abs().max().item()):
            raise InputError(
                f"the target is random in eval mode: two forwards of the same images differ by {difference:.3g}; "
                "a deterministic one is expected (dropout called by hand? random preprocessing?)"
            )
        check_no_probabilities(model, first, x)
        if not random:
            check_batch_independence(BinaryLogit(model) if one_logit else model, x)
    checked = BinaryLogit(model) if one_logit else model  # in the mode that the model was in
    if not random and (fault := gradient_fault(checked, x)):
        warn(f"the model passes no gradient to its input ({fault}): only attacks without gradients run on it")
    return checked


def gradient_fault(model: Any, x: Tensor) -> str | None:
    """Why `model` passes no gradient to images like `x` (n, c, h, w); None if it does, even one of zeros. One forward
    and one backward pass of one image; of a defense, through what an attack by gradients differentiates (`adaptive`).
    """
    attacked = model.adaptive() if hasattr(model, "adaptive") else model
    with evaluating(attacked), torch.inference_mode(False), torch.enable_grad():
        leaf = x[:1].detach().clone().requires_grad_()
        try:
            outputs = attacked(leaf.clone())
            if outputs.requires_grad:
                (gradient,) = torch.autograd.grad(outputs.float().sum(), leaf, allow_unused=True)
                return None if gradient is not None else DETACHED
        except (RuntimeError, NotImplementedError) as error:
            return one_line(error)
    return DETACHED


def check_outputs(model: nn.Module, x: Tensor, logits: Tensor, *, alone: bool = True) -> None:
    """Raise InputError for the `logits` (n, k) of images `x` (n, c, h, w) that are probabilities, or (`alone`, a few
    more forwards of one image) depend on the batch: for a model that `check_target` has perhaps not seen."""
    with evaluating(model):
        check_no_probabilities(model, logits, x)
        if alone and not any(getattr(module, "random", False) for module in model.modules()):
            _compare_alone(model, x, logits)


def check_no_probabilities(model: Callable[[Tensor], Any], outputs: Tensor, x: Tensor) -> None:
    """Raise InputError if the `outputs` (n,) or (n, k) of a model are probabilities, or one log-probability per image.

    All in [0, 1], they are tried on black, white, noise and inverted images `x` (m, c, h, w) (rows that sum to 1 are a
    softmax's), and then on values far outside of [0, 1], where logits leave [0, 1] and a sigmoid does not.
    """
    if not in_unit_interval(outputs):
        _check_no_log_probability(model, outputs, x)
        return
    near = _outputs(model, torch.cat([x, extremes(x)]))
    if near is None or not in_unit_interval(near):
        return
    if sum_to_one(near):
        raise OutputFault(
            "softmax output",
            "the target returns probabilities (rows sum to 1)",
            "logits: leave out its softmax, or undo it with p.clamp_min(1e-12).log()",
        )
    far = _outputs(model, torch.cat([200 * (x - 0.5), -200 * (x - 0.5), 100 * (extremes(x) - 0.5)]))
    if not near.any() or (far is not None and not in_unit_interval(far)):
        return
    columns = near.reshape(len(near), -1)
    one = columns.shape[1] == 1 or (columns.shape[1] == 2 and not columns[:, 0].any())
    what = "one probability per image" if one else f"{columns.shape[1]} independent probabilities per image"
    raise OutputFault(
        "sigmoid output",
        f"the target returns {what} (a sigmoid: {len(near)} images, black, white and noise among them, give "
        f"{near.min().item():.3g} to {near.max().item():.3g})",
        "logits: leave out its sigmoid, or undo it with torch.logit(p, eps=1e-6)",
    )


def _check_no_log_probability(model: Callable[[Tensor], Any], outputs: Tensor, x: Tensor) -> None:
    """Raise InputError if one value per image is never above 0, whatever the image: class 1 would never win."""
    if not outputs.numel() or outputs.numel() != len(outputs) or not outputs.max() <= 0:
        return
    many = _outputs(model, torch.cat([x, extremes(x), 200 * (x - 0.5), -200 * (x - 0.5), 100 * (extremes(x) - 0.5)]))
    if many is not None and len(many) and many.max() <= 0:
        raise OutputFault(
            "log-probability output",
            f"the target returns one value per image that is never above 0 (a log-probability? {len(many)} images "
            f"give {many.min().item():.3g} to {many.max().item():.3g})",
            "a logit, above 0 for class 1: leave out its logsigmoid, or undo it with p - "
            "torch.log(-torch.expm1(p.clamp_max(-1e-6)))",
        )


def in_unit_interval(outputs: Tensor) -> bool:
    return bool(outputs.numel()) and bool(outputs.min() >= 0) and bool(outputs.max() <= 1)


def sum_to_one(outputs: Tensor) -> bool:
    """Whether `outputs` are (n, k), k >= 2, with rows that sum to 1."""
    return outputs.ndim == 2 and outputs.shape[1] > 1 and bool((outputs.float().sum(1) - 1).abs().max() < 1e-3)


def extremes(x: Tensor) -> Tensor:
    """Black, white, grey, 8 of noise, and `x` (n, c, h, w) inverted: (n + 11, c, h, w) in [0, 1], without chance."""
    noise = torch.rand(8, *x.shape[1:], generator=torch.Generator().manual_seed(0), dtype=x.dtype).to(x.device)
    plain = torch.tensor([0.0, 1.0, 0.5], dtype=x.dtype, device=x.device).view(3, 1, 1, 1).expand(3, *x.shape[1:])
    return torch.cat([plain, noise, 1 - x])


def check_batch_of(answers: Callable[[Tensor], Tensor], x: Tensor, name: str) -> None:
    """Raise InputError if the probabilities (n, k) of the first of the images `x` (n, c, h, w), n >= 2, are others when
    it is asked about alone: n + 1 images."""
    together, alone = answers(x), answers(x[:1])
    difference = (together[:1] - alone).abs().max().item()
    if difference > DEPENDS:
        raise InputError(
            f"{name} answers otherwise about an image alone than inside a batch of {len(x)} (probabilities differ by "
            f"{difference:.2g}): it is random or depends on the batch, expected one answer per image"
        )


def _checked_black_box(model: BlackBox, x: Tensor, num_classes: int) -> BlackBox:
    if model.num_classes != num_classes:
        raise InputError(f"{model.name} has {model.num_classes} classes, expected {num_classes}")
    check_batch_of(model.query, x, model.name)
    return model


def _check_logits(first: Any, n: int, num_classes: int, one_logit: bool) -> None:
    """Raise InputError unless `first` is a float tensor (n, num_classes), or with `one_logit` one value per image."""
    if not isinstance(first, Tensor):
        raise InputError(f"the target must return a tensor of logits, got {type(first).__name__}")
    if first.shape != (n, num_classes) and not one_logit:
        raise InputError(
            f"the target must answer {n} images of {num_classes} classes with logits of shape "
            f"{(n, num_classes)}, got {tuple(first.shape)}"
        )
    if not first.is_floating_point():
        raise InputError(f"the target must return logits, got {first.dtype} (predicted labels?)")


def check_batch_independence(model: nn.Module, x: Tensor) -> None:
    """Raise InputError if the logits of an image depend on the images beside it: on such as it, or on extreme ones."""
    for batch in (x, torch.cat([x, extremes(x)])):
        _compare_alone(model, batch, _forward(model, batch))


def _compare_alone(model: nn.Module, x: Tensor, logits: Tensor) -> None:
    """Raise InputError if images have other logits alone than inside the batch `x` (n, c, h, w) with its `logits`
    (n, k), measured by their spread; a small difference (int8, 16 bits) is a warning. A few images from all over the
    batch are tried: one may be answered alike by chance."""
    tried = torch.linspace(0, len(x) - 1, min(ALONE, len(x))).round().long()
    alone = torch.cat([_forward(model, x[i : i + 1]).detach().float().cpu() for i in tried.tolist()])
    logits = logits.detach().float().cpu()
    spread = (logits - logits.mean(1, keepdim=True)).abs().max().clamp_min(1e-6)
    gap = alone - logits[tried]  # up to a constant, which changes no decision
    difference = (gap - gap.mean(1, keepdim=True)).abs().max().item() / spread.item()
    if difference > DEPENDS:
        raise OutputFault(
            "batch dependence",
            f"the target's answer depends on the batch: the logits of one image, alone and beside others, differ by "
            f"{difference:.0%} of their spread",
            "one answer per image (BatchNorm without running statistics? a softmax or a mean over the batch? a random "
            "model?)",
        )
    if difference > ROUNDS:
        warn(
            f"the target's logits of one image differ by {difference:.1%} of their spread with the images beside it "
            "(8- or 16-bit arithmetic?): results depend a little on the batch size"
        )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """`model` in eval mode, without gradients; given back in the modes that it was in."""
    modes = {module: module.training for module in model.modules() if hasattr(module, "training")}
    try:
        model.eval()
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training


def _forward(model: nn.Module, x: Tensor) -> Any:
    """What the model answers to a copy of `x`. Raises InputError if it cannot take such images, or so many."""
    try:
        return model(x.clone())
    except (RuntimeError, ValueError, TypeError, AssertionError, IndexError, NotImplementedError) as error:
        if isinstance(error, InputError):
            raise
        made_for = getattr(model, "image_shape", None)
        size = f"; it was made for {tuple(made_for)}" if made_for and tuple(made_for) != tuple(x.shape[1:]) else ""
        alone = " one at a time" if len(x) == 1 else ""
        raise InputError(
            f"the target cannot take images of shape {tuple(x.shape[1:])}{alone}: {one_line(error)}{size}"
        ) from error


def _outputs(model: Callable[[Tensor], Any], x: Tensor) -> Tensor | None:
    """The finite outputs for images that the model was perhaps not made for; None where it has none."""
    try:
        outputs = model(x)
    except Exception:  # the question is whether it answers
        return None
    if not isinstance(outputs, Tensor) or not outputs.ndim or len(outputs) != len(x):
        return None
    return outputs[torch.isfinite(outputs.reshape(len(x), -1)).all(1)]


def acting(model: nn.Module) -> str:
    """The parts of a model that act otherwise in training mode: " (BatchNorm2d, Dropout)"."""
    kinds = {type(module).__name__ for module in model.modules() if getattr(module, "training", False)}
    acting = sorted(kind for kind in kinds if "Norm" in kind or "Dropout" in kind or "Drop" in kind)
    return f" ({', '.join(acting[:3])})" if acting else ""


def normalisations(x: Tensor) -> list[tuple[str, Tensor, Tensor]]:
    """Name, mean and std (c, 1, 1) of those `NORMALISATIONS` that fit images like `x` (n, c, h, w)."""
    fitting = {name: pair for name, pair in NORMALISATIONS.items() if len(pair[0]) in (1, x.shape[1])}

    def per_channel(values: tuple[float, ...]) -> Tensor:
        return torch.tensor(values, device=x.device)[:, None, None]

    return [(name, per_channel(mean), per_channel(std)) for name, (mean, std) in fitting.items()]


@torch.no_grad()
def check_normalised(model: nn.Module, x: Tensor, y: Tensor) -> None:
    """Raise InputError if `model` seems to miss a normalisation inside: it is seldom right on images `x` (n, c, h, w)
    in [0, 1] with labels `y` (n,), and mostly right on them normalised as models usually are. 64 images are enough; a
    gain of fewer than `FEWEST_GAINED` images is taken for chance.
    """

    def accuracy(images: Tensor) -> float:
        return (model(images.clone()).argmax(1) == y).float().mean().item()

    chance, as_they_are = 1 / int(y.unique().numel()), accuracy(x)
    if as_they_are > 0.5 + chance / 2:
        return
    found = {name: accuracy((x - mean) / std) for name, mean, std in normalisations(x)}
    best = max(found, key=found.__getitem__)
    gain = found[best] - as_they_are
    if gain >= 0.3 and round(gain * len(x)) >= FEWEST_GAINED and found[best] > 0.5 + 0.75 * chance:
        inside = ", ".join(
            f"{word} {' '.join(f'{value:.4g}' for value in values)}"
            for word, values in zip(("mean", "std"), NORMALISATIONS[best], strict=True)
        )
        raise InputError(
            f"the target is right on {as_they_are:.0%} of {len(x)} images, and on {found[best]:.0%} after {best} "
            f"normalisation ({inside}): expected a target with that inside, for images in [0, 1] "
            "(torchvision:NAME:WEIGHTS brings its own, a FILE.py:FACTORY can add it)"
        )
