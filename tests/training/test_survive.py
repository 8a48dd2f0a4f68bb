"""Training of a generator whose images survive: the classifier gets them after transforms, drawn by seed and step."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import advgan
from advgan import InputError
from advgan.training.runtime.loop import Interrupted
from tests.training.test_fit import SMALL, Linear, assert_same, images, weights

__all__ = ["images"]  # a fixture


def blank(x: Tensor) -> Tensor:
    """No image is left."""
    return 0 * x


def test_resumed_training_equals_an_uninterrupted_one(images: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    def interrupt(step: int, metrics: Any) -> None:
        if step == 5:
            os.kill(os.getpid(), signal.SIGINT)

    survive: dict[str, Any] = {"survive": ("png", "jpeg:75", "resize", "crop")}
    whole = advgan.fit(Linear(), images, **survive, **SMALL)
    with pytest.raises(Interrupted):
        advgan.fit(Linear(), images, callbacks=[interrupt], output_dir=tmp_path, **survive, **SMALL)
    resumed = advgan.fit(Linear(), images, output_dir=tmp_path, resume=True, **survive, **SMALL)
    assert_same(weights(resumed), weights(whole))
    run = json.loads((tmp_path / "training.json").read_text())
    assert run["settings"]["survive"] == ["png", "jpeg:75", "resize", "crop"]
    last = run["history"][-1]
    assert {f"asr after {name}" for name in survive["survive"]} < last.keys()
    assert "| the same after jpeg:75 |" in (tmp_path / "generator" / "README.md").read_text()
    with pytest.raises(InputError, match=r"survive was \['png'.*now \['png'\]"):
        advgan.fit(Linear(), images, output_dir=tmp_path, resume=True, survive=["png"], **SMALL)


def test_each_image_is_seen_after_one_transform(images: tuple[Tensor, Tensor]) -> None:
    """Transforms to black and to white: the classifier sees no other image, and about half of each."""
    seen: list[float] = []

    class Recording(Linear):
        def forward(self, x: Tensor) -> Tensor:
            if x.requires_grad:
                seen.extend(x.detach().mean((1, 2, 3)).tolist())
            return super().forward(x)

    def white(x: Tensor) -> Tensor:
        return 0 * x + 1

    settings = SMALL | {"callbacks": [lambda step, metrics: seen.clear() if step == 0 else None]}
    advgan.fit(Recording(), images, survive=(blank, white), accumulate=2, **settings)
    steps = [value for value in seen if value in (0, 1)]
    assert len(steps) == 8 * 20
    assert 0.3 < sum(steps) / len(steps) < 0.7


def test_validation_reports_success_after_each_transform(images: tuple[Tensor, Tensor]) -> None:
    """A blank image is of the class of the largest bias; as a file the generator's images are what they were."""
    found: list[dict[str, float]] = []

    def record(step: int, metrics: Any) -> None:
        if "validation/asr" in metrics:
            found.append(dict(metrics))

    advgan.fit(Linear(), images, images, survive=("png", blank), callbacks=[record], **(SMALL | {"max_steps": 4}))
    (metrics,) = found
    model, (x, y) = Linear().eval(), images
    predicted, of_blank = model(x).argmax(1), int(model(torch.zeros(1, 1, 28, 28)).argmax())
    eligible = predicted == y
    expected = (eligible & (y != of_blank)).sum() / eligible.sum()
    assert metrics["validation/asr after blank"] == pytest.approx(expected.item())
    assert metrics["validation/asr after png"] == pytest.approx(metrics["validation/asr"], abs=0.05)


def test_best_generator_is_that_of_the_highest_success_after_the_transforms(
    images: tuple[Tensor, Tensor],
    tmp_path: Path,
) -> None:
    advgan.fit(Linear(), images, survive=("png", blank), output_dir=tmp_path, **SMALL)
    run = json.loads((tmp_path / "training.json").read_text())
    means = [(entry["asr after png"] + entry["asr after blank"]) / 2 for entry in run["history"]]
    assert run["best_validation_asr"] == pytest.approx(max(means))


def test_unknown_transform_is_an_error_before_any_step() -> None:
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(784, 3)), torch.rand(40, 1, 28, 28)
    with pytest.raises(InputError, match="unknown transform 'jpge'; did you mean jpeg"):
        advgan.fit(model, x, survive=("jpge:75",), **SMALL)
