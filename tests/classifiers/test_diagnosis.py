"""check_model: each of the usual faults of a classifier is named; a sound classifier has none."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import advgan
from advgan import InputError

MEAN, STD = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))
K = 6


class Prototypes(nn.Module):
    """Logits by the distance of an image's mean color, times `scale`, from K colors, normalized `times` times."""

    def __init__(self, times: int = 0, expects: int = 0, scale: float = 1.0, change: Callable[..., Any] | None = None):
        super().__init__()
        self.times, self.scale, self.change = times, scale, change
        colours = COLOURS * scale
        for _ in range(expects):
            colours = (colours - MEAN) / STD
        self.register_buffer("colours", colours)

    def forward(self, x: Tensor) -> Any:
        colour = x.mean((2, 3))
        for _ in range(self.times):
            colour = (colour - MEAN) / STD
        logits = -20 * (colour[:, None] - self.colours).square().sum(2) / self.scale**2
        return self.change(logits, x) if self.change else logits


COLOURS = torch.tensor(
    [[0.9, 0.2, 0.1], [0.1, 0.2, 0.9], [0.2, 0.8, 0.3], [0.7, 0.6, 0.1], [0.1, 0.6, 0.7], [0.5, 0.3, 0.6]]
)


@pytest.fixture(scope="module")
def images() -> tuple[Tensor, Tensor]:
    y = torch.arange(K).repeat(12)
    noise = 0.05 * torch.randn(len(y), 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return (COLOURS[y][:, :, None, None] + noise).clamp(0, 1), y


def in_place(logits: Tensor, x: Tensor) -> Tensor:
    x.mul_(0.5)
    return logits


def training_mode() -> nn.Module:
    return nn.Sequential(Prototypes(), nn.Dropout(0.5)).train()


MODELS: dict[str, Callable[[], nn.Module]] = {
    "softmax output": lambda: Prototypes(change=lambda z, x: z.softmax(1)).eval(),
    "sigmoid output": lambda: Prototypes(change=lambda z, x: (z + 3).sigmoid()).eval(),
    "training mode": training_mode,
    "random": lambda: Prototypes(change=lambda z, x: z + torch.randn_like(z)).eval(),
    "batch dependence": lambda: Prototypes(change=lambda z, x: z - 0.5 * z.mean(0)).eval(),
    "in-place change": lambda: Prototypes(change=in_place).eval(),
    "no gradient": lambda: Prototypes(change=lambda z, x: z.detach()).eval(),
    "not finite": lambda: Prototypes(change=lambda z, x: z / 0 * 0).eval(),
    "no logits": lambda: Prototypes(change=lambda z, x: z.argmax(1)).eval(),
    "missing normalisation": lambda: Prototypes(0, 1).eval(),
    "doubled normalisation": lambda: Prototypes(2, 1).eval(),
    "BGR channels": lambda: nn.Sequential(Flip(), Prototypes()).eval(),
    "class order": lambda: Prototypes(change=lambda z, x: z.roll(1, 1)).eval(),
    "missing range change": lambda: Prototypes(scale=255.0).eval(),
}


class Flip(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flip(1)


@pytest.mark.parametrize("name", MODELS)
def test_each_fault_is_named_alone(name: str, images: tuple[Tensor, Tensor]) -> None:
    x, y = images
    model, before = MODELS[name](), x.clone()
    modes = [module.training for module in model.modules()]
    report = advgan.check_model(model, x, y)
    assert [problem.name for problem in report.problems] == [name]
    assert name in repr(report)
    assert not report.ok
    assert torch.equal(x, before)
    assert [module.training for module in model.modules()] == modes


def test_sound_model_has_no_problem(images: tuple[Tensor, Tensor]) -> None:
    x, y = images
    report = advgan.check_model(Prototypes().eval(), x.numpy(), y.numpy())
    assert (report.ok, report.accuracy) == (True, 1.0)
    assert repr(report) == "✓ no problem found\naccuracy 100.0%"
    assert advgan.check_model(Prototypes(1, 1).eval(), x, y).ok
    assert advgan.check_model(Prototypes(1, 1).eval(), x).accuracy is None


def test_image_range_is_named(images: tuple[Tensor, Tensor]) -> None:
    x, y = images
    names = [problem.name for problem in advgan.check_model(Prototypes(scale=255.0).eval(), 255 * x, y).problems]
    assert names == ["image range"]


def test_all_of_several_faults_are_named(images: tuple[Tensor, Tensor]) -> None:
    x, y = images
    model = nn.Sequential(Prototypes(0, 1, change=lambda z, x: z.softmax(1)), nn.Dropout(0.5)).train()
    names = [problem.name for problem in advgan.check_model(model, x, y).problems]
    assert names == ["training mode", "softmax output", "missing normalisation"]


def test_low_accuracy_without_known_cause(images: tuple[Tensor, Tensor]) -> None:
    x, y = images
    generator = torch.Generator().manual_seed(1)
    (problem,) = advgan.check_model(Prototypes().eval(), x, y[torch.randperm(len(y), generator=generator)]).problems
    assert problem.name == "low accuracy"


class Limited(nn.Module):
    """Prototypes that accept at most `most` images in [0, 1]; logits after the first `finite` images are NaN."""

    def __init__(self, most: int = 1000, finite: int = 1000) -> None:
        super().__init__()
        self.net, self.most, self.finite = Prototypes(), most, finite

    def forward(self, x: Tensor) -> Any:
        if len(x) > self.most or x.min() < 0 or x.max() > 1:
            raise ValueError("refused")
        logits = self.net(x).clone()
        logits[self.finite :] = float("nan")
        return logits


def test_exceptions_and_non_finite_logits_are_reported(images: tuple[Tensor, Tensor]) -> None:
    x, y = images
    assert advgan.check_model(Limited().eval(), x, y).ok  # it raises for changed images only
    report = advgan.check_model(Limited(most=40).eval(), x, y)
    assert [problem.name for problem in report.problems] == ["no output"]
    assert "model(x) of 72 images raises ValueError: refused" in repr(report)
    report = advgan.check_model(Limited(finite=30).eval(), x, y)
    assert [(p.name, p.measured) for p in report.problems] == [("not finite", "NaN or infinity for 42 of 72 images")]
    report = advgan.check_model(nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 9)).half().eval(), x, y)
    assert "its weights are torch.float16, expected a model of float32 images: model.float()" in repr(report)
    report = advgan.check_model(Prototypes(change=lambda z, x: {"out": z}).eval(), x, y)
    assert "no logits: model(x) is dict with ['out'] (8, " in repr(report)
    fewer = Prototypes(change=lambda z, x: z[:3]).eval()
    assert [problem.name for problem in advgan.check_model(fewer, x, y).problems] == ["no logits"]


def test_images_with_nan_are_reported_and_skipped(images: tuple[Tensor, Tensor]) -> None:
    x, y = images[0].clone(), images[1]
    x[3] = float("nan")
    report = advgan.check_model(Prototypes().eval(), x, y)
    assert [(p.name, p.measured) for p in report.problems] == [
        ("image range", "NaN or infinity in 1 of 72 images, expected 0 to 1")
    ]
    assert report.accuracy == 1


def test_images_of_one_class(images: tuple[Tensor, Tensor]) -> None:
    x, y = images
    assert advgan.check_model(Prototypes().eval(), x[y == 2], y[y == 2])
    assert not advgan.check_model(Prototypes(change=lambda z, x: z.roll(1, 1)).eval(), x[y == 2], y[y == 2])


def test_invalid_arguments_raise(images: tuple[Tensor, Tensor]) -> None:
    x, y = images
    with pytest.raises(InputError, match=r"model must be a torch\.nn\.Module or a function .*, got int"):
        advgan.check_model(3, x)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"images must be float32 of shape \(n, c, h, w\), got torch.int64"):
        advgan.check_model(Prototypes(), x.long())
    with pytest.raises(InputError, match="expected a few images"):
        advgan.check_model(Prototypes(), x[:0])
    with pytest.raises(InputError, match="y must be an int64 tensor"):
        advgan.check_model(Prototypes(), x, y[:3])
    with pytest.raises(InputError, match="y must hold classes from 0 on, got -1"):
        advgan.check_model(Prototypes(), x, y - 1)


def test_images_and_labels_of_other_types(images: tuple[Tensor, Tensor]) -> None:
    x, y = images
    grey = (x * 255).round().to(torch.uint8)
    for report in (
        advgan.check_model(Prototypes().eval(), grey, y.int()),
        advgan.check_model(Prototypes().eval(), x.double().numpy(), y.tolist()),
        advgan.check_model(lambda x: {"logits": Prototypes()(x)}, x, y),  # type: ignore[arg-type, return-value]
    ):
        assert report.ok
        assert report.accuracy == 1


def test_labels_that_the_model_has_no_logit_for_are_named(images: tuple[Tensor, Tensor]) -> None:
    x, y = images
    report = advgan.check_model(Prototypes().eval(), x, torch.where(y == 0, 255, y))
    assert [(p.name, p.measured) for p in report.problems] == [("labels", "labels up to 255, and 6 classes")]


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        (lambda x: x * 1.04 - 0.02, r"rounding, or a bicubic resize? x.clamp(0, 1)"),
        (lambda x: 255 * x, "grey levels? x / 255"),
        (lambda x: (x - 0.45) / 0.22, "normalised? that belongs inside the model"),
    ],
)
def test_remedy_of_another_range(change: Any, remedy: str, images: tuple[Tensor, Tensor]) -> None:
    (problem,) = [p for p in advgan.check_model(Prototypes().eval(), change(images[0])).problems if "range" in p.name]
    assert problem.remedy.startswith(remedy)


class Counter(Prototypes):
    """Counts the images that it has seen, also in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Any:
        self.seen += len(x)
        return super().forward(x)


def test_model_that_changes_its_buffers_is_named_and_left_as_it_was(images: tuple[Tensor, Tensor]) -> None:
    model = Counter().eval()
    report = advgan.check_model(model, *images)
    assert [problem.name for problem in report.problems] == ["changing state"]
    assert model.seen == 0


def test_frozen_torchscript_has_no_mode(images: tuple[Tensor, Tensor]) -> None:
    model = torch.jit.freeze(torch.jit.trace(Prototypes().eval(), images[0][:2]))
    assert advgan.check_model(model, *images).ok
