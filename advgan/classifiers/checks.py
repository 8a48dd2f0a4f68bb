"""Checks of a model before any attack: shapes, logits, determinism, batch dependence, gradients, normalisation."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from advgan.classifiers.adapters import BinaryLogit, ContainedLogits, image_shape_of, logits_of, two_logits, with_hooks
from advgan.classifiers.black_box import BlackBox
from advgan.core.errors import InputError, one_line, warn
from advgan.core.inputs import check_columns, check_images
from advgan.core.weights import check_weights, dtype_hint

DETERMINISM_TOL = 1e-4  # of two forwards, relative to the largest logit: a deterministic model differs by rounding
BATCH_DEPENDENCE_TOL = 0.05  # relative to the spread of the logits; int8 activations, scaled by the batch, differ less
DETACHED = "its output is detached from its input: no_grad, detach, argmax, int8 or another runtime"
ROUNDING_TOL = 2e-3  # the same for 32-bit arithmetic, also on a GPU
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.DataParallel)
MODELESS = (  # packages
    *("torch.ao.nn.quantized.", "torch.ao.nn.intrinsic.quantized.", "torchvision.transforms."),
    "advgan.classifiers.adapters",
)
BATCH = 100  # images in a forward pass
SINGLE_IMAGES = 5  # images that are evaluated in batches of one

# Usual normalisations x -> (x - mean) / std, of 3 channels or 1.
NORMALISATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "ImageNet's": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "CIFAR-10's": ((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)),
    "MNIST's": ((0.1307,), (0.3081,)),
    "[-1, 1]": ((0.5,), (0.5,)),
    "[0, 255]": ((0.0,), (1 / 255,)),
}
NORMALISATION_IMAGES = 64  # enough to show that one is missing
# More correct images, by which a change shows a fault; by chance one of five changes does with at most 5 / 2^8.
MIN_GAINED_IMAGES = 8


class OutputFault(InputError):
    """Outputs that cannot be attacked as logits: `name` of the fault, `measured` and `expected` outputs."""

    def __init__(self, name: str, measured: str, expected: str) -> None:
        super().__init__(f"{measured}, expected {expected}")
        self.name, self.measured, self.expected = name, measured, expected


def check_target(model: nn.Module, x: Tensor, num_classes: int | None = None) -> nn.Module:
    """`model` itself if it maps images `x` (n, c, h, w) in [0, 1] to logits (n, num_classes), always the same; None: as
    many classes as it has.

    A two-class model with one logit f is returned with logits (0, f), one whose output holds the logits (`.logits`,
    ["logits"], a tuple of one) with these alone, a module of TorchScript or torch.export as a plain module. A few
    images are enough. The model and the images are left unchanged; the model gets copies of them, here as in every
    attack. A black box gets n + 1 queries. A model in training mode is checked in eval mode, with a warning; a missing
    gradient is a warning too.

    Raises InputError if it does not accept the images, returns no logits or probabilities, depends on the batch, or is
    random in eval mode without a module that declares it (attribute `random`, as of a defense).
    """
    if not isinstance(model, BlackBox):
        check_weights(model)
    check_images(x)
    if not len(x):
        raise InputError("expected a few images to check the target on, got none")
    if isinstance(model, BlackBox):
        if num_classes not in (None, model.num_classes):
            raise InputError(f"{model.name} has {model.num_classes} classes, expected {num_classes}")
        check_batch_of(model.query, x, model.name)
        return model
    model = with_hooks(model)
    if in_training(model):
        warn(f"the model is in training mode{mode_dependent(model)} and is checked in eval mode: call model.eval()")
    with eval_mode(model):
        first = _forward(model, x)
        if logits_of(first) is not first:
            model, first = ContainedLogits(model), logits_of(first)
        second = _forward(model, x)
        one_value = isinstance(first, Tensor) and first.shape in {(len(x),), (len(x), 1)}
        one_logit = num_classes in (None, 2) and one_value
        expected = None if num_classes is None or one_logit else (len(x), num_classes)
        if expected and isinstance(first, Tensor) and first.shape != expected:
            raise InputError(
                f"for {len(x)} images of {num_classes} classes the target must return logits of shape {expected}, got "
                f"{tuple(first.shape)}"
            )
        if not one_logit or not first.is_floating_point():
            check_columns(first)
        if not (torch.isfinite(first).all() and torch.isfinite(second).all()):
            raise InputError("the target returns NaN or infinity, expected finite logits: are its weights damaged?")
        difference = (first - second).abs().max().item()
        random = is_random(model)
        if not random and difference > DETERMINISM_TOL * max(1.0, first.abs().max().item()):
            raise InputError(
                f"the target is random in eval mode: two forwards of the same images differ by {difference:.3g}; "
                "a deterministic one is expected (dropout called by hand? random preprocessing?)"
            )
        check_no_probabilities(model, first, x)
        if not random:
            check_batch_independence(BinaryLogit(model) if one_logit else model, x)
    checked = BinaryLogit(model) if one_logit else model  # in the mode of the model
    if not random and (fault := gradient_fault(checked, x)):
        warn(f"the model passes no gradient to its input ({fault}): only attacks without gradients run on it")
    return checked


def gradient_fault(model: Any, x: Tensor) -> str | None:
    """The reason why `model` passes no gradient to images like `x` (n, c, h, w); None if it does, even a zero one. One
    forward and one backward pass of one image; for a defense, of its `adaptive` view.
    """
    attacked = model.adaptive() if hasattr(type(model), "adaptive") else model
    with eval_mode(attacked), torch.inference_mode(False), torch.enable_grad():
        leaf = x[:1].detach().clone().requires_grad_()
        try:
            outputs = attacked(leaf.clone())
            if outputs.requires_grad:
                (gradient,) = torch.autograd.grad(outputs.float().sum(), leaf, allow_unused=True)
                return None if gradient is not None else DETACHED
        except (RuntimeError, NotImplementedError) as error:
            return one_line(error)
    return DETACHED


def is_random(model: nn.Module) -> bool:
    """Whether a defense in `model` is random; other modules may have an attribute of this name."""
    return any(getattr(module, "random", None) is True for module in model.modules())


def check_outputs(model: nn.Module, x: Tensor, logits: Tensor, *, alone: bool = True) -> None:
    """Raise InputError for the `logits` (n, k) of images `x` (n, c, h, w) that are probabilities, or (with `alone`,
    by a few more forwards of one image) depend on the batch: for models without `check_target`."""
    with eval_mode(model):
        check_no_probabilities(model, logits, x)
        if alone and not is_random(model):
            _compare_single_images(model, x, logits)


def check_no_probabilities(model: Callable[[Tensor], Any], outputs: Tensor, x: Tensor) -> None:
    """Raise InputError if the `outputs` (n,) or (n, k) of a model are probabilities, or one log-probability per image.

    Outputs in [0, 1] are checked on black, white, noise and inverted images `x` (m, c, h, w) (rows that sum to 1: a
    softmax), and then on values far outside of [0, 1], where logits leave [0, 1] and a sigmoid does not.
    """
    if sum_to_one(outputs / 100) and bool(outputs.min() >= 0):
        raise OutputFault(
            "softmax output",
            "the target returns percentages (rows sum to 100)",
            "logits: leave out its softmax, or undo it with (p / 100).clamp_min(1e-12).log()",
        )
    if not in_unit_interval(outputs):
        _check_no_log_probability(model, outputs, x)
        return
    outputs_inside = _outputs(model, torch.cat([x, extremes(x)]))
    if outputs_inside is None or not in_unit_interval(outputs_inside):
        return
    if sum_to_one(outputs_inside):
        raise OutputFault(
            "softmax output",
            "the target returns probabilities (rows sum to 1)",
            "logits: leave out its softmax, or undo it with p.clamp_min(1e-12).log()",
        )
    outputs_outside = _outputs(model, torch.cat([200 * (x - 0.5), -200 * (x - 0.5), 100 * (extremes(x) - 0.5)]))
    if not outputs_inside.any() or (outputs_outside is not None and not in_unit_interval(outputs_outside)):
        return
    columns = outputs_inside.reshape(len(outputs_inside), -1)
    is_single = columns.shape[1] == 1 or (columns.shape[1] == 2 and not columns[:, 0].any())
    description = (
        "one probability per image" if is_single else f"{columns.shape[1]} independent probabilities per image"
    )
    raise OutputFault(
        "sigmoid output",
        f"the target returns {description} (a sigmoid: {len(outputs_inside)} images, with black, white and noise, "
        f"give {outputs_inside.min().item():.3g} to {outputs_inside.max().item():.3g})",
        "logits: leave out its sigmoid, or undo it with torch.logit(p, eps=1e-6)",
    )


def _check_no_log_probability(model: Callable[[Tensor], Any], outputs: Tensor, x: Tensor) -> None:
    """Raise InputError if one value per image is never above 0, also for extreme images: class 1 is never predicted."""
    if not outputs.numel() or outputs.numel() != len(outputs) or not outputs.max() <= 0:
        return
    values = _outputs(model, torch.cat([x, extremes(x), 200 * (x - 0.5), -200 * (x - 0.5), 100 * (extremes(x) - 0.5)]))
    if values is not None and len(values) and values.max() <= 0:
        raise OutputFault(
            "log-probability output",
            f"the target returns one value per image that is never above 0 (a log-probability? {len(values)} images "
            f"give {values.min().item():.3g} to {values.max().item():.3g})",
            "a logit, above 0 for class 1: leave out its logsigmoid, or undo it with p - "
            "torch.log(-torch.expm1(p.clamp_max(-1e-6)))",
        )


def in_unit_interval(outputs: Tensor) -> bool:
    return bool(outputs.numel()) and bool(outputs.min() >= 0) and bool(outputs.max() <= 1)


def sum_to_one(outputs: Tensor) -> bool:
    """Whether `outputs` are (n, k), k >= 2, with rows that sum to 1."""
    return outputs.ndim == 2 and outputs.shape[1] > 1 and bool((outputs.float().sum(1) - 1).abs().max() < 1e-3)


def extremes(x: Tensor) -> Tensor:
    """Black, white, grey, 8 of fixed noise, and `x` (n, c, h, w) inverted: (n + 11, c, h, w) in [0, 1]."""
    rng = torch.Generator().manual_seed(0)
    noise = torch.rand(8, *x.shape[1:], generator=rng, dtype=x.dtype, device="cpu").to(x.device)
    constant = torch.tensor([0.0, 1.0, 0.5], dtype=x.dtype, device=x.device).view(3, 1, 1, 1).expand(3, *x.shape[1:])
    return torch.cat([constant, noise, 1 - x])


def check_batch_of(predict: Callable[[Tensor], Tensor], x: Tensor, name: str) -> None:
    """Raise InputError if the probabilities (n, k) of the first of the images `x` (n, c, h, w), n >= 2, differ in a
    batch of one, relative to how far they are from uniform: n + 1 queries."""
    batch_outputs, single_output = predict(x), predict(x[:1])
    difference = (batch_outputs[:1] - single_output).abs().max().item()
    spread = (batch_outputs - 1 / batch_outputs.shape[1]).abs().max().item()
    if difference > max(ROUNDING_TOL, BATCH_DEPENDENCE_TOL * min(1.0, spread)):
        raise InputError(
            f"{name} returns other probabilities for an image alone than inside a batch of {len(x)} (they differ by "
            f"{difference:.2g}): it is random or depends on the batch, expected one output per image"
        )


def check_batch_independence(model: nn.Module, x: Tensor) -> None:
    """Raise InputError if the logits of an image depend on other images of its batch, similar or extreme ones."""
    for batch in (x, torch.cat([x, extremes(x)])):
        _compare_single_images(model, batch, _forward(model, batch))


def _compare_single_images(model: nn.Module, x: Tensor, logits: Tensor) -> None:
    """Raise InputError if images have other logits alone than inside the batch `x` (n, c, h, w) with its `logits`
    (n, k), relative to their spread; a small difference (int8, 16 bits) is a warning. Checks a few images across the
    batch: a single one may agree by chance."""
    indices = torch.linspace(0, len(x) - 1, min(SINGLE_IMAGES, len(x))).round().long()
    singles = [_forward(model, x[i : i + 1]).detach().float().cpu() for i in indices.tolist()]
    if wrong := {tuple(single.shape) for single in singles} - {(1, *logits.shape[1:])}:
        raise OutputFault(
            "batch dependence",
            f"the target returns logits of shape {wrong.pop()} for one image",
            f"{(1, *logits.shape[1:])} (a squeeze() that drops the batch? flatten(1) does not)",
        )
    single_logits = torch.cat(singles)
    logits = logits.detach().float().cpu()
    spread = (logits - logits.mean(1, keepdim=True)).abs().max().clamp_min(1e-6)
    deviation = single_logits - logits[indices]  # up to a constant, which changes no decision
    difference = (deviation - deviation.mean(1, keepdim=True)).abs().max().item() / spread.item()
    if difference > BATCH_DEPENDENCE_TOL:
        raise OutputFault(
            "batch dependence",
            f"the target's output depends on the batch: the logits of one image, alone and in a batch, differ by "
            f"{difference:.0%} of their spread",
            "one output per image (BatchNorm without running statistics? a softmax or a mean over the batch? a random "
            "model?)",
        )
    if difference > ROUNDING_TOL:
        warn(
            f"the target's logits of one image differ by {difference:.1%} of their spread with other images in the "
            "batch (8- or 16-bit arithmetic?): results depend a little on the batch size"
        )


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """`model` in eval mode, without gradients; its training modes are restored afterwards."""
    modes = {module: module.training for module in model.modules() if hasattr(module, "training")}
    try:
        model.eval()
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training


def _forward(model: nn.Module, x: Tensor) -> Any:
    """The model's output for a copy of `x`. Raises InputError if it does not accept such images, or their number."""
    try:
        return model(x.clone())
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # whatever a user's model raises
        made_for = image_shape_of(model)
        size = f"; it was made for {made_for}" if made_for not in (None, tuple(x.shape[1:])) else ""
        one_by_one = " one at a time" if len(x) == 1 else ""
        reason = one_line(error) if isinstance(error, RuntimeError) else f"{type(error).__name__}: {one_line(error)}"
        size += f"; {hint}" if (hint := dtype_hint(model, reason)) else ""
        raise InputError(
            f"the target cannot take images of shape {tuple(x.shape[1:])}{one_by_one}: {reason}{size}"
        ) from error


def _outputs(model: Callable[[Tensor], Any], x: Tensor) -> Tensor | None:
    """The finite outputs for unusual images; None if the model raises an error or returns no tensor."""
    try:
        outputs = model(x)
    except Exception:  # any exception: no outputs
        return None
    if not isinstance(outputs, Tensor) or not outputs.ndim or len(outputs) != len(x):
        return None
    return outputs[torch.isfinite(outputs.reshape(len(x), -1)).all(1)]


def in_training(model: nn.Module) -> list[nn.Module]:
    """The modules of `model` in training mode, without those that compute the same in both modes: a container around
    a model in eval mode, a normalisation in front of it, layers that were quantised after eval()."""
    parts = [module for module in model.modules() if getattr(module, "training", False)]
    return [part for part in parts if type(part) not in CONTAINERS and not type(part).__module__.startswith(MODELESS)]


def mode_dependent(model: nn.Module) -> str:
    """The layers of a model that differ in training mode, for a message: " (BatchNorm2d, Dropout)"."""
    kinds = {type(module).__name__ for module in in_training(model)}
    names = sorted(kind for kind in kinds if "Norm" in kind or "Drop" in kind)
    return f" ({', '.join(names[:3])})" if names else ""


def normalisations(x: Tensor) -> list[tuple[str, Tensor, Tensor]]:
    """Name, mean and std (c, 1, 1) of those `NORMALISATIONS` that fit images like `x` (n, c, h, w)."""
    fitting = {name: pair for name, pair in NORMALISATIONS.items() if len(pair[0]) in (1, x.shape[1])}

    def per_channel(values: tuple[float, ...]) -> Tensor:
        return torch.tensor(values, device=x.device)[:, None, None]

    return [(name, per_channel(mean), per_channel(std)) for name, (mean, std) in fitting.items()]


def batch_logits(model: nn.Module, x: Tensor) -> Tensor:
    """Logits (n, k), k >= 2, of images `x`: (0, f) for a model with one logit f. Raises whatever the model raises."""
    outputs: Any = torch.cat([logits_of(model(part.clone())).float() for part in x.split(BATCH)])
    return two_logits(outputs) if outputs.ndim == 1 or outputs.shape[1] == 1 else outputs


def accuracy_of(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Accuracy on changed images; 0 where the model takes none such: the change is no remedy then."""
    try:
        return (batch_logits(model, x).argmax(1) == y).float().mean().item()
    except Exception:  # whatever a user's model raises
        return 0.0


@torch.no_grad()
def check_normalised(model: nn.Module, x: Tensor, y: Tensor) -> None:
    """Raise InputError if `model` lacks a normalisation: its accuracy is low on images `x` (n, c, h, w)
    in [0, 1] with labels `y` (n,), and high on the same images with a usual normalisation. 64 images are enough; a
    gain of fewer than `MIN_GAINED_IMAGES` images is within chance.
    """

    chance, unnormalised = 1 / int(y.unique().numel()), (batch_logits(model, x).argmax(1) == y).float().mean().item()
    if unnormalised > 0.5 + chance / 2:
        return
    accuracies = {name: accuracy_of(model, (x - mean) / std, y) for name, mean, std in normalisations(x)}
    best = max(accuracies, key=accuracies.__getitem__)
    gain = accuracies[best] - unnormalised
    if gain >= 0.3 and round(gain * len(x)) >= MIN_GAINED_IMAGES and accuracies[best] > 0.5 + 0.75 * chance:
        values_text = ", ".join(
            f"{name} {' '.join(f'{value:.4g}' for value in values)}"
            for name, values in zip(("mean", "std"), NORMALISATIONS[best], strict=True)
        )
        raise InputError(
            f"the target has accuracy {unnormalised:.0%} on {len(x)} images, and {accuracies[best]:.0%} after {best} "
            f"normalisation ({values_text}): expected a target with that inside, for images in [0, 1] "
            "(torchvision:NAME:WEIGHTS brings its own, a FILE.py:FACTORY can add it)"
        )
