"""Images, labels and settings of wrong type or range: one line that names the correction."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from advgan import Generator
from advgan.attacks import fgsm, noise_sign, pgd
from advgan.classifiers import check_target
from advgan.core.errors import InputError
from advgan.core.threat_model import Threat, check_class
from advgan.evaluation import evaluate

X, Y = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(4) % 2
LOADER: Any = DataLoader(TensorDataset(X, Y), batch_size=2)

IMAGES = [
    (X.numpy(), r"got ndarray float32 \(4, 3, 8, 8\): torch.from_numpy\(x\)"),
    ((X * 255).byte().numpy(), r"got ndarray uint8"),
    ((X * 255).byte(), r"got torch.uint8 \(4, 3, 8, 8\): x.float\(\) / 255"),
    (X.double(), r"got torch.float64 \(4, 3, 8, 8\): x.float\(\)"),
    (X[:, :, :0], r"images must have pixels, got \(4, 3, 0, 8\)"),
    ((X * 255).int(), r"got torch.int32 \(4, 3, 8, 8\): x.float\(\) / 255"),
    ((X * 60000).int(), r"got torch.int32 \(4, 3, 8, 8\)$"),
    (X[0], r"got torch.float32 \(3, 8, 8\): x\[None\]"),
    (torch.cat([X, X])[:, 0], r"got torch.float32 \(8, 8, 8\): grey images\? x\[:, None\]"),
    (X * 255, r"in \[0, 1\], got 0.\d+ to 25\d.*: grey levels\? x / 255"),
    ((X - 0.45) / 0.22, r"normalised\? that belongs inside the model"),
    (X.permute(0, 2, 3, 1), r"got \(4, 8, 8, 3\), channels last: x.permute\(0, 3, 1, 2\)"),
    ([Image.new("RGB", (8, 8))], "got list: torch.stack"),
    (list(X), r"got list: torch.stack\(x\)$"),
    (LOADER.dataset, r"got TensorDataset: a batch of it, x, y = next\(iter\(DataLoader\(dataset, 1000\)\)\)"),
    (Image.new("RGB", (8, 8)), "got Image: torch.stack"),
    (LOADER, r"got DataLoader: one batch of it, x, y = next\(iter\(loader\)\)"),
    (None, "got NoneType"),
    (X * torch.nan, r"in \[0, 1\], got NaN or infinity in 4 of 4 images: leave these images out"),
    (X / 0, r"got NaN or infinity in 4 of 4 images"),
    (X * 0 + 1.0000001, r"got 1.00000012 to 1.00000012: rounding, or a bicubic resize\? x.clamp\(0, 1\)"),
    (X * 1.08 - 0.04, r"got -0.0\d+ to 1.0\d+: rounding, or a bicubic resize\? x.clamp\(0, 1\)"),
]
LABELS = [
    (Y.numpy(), r"got ndarray int64 \(4,\): torch.as_tensor\(y\)"),
    ([0, 1, 0, 1], r"got list: torch.as_tensor\(y\)"),
    (nn.functional.one_hot(Y), r"got torch.int64 \(4, 2\): one-hot\? y.argmax\(1\)"),
    (Y.float(), r"got torch.float32 \(4,\): y.long\(\)"),
    (Y.int(), r"got torch.int32 \(4,\): y.long\(\)"),
    (Y[:, None], r"got torch.int64 \(4, 1\): y.squeeze\(1\)"),
    (Y[:3], r"shape \(4,\), one class per image, got torch.int64 \(3,\)"),
    (Y - 1, "classes from 0 on, got -1"),
]


class Bright(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        f = 40 * (x.mean((1, 2, 3)) - 0.5)
        return torch.stack([-f, f], 1)


MODEL = Bright().eval()


@pytest.mark.parametrize(("x", "message"), IMAGES, ids=lambda value: type(value).__name__)
def test_invalid_images_raise_with_correction(x: Any, message: str) -> None:
    threat = Threat("linf", 0.1)
    for call in (
        lambda: check_target(MODEL, x, 2),
        lambda: fgsm(MODEL, x, Y, eps=0.1),
        lambda: evaluate(lambda x, y: x, MODEL, x, Y, threat),
    ):
        with pytest.raises(InputError, match=message):
            call()


@pytest.mark.parametrize(("y", "message"), LABELS, ids=lambda value: type(value).__name__)
def test_invalid_labels_raise_with_correction(y: Any, message: str) -> None:
    for call in (
        lambda: noise_sign(MODEL, X, y, eps=0.1),
        lambda: evaluate(lambda x, y: x, MODEL, X, y, Threat("linf", 0.1)),
    ):
        with pytest.raises(InputError, match=message):
            call()


def test_out_of_range_labels_raise_before_attack() -> None:
    with pytest.raises(InputError, match="numbered 0 to 1, got 2"):
        evaluate(lambda x, y: x, MODEL, X, Y + 1, Threat("linf", 0.1))


@pytest.mark.parametrize("shape", [(2, 5, 5, 5), (2, 8, 4, 3), (2, 3, 8, 3)])
def test_unusual_image_shapes_are_accepted(shape: tuple[int, ...]) -> None:
    x = torch.rand(*shape)
    assert torch.equal(fgsm(MODEL, x, torch.ones(2, dtype=torch.long), eps=0.1), (x - 0.1).clamp(0, 1))


NUMBERS: dict[str, tuple[Callable[[], object], str]] = {
    "eps as text": (lambda: Threat("linf", "0.3"), "eps must be a number, got '0.3'"),  # type: ignore[arg-type]
    "eps True": (lambda: Threat("linf", True), "eps must be a number, got True"),
    "steps as text": (lambda: pgd(MODEL, X, Y, eps=0.3, steps="3"), "steps must be a whole number, got '3'"),  # type: ignore[arg-type]
    "step size as text": (lambda: pgd(MODEL, X, Y, eps=0.3, step_size="1"), "step_size must be a number, got '1'"),  # type: ignore[arg-type]
    "perturb, eps": (lambda: Generator(channels=3).perturb(X, eps="0.1"), "eps must be a number"),  # type: ignore[arg-type]
    "perturb, y_target": (lambda: Generator(channels=3).perturb(X, y_target="3"), "y_target must be a whole number"),  # type: ignore[arg-type]
    "perturb, bool": (
        lambda: Generator(channels=3).perturb(X, y_target=True),
        "y_target must be a whole number, got True",
    ),
    "perturb, bools": (lambda: Generator(channels=3).perturb(X, y_target=Y > 0), "must be a class or int64 classes"),
    "y_target as text": (lambda: check_class("3", 10), "y_target must be a whole number, got '3'"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("case", NUMBERS)
def test_non_numeric_setting_raises(case: str) -> None:
    call, message = NUMBERS[case]
    with pytest.raises(InputError, match=re.escape(message)):
        call()


def test_numpy_and_tensor_scalars_are_accepted() -> None:
    assert Threat("linf", np.float32(0.25)).eps == 0.25
    assert Threat("linf", torch.tensor(0.25)).eps == 0.25  # type: ignore[arg-type]
    assert pgd(MODEL, X, Y, eps=0.3, steps=np.int64(1)).shape == X.shape  # type: ignore[arg-type]
