"""The trial beside FGSM that chooses the architecture of a generator, where the settings leave it open."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

import advgan
from advgan import Generator
from advgan.classifiers.external.base import wrap_external
from advgan.core.errors import InputError
from advgan.training import trial
from advgan.training.build import Modules
from advgan.training.datasets import Images
from advgan.training.gan import LossConfig
from advgan.training.generator import GeneratorTraining
from advgan.training.options import GeneratorConfig, TrainingConfig
from advgan.training.run_directory import Place
from advgan.training.trial import FGSMComparison
from tests.training.test_fgsm_comparison import Sum, images

SETTINGS: dict[str, Any] = {"batch_size": 20, "max_steps": 8, "validate_every": 4, "workers": 0, "progress": False}


class Products(nn.Module):
    """Class 1 where the products of neighbours have a positive sum: each image has another gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Linear(1, 2)
        self.load_state_dict({"scores.weight": torch.tensor([[-10.0], [10.0]]), "scores.bias": torch.zeros(2)})

    def forward(self, x: Tensor) -> Tensor:
        u = x - 0.5
        logits: Tensor = self.scores((u[..., 1:] * u[..., :-1]).flatten(1).sum(1, keepdim=True))
        return logits


def data(model: nn.Module) -> tuple[Tensor, Tensor]:
    x, _ = images()
    return x, model(x).argmax(1)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "TRIAL_STEPS", 2)
    monkeypatch.setattr(trial, "MIN_TRAINING_STEPS", 8)


def test_unrolled_network_where_the_default_one_is_far_below_fgsm(
    short: None, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Products().eval()
    x, y = data(model)
    generator = advgan.fit(model, (x, y), eps=0.02, **SETTINGS)
    assert generator.config["architecture"] == "unrolled"
    assert "The default network is too weak against this classifier: the generator is unrolled" in " ".join(
        capsys.readouterr().err.split()
    )
    assert torch.equal(generator.perturb(x, y), generator.perturb(x)), "the guide predicts y"
    success = (model(generator.perturb(x, y)).argmax(1) != y).float().mean()
    assert success > 0.8
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_default_network_that_reaches_fgsm_is_trained_as_without_a_trial(
    short: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "TRIAL_STEPS", 30)
    x, y = images()
    settings = SETTINGS | {"learning_rate": 1e-2}
    chosen = advgan.fit(Sum(), (x, y), eps=0.2, **settings)
    named = advgan.fit(Sum(), (x, y), eps=0.2, architecture="patch", **settings)
    assert chosen.config == named.config
    assert torch.equal(chosen.perturb(x, y), named.perturb(x, y))


@pytest.mark.parametrize(
    ("settings", "loss"),
    [({}, "relativistic"), ({"kappa": 1.0}, None), ({"any_class": True}, None), ({"y_target": 1}, None)],
)
def test_unet_where_the_network_of_patches_is_a_little_below_fgsm(
    short: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, settings: dict[str, Any], loss: str | None
) -> None:
    monkeypatch.setattr(trial, "_unet_is_fast", lambda *_: True)
    monkeypatch.setattr(GeneratorTraining, "trial", lambda _: FGSMComparison(n=100, generator=90, fgsm=100))
    settings = SETTINGS | settings
    x, y = images()
    whole = advgan.fit(Sum(), (x, y), eps=0.2, output_dir=tmp_path / "whole", **settings)
    config = whole.config
    assert {name: config[name] for name in trial.UNET} == trial.UNET
    assert whole.guide is None
    saved = json.loads((tmp_path / "whole" / "training.json").read_text())["settings"]
    assert saved["adversarial"] == loss
    stop = [lambda step, _: step == 4]
    advgan.fit(Sum(), (x, y), eps=0.2, output_dir=tmp_path / "part", callbacks=stop, **settings)
    monkeypatch.setattr(GeneratorTraining, "trial", None)  # there is no second trial
    resumed = advgan.fit(Sum(), (x, y), eps=0.2, output_dir=tmp_path / "part", resume=True, **settings)
    labels = y if config["labels"] else None
    assert torch.equal(resumed.perturb(x, labels), whole.perturb(x, labels))


class Wide(Products):
    """More operations than those of the U-Net, for nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.idle = nn.Conv2d(1, 4000, 9, padding=4)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 0 * self.idle(x).mean()


@pytest.mark.parametrize("others", [{"architecture": "paper"}, {"architecture": "unet", "levels": 3}])
def test_a_run_with_a_chosen_network_is_not_resumed_without_it(
    short: None, tmp_path: Path, others: dict[str, Any]
) -> None:
    x, y = images()
    stop = [lambda step, _: step == 4]
    advgan.fit(Sum(), (x, y), eps=0.2, output_dir=tmp_path, callbacks=stop, **SETTINGS, **others)
    with pytest.raises(InputError, match="a run is resumed with its own settings, but"):
        advgan.fit(Sum(), (x, y), eps=0.2, output_dir=tmp_path, resume=True, **SETTINGS)


@pytest.mark.parametrize(
    ("model", "generator", "fgsm", "architecture"),
    [
        (Products(), 97, 100, None),
        (Products(), 0, 0, None),
        (Products(), 96, 100, "unrolled"),
        (Wide(), 96, 100, "unet"),
        (Wide(), 70, 100, "unet"),
        (Wide(), 69, 100, "unrolled"),
        (Wide(), 97, 100, None),
    ],
)
def test_architecture_by_success_and_operations(
    model: nn.Module, generator: int, fgsm: int, architecture: str | None
) -> None:
    split = advgan.data.sources.FloatSplit(*images())
    model = wrap_external(model.eval(), "test", (1, *split.image_shape[1:]))
    state = torch.get_rng_state()
    chosen = trial.chosen_settings(
        lambda _: FGSMComparison(100, generator, fgsm),
        *(TrainingConfig().replace({"max_steps": 300}), Images(model, split, split, ("0", "1"))),
        *(Place(), Accelerator(cpu=True)),
        targeted=False,
    )
    assert chosen.get("architecture") == architecture
    assert torch.equal(torch.get_rng_state(), state)


def test_blocks_are_checkpointed_once(short: None, monkeypatch: pytest.MonkeyPatch) -> None:
    wrapped: list[nn.Module] = []
    monkeypatch.setattr("advgan.training.generator.enable_activation_checkpointing", wrapped.append)
    model = Products().eval()
    advgan.fit(model, data(model), eps=0.02, checkpoint_target=True, **SETTINGS)
    assert wrapped == [model], "a second time around would compute the activations again"


def test_unrolled_network_with_a_compiled_classifier_as_guide(short: None) -> None:
    model = Products().eval()
    x, y = data(model)
    compiled: Any = torch.compile(model, backend="aot_eager")
    generator = advgan.fit(compiled, (x, y), eps=0.02, **SETTINGS)
    assert generator.config["architecture"] == "unrolled"
    assert torch.equal(generator.perturb(x), advgan.fit(model, (x, y), eps=0.02, **SETTINGS).perturb(x))


def test_resumed_run_keeps_the_architecture_and_equals_an_uninterrupted_one(
    short: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Products().eval()
    x, y = data(model)
    settings = SETTINGS | {"eps": 0.02}
    whole = advgan.fit(model, (x, y), **settings)
    advgan.fit(model, (x, y), **settings, output_dir=tmp_path, callbacks=[lambda step, _: step == 4])
    monkeypatch.setattr(trial, "TRIAL_STEPS", None)  # there is no second trial
    resumed = advgan.fit(model, (x, y), **settings, output_dir=tmp_path, resume=True)
    assert torch.equal(resumed.perturb(x, y), whole.perturb(x, y))
    saved = Generator.from_pretrained(tmp_path, guide=model)
    assert torch.equal(saved.perturb(x, y), whole.perturb(x, y))


def test_default_network_where_no_unrolled_one_can_be_made(short: None) -> None:
    class NoLayers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(10.0))

        def forward(self, x: Tensor) -> Tensor:
            u = x - 0.5
            total = self.scale * (u[..., 1:] * u[..., :-1]).flatten(1).sum(1)
            return torch.stack([-total, total], 1)

    model = NoLayers().eval()
    assert advgan.fit(model, data(model), eps=0.02, **SETTINGS).config["architecture"] == "patch"


@pytest.mark.parametrize(
    "settings",
    [
        {"architecture": "patch"},
        {"width": 16},
        {"universal": True},
        {"labels": False},
        {"noise": 2},
        {"curriculum": 2.0},
        {"adversarial": "features"},
    ],
)
def test_no_trial_for_settings_that_choose(settings: dict[str, Any]) -> None:
    config, split = TrainingConfig().replace(settings), advgan.data.sources.FloatSplit(*images())
    prepared = advgan.training.datasets.Images(Products(), split, split, ("0", "1"))
    assert not trial.is_architecture_open(config, Modules(), prepared, [])
    assert trial.is_architecture_open(
        TrainingConfig().replace({"any_class": True, "eps_min": 0.1}), Modules(), prepared, []
    )


def test_no_trial_with_own_parts_or_several_classifiers() -> None:
    config, split = TrainingConfig(), advgan.data.sources.FloatSplit(*images())
    prepared = advgan.training.datasets.Images(Products(), split, split, ("0", "1"))
    generator = Generator(eps=0.1, width=4)
    for modules in (Modules(generator), Modules(guide=True), Modules(loss=lambda inputs: 0), Modules(init=generator)):
        assert not trial.is_architecture_open(config, modules, prepared, [])
    assert trial.is_architecture_open(config, Modules(GeneratorConfig(), guide=False), prepared, [])
    assert not trial.is_architecture_open(config, Modules(), prepared, [Products()])
    assert trial.is_architecture_open(TrainingConfig(loss=LossConfig(kappa=1.0)), Modules(), prepared, [])
