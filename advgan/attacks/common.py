"""Shared by the attacks: input checks, the temporarily frozen model, the attack state and the gradient at x_adv."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from advgan.attacks.active_set import ActiveSet
from advgan.attacks.losses import LossFn, get_loss, is_adversarial
from advgan.classifiers.adapters import check_not_recorded
from advgan.core.errors import InputError, one_line
from advgan.core.inputs import (
    check_columns,
    check_images,
    check_labels,
    check_number,
    check_whole,
    copy_images,
    is_softmax,
)
from advgan.core.rejection import accepts, can_reject
from advgan.core.threat_model import Norm, Threat
from advgan.core.weights import dtype_hint

SUCCESS_OFFSET = 1000.0  # larger than any loss
NO_GRADIENT = "the target passes no gradient to its input: this attack needs one that does"


def check_inputs(x: Tensor, y: Tensor, eps: float, norm: str, y_target: Tensor | None = None) -> Threat:
    """The threat model of an attack on images `x` (n, c, h, w) with labels `y` (n,).

    Raises InputError, before any work, for an impossible ball, images that are not float32 in [0, 1], or labels and
    target classes that are not (n,) integers from 0 on.
    """
    threat = Threat(norm, eps, targeted=y_target is not None)  # type: ignore[arg-type]
    check_images(x)
    check_labels(y, len(x))
    if y_target is not None:
        check_labels(y_target, len(x), "y_target")
    return threat


def check_classes(label: Tensor, logits: Tensor) -> None:
    """Raise InputError unless the target's `logits` (n, k) have a column for each `label` (n,), and for those of four
    images or more that are probabilities."""
    check_columns(logits)
    if is_softmax(logits) and not bool(((logits == 0) | (logits == 1)).all()):  # one-hot decisions are accepted
        raise InputError(
            "the target returns probabilities (rows sum to 1), expected logits: leave out its softmax, or undo it "
            "with p.clamp_min(1e-12).log()"
        )
    k, largest = logits.shape[1], int(label.max()) if len(label) else 0
    if largest >= k:
        raise InputError(f"labels must be classes of the target, numbered 0 to {k - 1}, got {largest}")


def check_at_least(least: float, **values: float) -> None:
    """Raise InputError for the first of an attack's settings that is below `least`: check_at_least(1, steps=steps); for
    a count (`least` is above 0) also unless it is a whole number."""
    for name, value in values.items():
        (check_whole if least else check_number)(name, value)
        if not value >= least:
            raise InputError(f"{name} must be at least {least:g}, got {value}")


def check_positive(**values: float | None) -> None:
    """Raise InputError for the first of an attack's settings that is not above 0, or infinite; None is skipped."""
    for name, value in values.items():
        if value is not None:
            check_number(name, value)
        if value is not None and not 0 < value < math.inf:
            raise InputError(f"{name} must be {'finite' if value > 0 else 'positive'}, got {value}")


@contextmanager
def frozen_eval(model: nn.Module) -> Iterator[nn.Module]:
    """`model` in eval mode and frozen, so that only the input's gradient is computed; restored afterwards. It gets
    copies of its images. Raises InputError, from the block too, for weights of another dtype that take no float32."""
    if not isinstance(model, nn.Module):
        raise InputError(f"expected a torch.nn.Module, got {type(model).__name__}")
    check_not_recorded(model)
    copies = model.register_forward_pre_hook(copy_images)
    modes = {module: module.training for module in model.modules() if hasattr(module, "training")}
    trainable = [p for p in model.parameters() if p.requires_grad and not p.is_inference()]
    try:
        for parameter in trainable:
            parameter.requires_grad_(False)
        model.eval()
        yield model
    except RuntimeError as error:
        if hint := dtype_hint(model, str(error)):
            raise InputError(f"the target does not take float32 images ({one_line(error)}): {hint}") from error
        raise
    finally:
        copies.remove()
        for module, training in modes.items():
            module.training = training
        for parameter in trainable:
            parameter.requires_grad_(True)


@contextmanager
def kept_gradients(model: nn.Module) -> Iterator[None]:
    """A block after which the gradients of the weights of `model` are as before, also where it calls `backward()`."""
    gradients = {parameter: parameter.grad for parameter in model.parameters()}
    try:
        for parameter in gradients:
            parameter.grad = None
        yield
    finally:
        for parameter, gradient in gradients.items():
            parameter.grad = gradient


@dataclass(frozen=True)
class AttackProblem:
    """An attack's classifier, images `x` (n, c, h, w), labels `y` (n,), target classes (n,), ball and loss."""

    model: nn.Module
    x: Tensor
    y: Tensor
    y_target: Tensor | None
    threat: Threat
    loss_fn: LossFn

    @classmethod
    def checked(
        cls, model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: Norm, y_target: Tensor | None, loss: str
    ) -> AttackProblem:
        """The problem of an attack's arguments. Raises InputError as `check_inputs` and `get_loss`."""
        threat = check_inputs(x, y, eps, norm, y_target)
        return cls(model, x, y, y_target, threat, get_loss(loss, targeted=threat.targeted))

    def __getitem__(self, i: Tensor) -> AttackProblem:
        """The problem of the images with indices `i`."""
        return replace(self, x=self.x[i], y=self.y[i], y_target=None if self.y_target is None else self.y_target[i])


class AttackState(NamedTuple):
    """State of an attack per image (n,).

    loss      raised by the attacker; of an adversarial image of a classifier that can reject, minus its rejection score
    rank      total order over candidates, larger is better: `loss`, but successes come above all others
    success   bool: adversarial and not rejected
    """

    loss: Tensor
    rank: Tensor
    success: Tensor


def evaluate_state(model: Any, x: Tensor, y: Tensor, y_target: Tensor | None, loss_fn: LossFn) -> AttackState:
    """The attack state of images `x` (n, c, h, w), by one forward pass.

    Against a model with a `rejection_score` (n,), positive for rejected images, an image leaves its class first, then
    lowers the score (selective gradient descent, Bryniarski et al. 2021, arXiv:2106.15023).
    """
    if not len(x):  # a model need not take an empty batch: x.view(len(x), -1)
        none = x.flatten(1).sum(1)
        return AttackState(none, none.detach(), none.detach().bool())
    logits = model(x)
    check_classes(y if y_target is None else torch.maximum(y, y_target), logits)
    loss, success = loss_fn(logits, y, y_target), is_adversarial(logits, y, y_target)
    if not can_reject(model) or not success.any():
        return AttackState(loss, loss.detach(), success)
    i = success.nonzero().squeeze(1)
    score = model.rejection_score(x[i])
    rank = SUCCESS_OFFSET - score.detach() / (1 + score.detach().abs())
    rank = loss.detach().index_put((i,), rank)
    return AttackState(loss.index_put((i,), -score), rank, success.index_put((i,), score <= 0))


def loss_and_gradient(
    model: nn.Module, x_adv: Tensor, y: Tensor, y_target: Tensor | None, loss_fn: LossFn
) -> tuple[Tensor, AttackState]:
    """Gradient (n, c, h, w) of the attack state's loss at `x_adv` itself, and the state there.

    `x_adv` is a leaf here. No gradient goes through the clamp that made it: since torch 2.15 clamp passes none at its
    bounds, and most pixels of a digit are exactly 0.
    """
    with gradients_on():
        leaf, y = x_adv.detach().clone().requires_grad_(), y.clone()
        state = evaluate_state(model, leaf, y, None if y_target is None else y_target.clone(), loss_fn)
        gradient = gradient_at(leaf, state.loss.sum())
    return gradient, state._replace(loss=state.loss.detach())


@contextmanager
def gradients_on() -> Iterator[None]:
    """Enable gradients in the block, also under no_grad and inference_mode of the caller.

    Tensors made under inference_mode are saved for no backward: clone them inside.
    """
    with torch.inference_mode(False), torch.enable_grad():
        yield


def gradient_at(leaf: Tensor, output: Tensor, weight: Tensor | None = None, *, again: bool = False) -> Tensor:
    """d output / d leaf, shaped like `leaf`; with `again` the graph is kept for another call.

    Raises InputError where the model passes no gradient: under no_grad, detached, quantised, an argmax.
    """
    if not output.requires_grad:
        raise InputError(NO_GRADIENT)
    (gradient,) = torch.autograd.grad(output, leaf, weight, retain_graph=again or None, allow_unused=True)
    if gradient is None:
        raise InputError(NO_GRADIENT)
    return gradient


@torch.no_grad()
def find_adversarial(model: nn.Module, x: Tensor, y: Tensor, y_target: Tensor | None) -> Tensor:
    """Whether each image of `x` (n, c, h, w) is adversarial and not rejected: (n,) bool, by one forward."""
    adversarial, active = torch.zeros(len(x), dtype=torch.bool, device=x.device), ActiveSet(len(x), x.device)
    with frozen_eval(model):
        while len(i := active.indices):
            logits = model(x[i])
            check_classes(y if y_target is None else torch.maximum(y, y_target), logits)
            successes = is_adversarial(logits, y[i], None if y_target is None else y_target[i])
            adversarial[i] = successes & accepts(model, x[i])
            active.drop(torch.ones_like(i, dtype=torch.bool))
    return adversarial


def steepest_ascent_direction(gradient: Tensor, norm: Norm) -> Tensor:
    """The step of length 1 in `norm` that climbs most along `gradient` (n, c, h, w); zero where the gradient is."""
    if norm == "linf":
        return gradient.sign()
    # Divide by the largest entry first: the squares of a small gradient underflow.
    gradient = gradient / batch_view(gradient.flatten(1).abs().amax(1).clamp_min(1e-38))
    return gradient / batch_view(gradient.flatten(1).norm(dim=1).clamp_min(1e-12))


def batch_view(values: Tensor) -> Tensor:
    """One value per image (n,) as (n, 1, 1, 1)."""
    return values.view(-1, 1, 1, 1)


def l2_length(gradient: Tensor) -> Tensor:
    """(n,) the l2 norm of `gradient` (n, c, h, w), also where its squares would underflow or overflow."""
    largest = gradient.flatten(1).abs().amax(1)
    return largest * (gradient.flatten(1) / largest.clamp_min(1e-38)[:, None]).norm(dim=1)


def random_start(x: Tensor, threat: Threat, rng: torch.Generator | None) -> Tensor:
    """`x` (n, c, h, w) plus noise drawn uniformly from the ball, cut at the box; from `rng`, on its device."""
    if threat.norm == "linf":
        delta = threat.eps * (2 * uniform(x.shape, x, rng) - 1)
    else:  # a normal direction is uniform on the sphere; the d-th root spreads the radius over the ball
        delta = normal(x.shape, x, rng)
        radius = threat.eps * uniform((len(x), 1, 1, 1), x, rng) ** (1 / max(x[:1].numel(), 1))
        delta = delta * radius / batch_view(delta.flatten(1).norm(dim=1).clamp_min(1e-12))
    return threat.project(x + delta, x)


def uniform(shape: tuple[int, ...] | torch.Size, x: Tensor, rng: torch.Generator | None) -> Tensor:
    """Uniform in [0, 1), drawn on the device of `rng` (None: torch's global one), moved to the device of `x`."""
    return torch.rand(shape, generator=rng, device=_drawn_on(x, rng), dtype=torch.float32).to(x.device)


def normal(shape: tuple[int, ...] | torch.Size, x: Tensor, rng: torch.Generator | None) -> Tensor:
    """Standard normal, drawn like `uniform`."""
    return torch.randn(shape, generator=rng, device=_drawn_on(x, rng), dtype=torch.float32).to(x.device)


def _drawn_on(x: Tensor, rng: torch.Generator | None) -> torch.device:
    if rng is not None and not isinstance(rng, torch.Generator):
        raise InputError(f"rng must be a torch.Generator, got {type(rng).__name__}")
    return x.device if rng is None else rng.device
