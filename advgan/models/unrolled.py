"""An unrolled network whose iteration is a backward pass of a frozen classifier with learned weights.

The gradient of a classifier in its input comes from its layers transposed, the last first. Here each convolution and
linear layer has a *feedback weight* V of its own for that way back, in the place of its weight W (feedback alignment,
Lillicrap et al. 2016, arXiv:1411.0247); all else is differentiated as by autograd. V starts at W: the untrained network
is the input gradient of a soft margin, a step of FGSM (Goodfellow et al. 2015). Training finds where the gradient leads
on the way through the ball. An iteration costs a forward and a backward pass of the classifier.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from advgan.core.errors import InputError, explained
from advgan.core.threat_model import Norm, squash_to_ball
from advgan.core.weights import device_of
from advgan.models.networks import logit_features, zero_init

Layer = nn.Linear | nn.Conv2d | nn.BatchNorm2d


def _uncompiled(method: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`torch.compiler.disable`, where something is compiled: its import takes as long as that of torch."""

    @wraps(method)
    def call(*args: Any, **kwargs: Any) -> Tensor:
        return (torch.compiler.disable(method) if torch.compiler.is_compiling() else method)(*args, **kwargs)

    return call


class UnrolledGradientNetwork(nn.Module):
    """Iterations of one learned backward pass, each at the image that the one before has made of the clean one: as deep
    as there are iterations, all of the same weights.

    classifier   frozen, in eval mode, with `image_shape` and `num_classes`; it is no part of the network. Layers other
                 than plain nn.Conv2d and nn.Linear, and functional ones, keep their own gradient.
    iterations   at least 1
    width        channels of the convolutions that refine the perturbation at the end of an iteration; 0: none, and no
                 scales of the layers by the condition: a learned backward pass alone, at the cost of FGSM
    cond_dim     length of the condition vector

    Raises InputError for a classifier without such layers, or without a gradient in its input.
    """

    def __init__(self, classifier: Any, iterations: int, width: int, cond_dim: int, norm: Norm) -> None:
        super().__init__()
        if iterations < 1:
            raise InputError(f"architecture unrolled takes at least 1 iteration, got depth {iterations}")
        self.iterations, self.norm = iterations, norm
        self.paths = feedback_paths(classifier)
        layers = [classifier.get_submodule(path.name) for path in self.paths]
        channels, num_classes = classifier.image_shape[0], classifier.num_classes
        self.feedback = nn.ParameterList(layer.weight.detach().clone() for layer in layers)
        self.cond_proj = nn.Sequential(nn.Linear(cond_dim + 2 * num_classes, cond_dim), nn.SiLU())
        self.logit_direction = zero_init(nn.Linear(cond_dim, num_classes))
        self.scaled = [path.name for path in self.paths if width and path.per_image]
        scaled = (classifier.get_submodule(name) for name in self.scaled)
        self.films = nn.ModuleList(zero_init(nn.Linear(cond_dim, in_channels(layer))) for layer in scaled)
        self.step_gains = zero_init(nn.Linear(cond_dim, 2))  # of the decay and of the step size
        # Gradient, perturbation so far, image and its change (n, 4 channels, h, w) -> a correction (n, channels, h, w).
        self.refine = (
            nn.Sequential(
                nn.Conv2d(4 * channels, width, 5, padding=2),
                nn.ReLU(),
                nn.Conv2d(width, width, 3, padding=1),
                nn.ReLU(),
                zero_init(nn.Conv2d(width, channels, 3, padding=1)),
            )
            if width
            else None
        )

    def init_from(self, classifier: nn.Module) -> None:
        """Set V to the weights of `classifier`: where a training starts."""
        for weight, path in zip(self.feedback, self.paths, strict=True):
            weight.data.copy_(classifier.get_submodule(path.name).weight.data)

    @_uncompiled  # torch.compile differentiates once
    def forward(
        self,
        x: Tensor,
        classifier: nn.Module,
        embed: Callable[[Tensor], Tensor],
        class_to_leave: Callable[[Tensor], Tensor],
        y_target: Tensor,
        eps: Tensor,
        iterations: int | None = None,
    ) -> Tensor:
        """The unbounded perturbation, the shape of clean `x` (n, c, h, w).

        embed            logits of the clean image (n, k) -> condition (n, cond_dim)
        class_to_leave   logits of the clean image (n, k) -> (n,) int64
        y_target         (n,) int64, -1 for untargeted
        eps              (n,)
        iterations       None: as many as it was made with
        """
        create_graph = torch.is_grad_enabled()
        raw, x_t, cond, y = torch.zeros_like(x), x, None, None
        for iteration in range(self.iterations if iterations is None else iterations):
            if iteration:
                x_t = squash_to_ball(raw, x, self.norm, eps)
            with differentiable(classifier, x_t, self._feedbacks(classifier), create_graph) as gradient:
                if cond is None or y is None:
                    cond, y = embed(gradient.logits), class_to_leave(gradient.logits)
                features = self.cond_proj(torch.cat([cond, logit_features(gradient.logits)], dim=1))
                direction = margin_gradient(gradient.logits, y, y_target) + self.logit_direction(features)
                scales = {name: 1 + film(features) for name, film in zip(self.scaled, self.films, strict=True)}
                step = gradient(direction, scales)
            raw = self._step(x, x_t, eps, raw, step, features)
        return raw

    def _feedbacks(self, classifier: nn.Module) -> dict[str, Feedback]:
        """By the names of the classifier's layers: those with a learned weight, and its frozen normalisations."""
        layers = dict(classifier.named_modules())
        learned = {
            path.name: Feedback(layers[path.name], weight)
            for path, weight in zip(self.paths, self.feedback, strict=True)
        }
        norms = {name: layer for name, layer in layers.items() if is_frozen_norm(layer)}
        return learned | {name: Feedback(norm, norm_gain(norm)) for name, norm in norms.items()}

    def _step(self, x: Tensor, x_t: Tensor, eps: Tensor, raw: Tensor, gradient: Tensor, features: Tensor) -> Tensor:
        """`raw` (n, c, h, w) of the iteration before, which has led to `x_t` -> of this one."""
        gradient = gradient / gradient.abs().mean((1, 2, 3), keepdim=True).clamp_min(1e-12)
        decay, gain = rearrange(self.step_gains(features).float(), "n two -> two n 1 1 1")
        raw = (1 + decay) * raw + 2 * (1 + gain) * gradient
        if self.refine is None:
            return raw
        relative_delta = (x_t - x) / rearrange(eps, "n -> n 1 1 1")
        refined: Tensor = self.refine(torch.cat([gradient, raw, 2 * x - 1, relative_delta], dim=1))
        return raw + refined.float()


@dataclass(frozen=True)
class FeedbackPath:
    """A layer of the classifier that can have a feedback weight, by its name.

    per_image   whether the first axis of its input is the batch, so that a condition of each image can scale it
    """

    name: str
    per_image: bool


@dataclass
class Feedback:
    """The backward pass of one layer: V^T g, each channel times `scale`.

    layer    nn.Conv2d, nn.Linear, or a frozen nn.BatchNorm2d, whose V is a diagonal matrix (channels,)
    weight   V, the shape of the layer's weight
    scale    (n, channels), None: 1
    shapes   of the inputs, one entry for each time it ran
    constant whether what the classifier computes is a constant: when the gradient itself is differentiated
    """

    layer: Any
    weight: Tensor
    scale: Tensor | None = None
    shapes: list[torch.Size] | None = None
    constant: bool = False

    def __call__(self, grad: Tensor, shape: torch.Size) -> Tensor:
        """The gradient in the input of `shape`, from that in the output."""
        if self.constant:
            return grad.new_zeros(1).expand(shape)
        if self.shapes is not None:
            self.shapes.append(shape)
        grad = transposed(self.layer, grad, self.weight, shape)
        if self.scale is None:
            return grad
        if isinstance(self.layer, nn.Conv2d):
            return grad * rearrange(self.scale, "n c -> n c 1 1")
        return grad * self.scale.view(grad.shape[0], *[1] * (grad.ndim - 2), -1)


class LearnedBackward(torch.autograd.Function):
    """The output `y` of a layer at `x`, with the gradient of a `Feedback`; that is differentiable once more."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, feedback: Feedback) -> Tensor:
        ctx.feedback, ctx.shape = feedback, x.shape
        ctx.mark_dirty(y)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return ctx.feedback(grads[0], ctx.shape), None, None


class InputGradient:
    """What `differentiable` gives: logits (n, k) float32, detached; called, the gradient of direction . logits in x."""

    def __init__(self, leaf: Tensor, logits: Tensor, feedbacks: dict[str, Feedback], create_graph: bool) -> None:
        self.leaf, self.output, self.logits = leaf, logits, logits.detach()
        self.feedbacks, self.create_graph = feedbacks, create_graph

    def __call__(self, direction: Tensor, scales: Mapping[str, Tensor]) -> Tensor:
        """(n, k), and (n, channels) by the names of layers -> (n, c, h, w) float32."""
        for name, scale in scales.items():
            self.feedbacks[name].scale = scale
        direction = direction.to(self.output.dtype)
        (gradient,) = torch.autograd.grad(self.output, self.leaf, direction, create_graph=self.create_graph)
        for feedback in self.feedbacks.values():
            feedback.constant = True
        return gradient.float()


@contextmanager
def differentiable(
    classifier: nn.Module, x: Tensor, feedbacks: dict[str, Feedback], create_graph: bool
) -> Iterator[InputGradient]:
    """The classifier at `x`, whose gradient can be taken in the block: backward by `feedbacks`, by layer name.

    With `create_graph` that gradient can be differentiated in V, scales and direction, but not in `x`. Works under
    no_grad and inference_mode.
    """
    with ExitStack() as stack:
        for name, feedback in feedbacks.items():
            hook = classifier.get_submodule(name).register_forward_hook(_replaced(feedback), prepend=True)
            stack.callback(hook.remove)
        with torch.inference_mode(False), torch.enable_grad():
            leaf = (x.clone() if x.is_inference() else x.detach()).requires_grad_()
            with twice_differentiable() if create_graph else nullcontext():
                logits = classifier(leaf).float()
        yield InputGradient(leaf, logits, feedbacks, create_graph)


def detach_kept(model: nn.Module) -> None:
    """Detach what the modules of `model` keep of a forward pass, in attributes and in lists and dicts there: a tensor
    with a graph cannot be copied."""
    for module in model.modules():
        attributes = vars(module)
        for kept in (attributes, *(value for value in attributes.values() if isinstance(value, (list, dict)))):
            for key, value in list(kept.items() if isinstance(kept, dict) else enumerate(kept)):
                if isinstance(value, Tensor) and value.grad_fn is not None:
                    kept[key] = value.detach()


class TwiceDifferentiable(TorchFunctionMode):
    """Instead of an operator whose backward pass has no derivative, others for the same function."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in (F.hardsigmoid, torch._C._nn.hardsigmoid, torch._C._nn.hardsigmoid_):
            return func(*args, **kwargs)
        arguments = [*args, *kwargs.values()]
        x, in_place = arguments[0], any(arguments[1:]) or func is torch._C._nn.hardsigmoid_
        value = F.relu6(x + 3) / 6
        return x.copy_(value) if in_place else value


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Operators in the block can be differentiated twice: attention in one of its forms, hard sigmoid in another."""
    with sdpa_kernel(SDPBackend.MATH), TwiceDifferentiable():
        yield


def _replaced(feedback: Feedback) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor | None]:
    """A forward hook: the same output, with a learned backward pass."""

    def hook(_: nn.Module, inputs: tuple[Tensor, ...], y: Tensor) -> Tensor | None:
        if not inputs or not y.requires_grad:
            return None
        return LearnedBackward.apply(inputs[0], y.detach(), feedback)

    return hook


def feedback_paths(classifier: Any) -> list[FeedbackPath]:
    """The layers of `classifier` whose backward pass can be learned, in the order of its modules.

    Found by two gradients of grey images. Raises InputError where the classifier has no such layers, no gradient in its
    input, or one that cannot be differentiated in V.
    """
    plain = {path: layer for path, layer in classifier.named_modules() if is_plain(layer)}
    ran: list[dict[str, Feedback]] = []
    device, name = device_of(classifier), getattr(classifier, "name", type(classifier).__name__)
    for n in (2, 3):  # an axis of as many entries both times is the batch
        weights = {path: layer.weight.detach().requires_grad_() for path, layer in plain.items()}
        feedbacks = {path: Feedback(layer, weights[path], shapes=[]) for path, layer in plain.items()}
        x = torch.full((n, *classifier.image_shape), 0.5, device=device)
        needed = f"architecture unrolled needs a guide with a gradient in its input, and {name} has none ("
        with explained(needed, ")"), differentiable(classifier, x, feedbacks, create_graph=n == 2) as gradient:
            total = gradient(torch.ones_like(gradient.logits), {}).sum()
            if total.requires_grad and plain:
                torch.autograd.grad(total, list(weights.values()), allow_unused=True)
        if not plain:
            raise InputError(
                "architecture unrolled learns the backward pass of its guide's nn.Conv2d and nn.Linear layers, and "
                f"{name} has none: expected an nn.Module with them, "
                "not a function or TorchScript, which hide theirs"
            )
        ran.append({path: feedback for path, feedback in feedbacks.items() if feedback.shapes})
    two, three = ran
    both = [path for path in two if path in three]
    return [FeedbackPath(path, _batched(two[path], 2) and _batched(three[path], 3)) for path in both]


def _batched(feedback: Feedback, n: int) -> bool:
    """Whether every input that a layer had was of `n` images: (n, ..., c) for a linear layer, else (n, c, h, w)."""
    axes = 4 if isinstance(feedback.layer, nn.Conv2d) else 2
    return all(len(shape) >= axes and shape[0] == n for shape in feedback.shapes or ())


def is_plain(layer: nn.Module) -> bool:
    """Whether a module computes what nn.Linear or nn.Conv2d does with its weight, and no subclass has changed that."""
    if "forward" in vars(layer):
        return False
    if isinstance(layer, nn.Conv2d):
        same = type(layer).forward is nn.Conv2d.forward and type(layer)._conv_forward is nn.Conv2d._conv_forward
        return same and layer.padding_mode == "zeros"
    return isinstance(layer, nn.Linear) and type(layer).forward is nn.Linear.forward


def is_frozen_norm(layer: nn.Module) -> bool:
    """Whether a module is a batch normalisation by constants: a scale and a shift of each channel."""
    plain = isinstance(layer, nn.BatchNorm2d) and type(layer).forward is nn.BatchNorm2d.forward
    return plain and not layer.training and layer.running_var is not None and "forward" not in vars(layer)


def norm_gain(norm: Any) -> Tensor:
    """The scale of each channel (channels,) of a frozen batch normalisation."""
    gain: Tensor = torch.rsqrt(norm.running_var + norm.eps)
    return gain if norm.weight is None else gain * norm.weight


def in_channels(layer: Any) -> int:
    return layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels


def transposed(layer: Layer, grad: Tensor, weight: Tensor, shape: torch.Size) -> Tensor:
    """The gradient in the input of `shape` of a `layer` that has `weight`, from the gradient in its output."""
    weight = weight.to(grad.dtype)
    if isinstance(layer, nn.BatchNorm2d):
        return grad * rearrange(weight, "c -> c 1 1")
    if isinstance(layer, nn.Linear):
        return grad @ weight
    stride, dilation, kernel = layer.stride, layer.dilation, layer.kernel_size
    padding = [side // 2 for side in (d * (k - 1) for d, k in zip(dilation, kernel, strict=True))]  # "same"
    if layer.padding == "valid":
        padding = [0, 0]
    elif not isinstance(layer.padding, str):
        padding = list(layer.padding)
    if grad.ndim == 4 and grad.device.type == "cpu" and is_faster_by_columns(layer):
        columns = weight.flatten(1).t() @ grad.flatten(2)
        if kernel == (1, 1):
            return columns.unflatten(2, grad.shape[2:])
        return F.fold(columns, shape[-2:], kernel, dilation, tuple(padding), stride)
    least = [(grad.shape[i] - 1) * stride[i] - 2 * padding[i] + dilation[i] * (kernel[i] - 1) + 1 for i in (-2, -1)]
    missing = [max(0, size - short) for size, short in zip(shape[-2:], least, strict=True)]
    grad = F.conv_transpose2d(grad, weight, None, stride, padding, missing, layer.groups, dilation)
    return grad[..., : shape[-2], : shape[-1]]


def is_faster_by_columns(layer: nn.Conv2d) -> bool:
    """Whether V^T g of a convolution is faster on a CPU as a product of matrices, whose columns are added up where they
    overlap, than as a transposed convolution: for kernels of one pixel, and toward the few channels of an image
    (docs/results-log.md, "A faster backward pass on a CPU")."""
    if layer.groups > 1 or isinstance(layer.padding, str):
        return False
    if layer.kernel_size == (1, 1):
        return layer.stride == (1, 1) and layer.padding == (0, 0)
    return layer.in_channels <= 4 and 8 * layer.in_channels <= layer.out_channels * min(layer.stride)


def margin_gradient(logits: Tensor, predicted: Tensor, y_target: Tensor) -> Tensor:
    """The gradient (n, k) of a soft margin in the logits (n, k): from the class `predicted` (n,) toward the likeliest
    others or, where `y_target` (n,) is not -1, toward it, from the likeliest others."""
    targeted = y_target >= 0
    one = F.one_hot(y_target.where(targeted, predicted), logits.shape[1]).to(logits.dtype)
    others = logits.masked_fill(one.bool(), float("-inf")).softmax(1)
    return (others - one) * (1 - 2 * targeted[:, None].to(logits.dtype))
