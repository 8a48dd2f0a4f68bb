"""A classifier behind queries: any callable, with queries counted, outputs checked, and no gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advgan.classifiers.base import ImageShape
from advgan.core.errors import InputError
from advgan.core.inputs import ROUNDING, check_columns, is_softmax
from advgan.core.weights import device_of, dtype_hint

OutputKind = Literal["probabilities", "labels"]
Predict = Callable[[Tensor], Any]  # images (n, c, h, w) -> probabilities (n, k) or labels (n,), a tensor or an array

FLOOR = 1e-12  # the least probability whose logarithm is passed on: log-probabilities lie in [-27.6, 0]


class QueryBudgetExceeded(InputError):
    """This query would exceed `max_queries` and was not made; earlier ones stay counted."""


class BlackBox(nn.Module):
    """Images (n, c, h, w) in [0, 1] -> log-probabilities (n, num_classes), by queries alone, without a gradient.

    predict     images, float32, at most `batch_size` of them -> probabilities (n, k), or labels (n,) from 0 on
    output      of `predict`: "probabilities" or "labels"; the log-probability of a label is 0, of all other classes
                log(FLOOR) = -27.6
    max_queries    maximum number of images queried; None: no limit
    queries     images queried so far
    name, image_shape, classes, identity    as of other classifiers, where known; `identity` distinguishes black boxes
                in the place of weights
    normalises  False: its queries are free, and it is tested for a missing normalisation

    It takes the place of a classifier: evaluation and attacks by scores, by decisions or without access run on it; an
    attack by gradients raises InputError. A query beyond `max_queries` raises QueryBudgetExceeded before any of its
    images is sent. Raises InputError for invalid outputs.
    """

    normalises = True

    def __init__(
        self,
        predict: Predict,
        num_classes: int,
        output: OutputKind = "probabilities",
        max_queries: int | None = None,
        batch_size: int = 250,
        *,
        name: str = "the black box",
        image_shape: ImageShape | None = None,
        classes: Sequence[str] | None = None,
        identity: str | None = None,
    ) -> None:
        super().__init__()
        if isinstance(predict, nn.Module) or not callable(predict):
            raise InputError(
                f"predict must be a plain callable, for a model BlackBox.from_model(model), got {type(predict)}"
            )
        if output not in get_args(OutputKind):
            raise InputError(f"output must be one of {', '.join(get_args(OutputKind))}, got {output!r}")
        for setting, value, least in (("num_classes", num_classes, 2), ("batch_size", batch_size, 1)):
            if value < least:
                raise InputError(f"{setting} must be at least {least}, got {value}")
        if max_queries is not None and max_queries < 0:
            raise InputError(f"max_queries must not be negative, got {max_queries}")
        self.predict, self.num_classes, self.output = predict, num_classes, output
        self.max_queries, self.batch_size, self.queries = max_queries, batch_size, 0
        self.name, self.image_shape, self.identity = name, image_shape, identity
        self.classes = None if classes is None else tuple(classes)
        self.eval()  # it has no other mode

    @classmethod
    def from_model(
        cls,
        model: nn.Module,
        num_classes: int,
        output: OutputKind = "probabilities",
        max_queries: int | None = None,
        batch_size: int = 250,
    ) -> BlackBox:
        """A black box around a `model` that returns logits, which is put into eval mode.

        Of a black box: another one with its own count and budget, whose queries count for the first one, too, and are
        limited by both. Raises InputError for probabilities of one that returns labels.
        """
        if isinstance(model, BlackBox):
            return model._wrap(output, max_queries)
        model.eval()

        def predict(x: Tensor) -> Tensor:
            device = device_of(model, x.device)
            try:
                logits: Tensor = model(x.to(device))
            except RuntimeError as error:
                if hint := dtype_hint(model, str(error)):
                    raise InputError(f"the model in the black box takes no float32 images: {hint}") from error
                raise
            check_columns(logits)
            if is_softmax(logits):
                raise InputError(
                    "the model in the black box returns probabilities (rows sum to 1), expected logits: leave out "
                    "its softmax, or undo it with p.clamp_min(1e-12).log()"
                )
            return logits.float().softmax(1) if output == "probabilities" else logits.argmax(1)

        return cls(predict, num_classes, output, max_queries, batch_size)

    def _wrap(self, output: OutputKind, max_queries: int | None) -> BlackBox:
        if (self.output, output) == ("labels", "probabilities"):
            raise InputError(f"{self.name} returns labels only, expected output labels, got {output}")

        def predict(x: Tensor) -> Tensor:
            probabilities = self.query(x)
            return probabilities.argmax(1) if output == "labels" else probabilities

        metadata: Any = {name: getattr(self, name) for name in ("name", "image_shape", "classes", "identity")}
        return BlackBox(predict, self.num_classes, output, max_queries, self.batch_size, **metadata)

    @property
    def config(self) -> dict[str, Any]:
        shape = None if self.image_shape is None else list(self.image_shape)
        return {"name": self.name, "image_shape": shape, "num_classes": self.num_classes}

    @property
    def remaining(self) -> float:
        """Number of queries left; infinity without a budget."""
        return math.inf if self.max_queries is None else self.max_queries - self.queries

    @torch.no_grad()
    def query(self, x: Tensor) -> Tensor:
        """Probabilities (n, num_classes) float32, on the device of `x` (n, c, h, w); of a label: 1 for its class."""
        if self.image_shape not in (None, tuple(x.shape[1:])):
            raise InputError(f"{self.name} takes images of shape {tuple(self.image_shape)}, got {tuple(x.shape[1:])}")
        if len(x) > self.remaining:
            raise QueryBudgetExceeded(
                f"{self.name} has a budget of {self.max_queries} queries, {self.queries} of them used: "
                f"a query of {len(x)} more images was not made"
            )
        outputs = [torch.zeros(0, self.num_classes)]
        for part in x.detach().float().split(self.batch_size) if len(x) else ():
            self.queries += len(part)  # counted, whatever the output
            outputs.append(self._checked(self.predict(part.clone()), len(part)))
        return torch.cat(outputs).to(x.device)

    def forward(self, x: Tensor) -> Tensor:
        return self.query(x).clamp_min(FLOOR).log()

    def _checked(self, returned: Any, n: int) -> Tensor:
        """The output for `n` images as probabilities (n, k) float32 on the CPU. Raises InputError if it is invalid."""
        try:
            output = torch.as_tensor(returned).detach().cpu()
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"{self.name} must return numbers, got {type(returned).__name__}") from error
        shape = (n, self.num_classes) if self.output == "probabilities" else (n,)
        if output.shape != shape:
            raise InputError(
                f"{self.name} must return {self.output} of shape {shape}, got {tuple(output.shape)}"
                f"{self._hint(output, n)}"
            )
        if self.output == "labels":
            if output.is_floating_point() or output.is_complex() or output.dtype == torch.bool:
                raise InputError(f"{self.name} must return whole numbers, its labels, got {output.dtype}")
            if n and not 0 <= int(output.min()) <= int(output.max()) < self.num_classes:
                raise InputError(
                    f"labels of {self.name} must be from 0 to {self.num_classes - 1}, "
                    f"got {int(output.min())} to {int(output.max())}"
                )
            return F.one_hot(output.long(), self.num_classes).float()
        output = output.float()
        if not torch.isfinite(output).all():
            raise InputError(f"{self.name} returns NaN or infinity, expected probabilities")
        if n and (output.min() < 0 or (output.sum(1) - 1).abs().max() > ROUNDING):
            raise InputError(
                f"{self.name} must return probabilities that sum to 1, got values from "
                f"{output.min().item():.4g} and sums up to {output.sum(1).max().item():.4g} (logits?): z.softmax(1) "
                "makes probabilities of logits, and of log-probabilities"
            )
        return output

    def _hint(self, output: Tensor, n: int) -> str:
        """How to convert an output of another shape: ": ..."."""
        if self.output == "labels":
            return (
                f": .argmax(1) makes labels of {tuple(output.shape)}"
                if output.ndim == 2 and output.shape[1] > 1
                else ""
            )
        if self.num_classes == 2 and output.is_floating_point() and output.shape in {(n,), (n, 1)}:
            if n and output.min() >= 0 and output.max() <= 1:
                return ": torch.stack([1 - p, p], 1) makes two probabilities of one, p (n,)"
            return ": p = torch.sigmoid(f), torch.stack([1 - p, p], 1) makes two probabilities of one logit, f (n,)"
        return ' (labels? output="labels")' if output.shape == (n,) and not output.is_floating_point() else ""
