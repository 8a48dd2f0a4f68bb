"""A classifier that only answers queries: any callable, its questions counted, its answers checked, no gradient."""

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

Answers = Literal["probabilities", "labels"]
Answer = Callable[[Tensor], Any]  # images (n, c, h, w) -> probabilities (n, k) or labels (n,), a tensor or an array

FLOOR = 1e-12  # the least probability whose logarithm is passed on: log-probabilities lie in [-27.6, 0]


class OutOfQueries(InputError):
    """The budget does not allow this question; it was not asked, and what was answered before stays counted."""


class BlackBox(nn.Module):
    """Images (n, c, h, w) in [0, 1] -> log-probabilities (n, num_classes), by queries alone, without a gradient.

    answer      images, float32, at most `batch_size` of them -> probabilities (n, k), or labels (n,) from 0 on
    answers     which of both; of a label the log-probability is 0, and that of the other classes log(FLOOR) = -27.6
    budget      the most images that it may be asked about; None: no limit
    queries     the images that it was asked about so far
    name, image_shape, classes, identity    what a program says of a target, where they are known: its name, the images
                it takes, the names of its classes, and what tells it from another one, whose weights nobody sees

    It stands where a target stands: the harness and the attacks by scores, decisions or nothing run on it; an attack by
    gradients raises InputError. A question over the budget raises OutOfQueries before any of its images is asked about.
    Raises InputError for an answer that is none.
    """

    def __init__(
        self,
        answer: Answer,
        num_classes: int,
        answers: Answers = "probabilities",
        budget: int | None = None,
        batch_size: int = 250,
        *,
        name: str = "the black box",
        image_shape: ImageShape | None = None,
        classes: Sequence[str] | None = None,
        identity: str | None = None,
    ) -> None:
        super().__init__()
        if isinstance(answer, nn.Module) or not callable(answer):
            raise InputError(f"answer must be a plain callable, for a model BlackBox.of(model), got {type(answer)}")
        if answers not in get_args(Answers):
            raise InputError(f"answers must be one of {', '.join(get_args(Answers))}, got {answers!r}")
        for word, value, least in (("num_classes", num_classes, 2), ("batch_size", batch_size, 1)):
            if value < least:
                raise InputError(f"{word} must be at least {least}, got {value}")
        if budget is not None and budget < 0:
            raise InputError(f"budget must not be negative, got {budget}")
        self.answer, self.num_classes, self.answers = answer, num_classes, answers
        self.budget, self.batch_size, self.queries = budget, batch_size, 0
        self.name, self.image_shape, self.identity = name, image_shape, identity
        self.classes = None if classes is None else tuple(classes)
        self.eval()  # it has no other mode

    @classmethod
    def of(
        cls,
        model: nn.Module,
        num_classes: int,
        answers: Answers = "probabilities",
        budget: int | None = None,
        batch_size: int = 250,
    ) -> BlackBox:
        """A black box around a `model` that answers with logits; it is put into eval mode, its weights stay unseen.

        Of a black box it is one more, that asks the same service with a count and a budget of its own. Raises
        InputError for probabilities where that one tells labels alone.
        """
        if isinstance(model, BlackBox):
            return model._again(answers, budget)
        model.eval()

        def answer(x: Tensor) -> Tensor:
            device = next((tensor.device for tensor in model.parameters()), x.device)
            logits: Tensor = model(x.to(device))
            check_columns(logits)
            if is_softmax(logits):
                raise InputError(
                    "the model in the black box answers with probabilities (rows sum to 1), expected logits: leave out "
                    "its softmax, or undo it with p.clamp_min(1e-12).log()"
                )
            return logits.float().softmax(1) if answers == "probabilities" else logits.argmax(1)

        return cls(answer, num_classes, answers, budget, batch_size)

    def _again(self, answers: Answers, budget: int | None) -> BlackBox:
        if (self.answers, answers) == ("labels", "probabilities"):
            raise InputError(f"{self.name} answers with labels alone, expected answers labels, got {answers}")

        def answer(x: Tensor) -> Tensor:
            told = self._checked(self.answer(x), len(x))
            return told.argmax(1) if answers == "labels" else told

        about = {"name": self.name, "image_shape": self.image_shape, "classes": self.classes, "identity": self.identity}
        return BlackBox(answer, self.num_classes, answers, budget, self.batch_size, **about)  # type: ignore[arg-type]

    @property
    def config(self) -> dict[str, Any]:
        shape = None if self.image_shape is None else list(self.image_shape)
        return {"name": self.name, "image_shape": shape, "num_classes": self.num_classes}

    @property
    def left(self) -> float:
        """How many images it may still be asked about; infinity without a budget."""
        return math.inf if self.budget is None else self.budget - self.queries

    @torch.no_grad()
    def ask(self, x: Tensor) -> Tensor:
        """Probabilities (n, num_classes) float32, on the device of `x` (n, c, h, w); of a label: 1 for its class."""
        if len(x) > self.left:
            raise OutOfQueries(
                f"{self.name} may be asked about {self.budget} images and was asked about {self.queries}: "
                f"a question about {len(x)} more was not asked"
            )
        found = [torch.zeros(0, self.num_classes)]
        for part in x.detach().float().split(self.batch_size) if len(x) else ():
            self.queries += len(part)  # asked is asked, whatever the answer
            found.append(self._checked(self.answer(part.clone()), len(part)))
        return torch.cat(found).to(x.device)

    def forward(self, x: Tensor) -> Tensor:
        return self.ask(x).clamp_min(FLOOR).log()

    def _checked(self, answer: Any, n: int) -> Tensor:
        """An answer about `n` images as probabilities (n, k) float32 on the CPU. Raises InputError if it is none."""
        try:
            told = torch.as_tensor(answer).detach().cpu()
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"{self.name} must answer with numbers, got {type(answer).__name__}") from error
        shape = (n, self.num_classes) if self.answers == "probabilities" else (n,)
        if told.shape != shape:
            raise InputError(
                f"{self.name} must answer with {self.answers} of shape {shape}, got {tuple(told.shape)}"
                f"{self._hint(told, n)}"
            )
        if self.answers == "labels":
            if told.is_floating_point() or told.is_complex() or told.dtype == torch.bool:
                raise InputError(f"{self.name} must answer with whole numbers, its labels, got {told.dtype}")
            if n and not 0 <= int(told.min()) <= int(told.max()) < self.num_classes:
                raise InputError(
                    f"labels of {self.name} must be from 0 to {self.num_classes - 1}, "
                    f"got {int(told.min())} to {int(told.max())}"
                )
            return F.one_hot(told.long(), self.num_classes).float()
        told = told.float()
        if not torch.isfinite(told).all():
            raise InputError(f"{self.name} answers with NaN or infinity, expected probabilities")
        if n and (told.min() < 0 or (told.sum(1) - 1).abs().max() > ROUNDING):
            raise InputError(
                f"{self.name} must answer with probabilities that sum to 1, got values from "
                f"{told.min().item():.4g} and sums up to {told.sum(1).max().item():.4g} (logits?): z.softmax(1) makes "
                "probabilities of logits, and of log-probabilities"
            )
        return told

    def _hint(self, told: Tensor, n: int) -> str:
        """What makes the answer that is expected of one of another shape: ": ..."."""
        if self.answers == "labels":
            return f": .argmax(1) makes labels of {tuple(told.shape)}" if told.ndim == 2 and told.shape[1] > 1 else ""
        if self.num_classes == 2 and told.is_floating_point() and told.shape in {(n,), (n, 1)}:
            if n and told.min() >= 0 and told.max() <= 1:
                return ": torch.stack([1 - p, p], 1) makes two probabilities of one, p (n,)"
            return ": p = torch.sigmoid(f), torch.stack([1 - p, p], 1) makes two probabilities of one logit, f (n,)"
        return ' (labels? answers="labels")' if told.shape == (n,) and not told.is_floating_point() else ""
