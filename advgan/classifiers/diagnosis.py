"""Diagnosis of a model in memory: `check_model` measures the usual faults, each with a remedy."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from advgan.classifiers.adapters import BinaryLogit, ContainedLogits, as_module, logits_of
from advgan.classifiers.checks import (
    BATCH,
    DETERMINISM_TOL,
    MIN_GAINED_IMAGES,
    OutputFault,
    accuracy_of,
    batch_logits,
    check_batch_independence,
    check_no_probabilities,
    eval_mode,
    gradient_fault,
    in_training,
    mode_dependent,
    normalisations,
)
from advgan.core.errors import InputError, listing, one_line
from advgan.core.inputs import as_float_images, as_labels, described, range_fault
from advgan.core.weights import check_weights, dense, device_of, dtype_hint

MIN_GAIN = 0.2  # of accuracy, by which a change of images or classes shows a fault
IMAGES_PER_CLASS = 3  # labelled images that a class order is inferred from, on average


@dataclass(frozen=True)
class Problem:
    """A fault of a model: its `name`, what was `measured`, and the `remedy`."""

    name: str
    measured: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.name}: {self.measured}; {self.remedy}"


@dataclass(frozen=True, repr=False)
class ModelReport:
    """The `problems` of a model, and its `accuracy` on the images where labels were given; true without problems."""

    problems: tuple[Problem, ...]
    accuracy: float | None

    @property
    def ok(self) -> bool:
        return not self.problems

    def __bool__(self) -> bool:
        return self.ok

    def __repr__(self) -> str:
        accuracy = [] if self.accuracy is None else [f"accuracy {self.accuracy:.1%}"]
        lines = [f"✗ {problem}" for problem in self.problems] or ["✓ no problem found"]
        return "\n".join([*lines, *accuracy])


def check_model(
    model: nn.Module | Callable[[Tensor], Tensor],
    x: Tensor | np.ndarray,
    y: Tensor | np.ndarray | Sequence[int] | None = None,
) -> ModelReport:
    """The usual faults of a classifier, each measured: a report with a line for each when printed.

    Without labels: outputs that are no logits (softmax, sigmoid, integers, NaN), training mode, randomness, dependence
    on the batch, changes of the input or of buffers in place, no gradient. With labels also: images of another range,
    missing or doubled normalisation, BGR channels, another class order; 64 images or more are enough for 10 classes.

    Args:
        model: images (n, c, h, w) in [0, 1] -> logits (n, k), a module or a function; not changed, nor are the images
        x: images (n, c, h, w), float or uint8 in 0..255
        y: labels (n,), whole numbers; None: no labels

    Returns:
        A report whose `problems` are empty for a model without these faults; a fault raises no error.

    Raises:
        InputError: `model` cannot be called, `x` are no images, or `y` are no labels of them.

    Example:
        >>> print(advgan.check_model(model, x, y))
    """
    x = as_float_images(x)
    if not len(x):
        raise InputError("expected a few images to check the model on, got none")
    labels = None if y is None else as_labels(y, len(x))
    model = as_module(model)
    check_weights(model)
    problems = []
    if (fault := range_fault(x)) is not None:
        measured, remedy = fault
        problems.append(
            Problem("image range", f"{measured}, expected 0 to 1", remedy or "undo the change of their range")
        )
    finite = x.isfinite().flatten(1).all(1)
    device = device_of(model, x.device)
    x, y = x[finite].to(device), None if labels is None else labels[finite.cpu()].to(device)
    if in_training(model):
        problems.append(Problem("training mode", f"model.training is True{mode_dependent(model)}", "call model.eval()"))
    if not len(x):
        return ModelReport(tuple(problems), None)
    with eval_mode(model), _kept_buffers(model) as buffers:
        problems += _output_problems(model, x[:8], buffers)
        if y is None or any(problem.name in ("no output", "no logits", "not finite") for problem in problems):
            return ModelReport(tuple(problems), None)
        try:
            logits = batch_logits(model, x)
        except Exception as error:  # whatever a user's model raises
            measured = f"model(x) of {min(len(x), BATCH)} images raises {type(error).__name__}: {one_line(error)}"
            return ModelReport((*problems, Problem("no output", measured, "see the error")), None)
        if count := int((~torch.isfinite(logits).all(1)).sum()):
            return ModelReport((*problems, _not_finite(count, len(x))), None)
        if (largest := int(y.max())) >= logits.shape[1]:
            measured = f"labels up to {largest}, and {logits.shape[1]} classes"
            problems.append(Problem("labels", measured, "leave out other images; number the classes from 0"))
        accuracy = (logits.argmax(1) == y).float().mean().item()
        problems += _label_problems(model, x, y, logits)
    return ModelReport(tuple(problems), accuracy)


@contextmanager
def _kept_buffers(model: nn.Module) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """A block after which the buffers of `model` are as before: name -> the buffer, and a copy of it from before."""
    buffers = {name: (buffer, buffer.clone()) for name, buffer in model.named_buffers()}
    try:
        yield buffers
    finally:
        with torch.no_grad():
            for buffer, before in buffers.values():
                buffer.copy_(before)


def _output_problems(model: nn.Module, x: Tensor, buffers: Mapping[str, tuple[Tensor, Tensor]]) -> list[Problem]:
    """Faults of the outputs on a few images `x`; the model is in eval mode, without gradients. `buffers` are its own,
    with copies."""
    x_copy = x.clone()
    try:
        first = model(x_copy)
        if logits_of(first) is not first:
            model, first = ContainedLogits(model), logits_of(first)
        second = model(x.clone())
    except Exception as error:  # whatever a user's model raises
        measured = f"model(x) raises {type(error).__name__}: {one_line(error)}"
        return [Problem("no output", measured, dtype_hint(model, str(error)) or "see the error")]
    problems = []
    values = {name: (dense(buffer), dense(before)) for name, (buffer, before) in buffers.items()}
    if changed := [k for k, (a, before) in values.items() if not (torch.equal(a, before) or before.isnan().any())]:
        remedy = "change no buffer in eval mode: an attack on a model that changes is a failed row"
        problems.append(Problem("changing state", f"model(x) changes {listing(changed, 3)}", remedy))
    if not torch.equal(x_copy, x):
        problems.append(
            Problem("in-place change", "model(x) changes x", "replace in-place operations on the input (x = x - mean)")
        )
    if (
        not isinstance(first, Tensor)
        or first.ndim not in (1, 2)
        or not first.numel()
        or len(first) != len(x)
        or not first.is_floating_point()
    ):
        return [*problems, Problem("no logits", f"model(x) is {described(first)}", "return float logits (n, classes)")]
    if not torch.isfinite(first).all():
        count = int((~torch.isfinite(first.reshape(len(x), -1)).all(1)).sum())
        return [*problems, _not_finite(count, len(x))]
    wrapped = BinaryLogit(model) if first.ndim == 1 or first.shape[1] == 1 else model
    difference = (first - second).abs().max().item()
    is_random = difference > DETERMINISM_TOL * max(1.0, first.abs().max().item())
    if is_random:
        remedy = "leave out dropout and random preprocessing in eval mode"
        problems.append(Problem("random", f"two forward passes differ by {difference:.3g}", remedy))
    checks: list[Callable[[], None]] = [lambda: check_no_probabilities(model, first, x)]
    checks += [] if is_random else [lambda: check_batch_independence(wrapped, x)]
    for check in checks:
        try:
            check()
        except OutputFault as fault:
            problems.append(Problem(fault.name, fault.measured, f"expected {fault.expected}"))
        except InputError as error:
            problems.append(Problem("batch dependence", str(error), "accept a batch of any size"))
    if detached := gradient_fault(wrapped, x):
        problems.append(
            Problem("no gradient", detached, "remove no_grad, detach and argmax, or use attacks without gradients")
        )
    return problems


def _not_finite(count: int, n: int) -> Problem:
    remedy = "look for damaged weights and for log or division by 0"
    return Problem("not finite", f"NaN or infinity for {count} of {n} images", remedy)


def _label_problems(model: nn.Module, x: Tensor, y: Tensor, logits: Tensor) -> list[Problem]:
    """The one change of images or classes that raises the accuracy of the `logits` (n, k) most, if one does clearly."""
    chance, accuracy = 1 / int(y.unique().numel()), (logits.argmax(1) == y).float().mean().item()
    candidates = [(accuracy_of(model, change(x), y), problem, remedy) for problem, remedy, change in _changes(x)]
    candidates += _class_order(logits, y)
    best, name, remedy = max(candidates, key=lambda candidate: candidate[0])
    gain = best - accuracy
    if gain >= MIN_GAIN and round(gain * len(x)) >= MIN_GAINED_IMAGES and best > 0.5 + 0.75 * chance:
        return [Problem(name, f"accuracy {accuracy:.0%} of {len(x)} images, {best:.0%} with the remedy", remedy)]
    if accuracy > 0.5 + 0.5 / logits.shape[1]:
        return []
    remedy = "check weights, preprocessing and labels"
    return [Problem("low accuracy", f"{accuracy:.0%} of {len(x)} images, no usual cause found", remedy)]


def _changes(x: Tensor) -> list[tuple[str, str, Callable[[Tensor], Tensor]]]:
    """Name of a fault, its remedy, and the change of images like `x` (n, c, h, w) that undoes it."""
    changes: list[tuple[str, str, Any]] = []
    for source, m, s in normalisations(x):
        mean, std = (tuple(round(value, 5) for value in values.flatten().tolist()) for values in (m, s))
        numbers = f"Normalize(mean={mean}, std={std}), {source}"
        if source == "[0, 255]":
            changes.append(
                ("missing range change", "the model expects [0, 255]: multiply by 255 inside it", lambda x: 255 * x)
            )
            continue
        changes.append(
            ("missing normalisation", f"put it in front of the model: {numbers}", lambda x, m=m, s=s: (x - m) / s)
        )
        changes.append(("doubled normalisation", f"leave out one of two: {numbers}", lambda x, m=m, s=s: x * s + m))
    if x.shape[1] == 3:
        changes.append(("BGR channels", "the model expects BGR: put x[:, [2, 1, 0]] in front", lambda x: x.flip(1)))
    return changes


def _class_order(logits: Tensor, y: Tensor) -> list[tuple[float, str, str]]:
    """Accuracy under the best one-to-one mapping of predicted classes to labels, where there are enough images."""
    predicted, k = logits.argmax(1), max(logits.shape[1], int(y.max()) + 1)
    if len(y) < IMAGES_PER_CLASS * k:
        return []
    confusion = np.zeros((k, k), np.int64)
    np.add.at(confusion, (predicted.cpu().numpy(), y.cpu().numpy()), 1)
    rows, columns = linear_sum_assignment(-confusion)
    moved = [f"{i} -> {j}" for i, j in zip(rows.tolist(), columns.tolist(), strict=True) if i != j and confusion[i, j]]
    remedy = f"reorder the classes, model's -> labels': {', '.join(moved[:6])}{', ...' if len(moved) > 6 else ''}"
    return [(confusion[rows, columns].sum().item() / len(y) - 1e-6, "class order", remedy)]
