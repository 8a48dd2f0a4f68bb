"""Trainings with each adversarial loss, with several source models, and with random normalisation."""

from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import SGD

import advgan
from advgan import Generator, InputError
from advgan.classifiers import fingerprint
from advgan.core.json_files import read_sealed
from advgan.training.build import build_generator
from advgan.training.gan import Batch, Conditions, LossConfig, SourceModel
from advgan.training.options import OptimizationConfig, TrainingConfig
from advgan.training.trainer import GANTrainer

SMALL: dict[str, Any] = {"width": 4, "depth": 1, "batch_size": 10, "validate_every": 6, "max_steps": 6}
SMALL |= {"progress": False, "workers": 0, "eps": 0.3, "alpha": 0.0, "beta": 0.0}


def classifier(seed: int = 0, classes: int = 3) -> nn.Module:
    """Three random convolutions and a linear layer, for images (n, 1, 12, 12)."""
    torch.manual_seed(seed)
    convolutions = [nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU()]
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(6 * 36, classes)).eval()


@pytest.fixture(scope="module")
def images() -> tuple[Tensor, Tensor]:
    """60 images and the predictions of `classifier()` on them, every class among them."""
    model = classifier()
    x = torch.rand(600, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = model(x)
        model[-1].bias -= logits.mean(0)
        y = model(x).argmax(1)
    model_labels = torch.cat([x[y == k][:20] for k in range(3)]), torch.arange(3).repeat_interleave(20)
    assert len(model_labels[0]) == 60
    return model_labels


def centred(images: tuple[Tensor, Tensor], seed: int = 0) -> nn.Module:
    """`classifier(seed)` with equal mean logits."""
    model = classifier(seed)
    with torch.no_grad():
        model[-1].bias -= model(torch.rand(600, 1, 12, 12, generator=torch.Generator().manual_seed(0))).mean(0)
    return model


@pytest.mark.parametrize(
    "settings",
    [
        {"adversarial": "relativistic"},
        {"adversarial": "features"},
        {"adversarial": "features", "layer": "0"},
        {"adversarial": "cosine-features", "random_normalization": True},
        {"adversarial": "match", "y_target": 1},
        {"adversarial": "match", "any_class": True, "targeted_fraction": 1.0},
        {"adversarial": "relativistic", "architecture": "resnet", "smoothing": 3, "accumulate": 2},
    ],
)
def test_each_objective_trains(images: tuple[Tensor, Tensor], settings: dict[str, Any]) -> None:
    seen: list[float] = []
    model = centred(images)
    generator = advgan.fit(
        model,
        images,
        callbacks=[lambda step, metrics: seen.append(metrics["train/loss adversarial"]) if metrics else None],
        **(SMALL | {"max_steps": 30, "learning_rate": 0.02} | settings),
    )
    assert len(seen) == 30
    assert sum(seen[-5:]) < sum(seen[:5])
    assert (generator.perturb(images[0]) - images[0]).abs().max() <= 0.3 + 1e-6
    assert not model[0]._forward_hooks


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layer": "2"}, "layer does nothing without adversarial features or cosine-features, got 2"),
        ({"adversarial": "features", "layer": "9"}, r"layer '9' is not one of the model's, expected one of 0, 1, 2"),
        ({"adversarial": "features", "y_target": 1}, "adversarial features is untargeted.* got y_target 1"),
        (
            {"adversarial": "cosine-features", "any_class": True},
            "is untargeted, expected no target class, got any_class",
        ),
        ({"adversarial": "match"}, "adversarial match is targeted, expected y_target.* got neither"),
        ({"adversarial": "match", "any_class": True}, "got any_class with targeted_fraction 0.5"),
        ({"adversarial": "features", "compile": True}, "expected no compile"),
        ({"adversarial": "features", "checkpoint_target": True}, "expected no checkpoint_target"),
        ({"smoothing": 2}, "smoothing must be 0 or an odd number of pixels, got 2"),
    ],
)
def test_errors_come_before_any_step(images: tuple[Tensor, Tensor], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        advgan.fit(centred(images), images, **(SMALL | settings))


def test_match_without_an_image_of_the_class(images: tuple[Tensor, Tensor]) -> None:
    x, y = images
    with pytest.raises(InputError, match="needs a training image of each target class, got none of 2"):
        advgan.fit(centred(images), (x[y < 2], y[y < 2]), adversarial="match", y_target=2, **SMALL)


def test_match_toward_any_class_notes_those_without_an_image(
    images: tuple[Tensor, Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    x, y = images
    settings = SMALL | {"max_steps": 2, "any_class": True, "targeted_fraction": 1.0}
    advgan.fit(centred(images), (x[y < 2], y[y < 2]), adversarial="match", **settings)
    assert "note: 1 of 3 classes have no training image: the loss match takes 0.9" in capsys.readouterr().err


def step(sources: list[SourceModel], loss: LossConfig, batch: Batch) -> tuple[dict[str, Tensor], list[Tensor]]:
    torch.manual_seed(0)
    generator = Generator(width=4, depth=1)
    trainer = GANTrainer(
        sources[0].model,
        generator,
        None,
        config=TrainingConfig(loss=loss, optimization=OptimizationConfig(clip_norm=1e9)),
        total_steps=1,
        accelerator=Accelerator(cpu=True),
        optimizer=lambda weights: SGD(weights, 0.1),
        sources=sources,
    )
    terms = trainer.generator_step(batch)
    return terms, [parameter.grad.clone() for parameter in generator.parameters() if parameter.grad is not None]


def test_of_several_models_the_loss_and_its_gradient_are_the_means(images: tuple[Tensor, Tensor]) -> None:
    x, y = images
    batch, loss = Batch(x[::6], y[::6]), LossConfig(alpha=0.0, beta=0.0, adversarial="relativistic")
    sources = [SourceModel(classifier(seed).requires_grad_(False), clean_logits=True) for seed in (0, 1)]
    (first, g_first), (second, g_second), (both, g_both) = (
        step(chosen, loss, batch) for chosen in (sources[:1], sources[1:], sources)
    )
    torch.testing.assert_close(both["loss adversarial"], (first["loss adversarial"] + second["loss adversarial"]) / 2)
    for mean, one, other in zip(g_both, g_first, g_second, strict=True):
        torch.testing.assert_close(mean, (one + other) / 2, atol=1e-7, rtol=1e-4)


def test_fit_on_a_list_is_validated_on_the_first_and_records_all(images: tuple[Tensor, Tensor], tmp_path: Any) -> None:
    models = [centred(images, seed) for seed in (0, 1)]
    advgan.fit(models, images, adversarial="cosine-features", output_dir=tmp_path, **SMALL)
    settings = read_sealed(tmp_path / "training.json")["settings"]
    assert settings["target_sha256"] == fingerprint(models[0])
    assert settings["ensemble_sha256"] == [fingerprint(models[1])]
    assert settings["feature_layers"] == ["3", "3"]
    assert all(not model.training and model[0].weight.requires_grad for model in models)


def test_models_of_an_ensemble_have_the_same_classes(images: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(InputError, match="model 2 of the ensemble must have 3 classes like the first, got 4"):
        advgan.fit([centred(images), classifier(1, classes=4)], images, **SMALL)
    with pytest.raises(InputError, match="expected a model, or several, got an empty list"):
        advgan.fit([], images, **SMALL)


def test_random_normalization_is_another_one_in_each_step_and_the_same_after_a_resume(
    images: tuple[Tensor, Tensor],
) -> None:
    """What the classifier sees, a batch at a time: the contrast is 0.5 / std of the clean one, which is about 1."""
    seen: list[float] = []

    class Watching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = centred(images)

        def forward(self, x: Tensor) -> Tensor:
            if x.requires_grad:
                seen.append((x.max() - x.min()).item())
            logits: Tensor = self.inner(x)
            return logits

    runs = []
    for _ in range(2):
        seen.clear()
        advgan.fit(Watching(), images, random_normalization=True, **SMALL)
        runs.append([contrast for contrast in seen if contrast < 0.95])
    assert runs[0] == runs[1]
    assert len(runs[0]) == len(set(runs[0])) == 6
    assert min(runs[0]) > 0.4


def test_conditions_of_a_batch_keep_its_normalization() -> None:
    batch = Batch(torch.rand(4, 1, 2, 2), torch.arange(4), Conditions(), None, (0.5, 0.7))
    assert batch[:2].normalization == (0.5, 0.7)


def test_settings_of_the_published_network() -> None:
    config = TrainingConfig().replace({"architecture": "resnet"})
    assert config.learning_rate == 2e-3
    settings = config.resolved((3, 32, 32)).generator
    generator = build_generator(
        settings, advgan.Threat(eps=0.1), None, image_shape=(3, 32, 32), num_classes=10, guide=None
    )
    assert generator.config["width"] == 64
    assert generator.config["depth"] == 6
    assert generator.labels == 0
