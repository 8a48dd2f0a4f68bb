"""advgan.fit: any classifier in memory, images as the caller holds them; the model left as it was; stop and resume."""

import copy
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import advgan
from advgan import Generator, InputError, Threat, training
from advgan.classifiers import build_target
from advgan.core.config import run
from advgan.core.errors import NotFiniteError
from advgan.data import load_data
from advgan.defenses import load_classifier
from advgan.evaluation import evaluate
from advgan.models import losses
from advgan.models.discriminator import Discriminator
from advgan.training.display import speed
from advgan.training.gan import LossConfig, LossInputs
from advgan.training.options import GeneratorConfig, OptimizationConfig, RunConfig, TrainingConfig
from advgan.training.runtime.loop import Interrupted, Terminated
from advgan.training.trainer import GANTrainer
from tests.conftest import ROOT, environment

SMALL: dict[str, Any] = {"width": 8, "depth": 1, "batch_size": 20, "validate_every": 4, "max_steps": 8}
SMALL |= {"progress": False, "workers": 0, "eps": 0.3}


class Linear(nn.Module):
    """A classifier that no registry has: the mean of three bands of rows, with dropout, which is off in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.dropout, self.linear = nn.Dropout(0.5), nn.Linear(784, 3)
        with torch.no_grad():
            self.linear.weight.mul_(0.1)
            for label, row in enumerate((20, 12, 4)):
                self.linear.weight[label].view(28, 28)[row : row + 4] += 0.2

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.dropout(x.flatten(1)))
        return logits


@pytest.fixture(scope="session")
def images(digits: Path) -> tuple[Tensor, Tensor]:
    """120 images in [0, 1] and their labels."""
    x, y = next(load_data("folder", digits).train.batches(120))
    return x, y


def weights(generator: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in generator.state_dict().items()}


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_six_lines_from_a_model_in_memory_to_a_measured_generator(images: tuple[Tensor, Tensor]) -> None:
    model, (x, y) = Linear(), images
    generator = advgan.fit(model, (x, y), eps=0.4, width=8, depth=1, batch_size=24, max_steps=60, progress=False)
    x_adv = generator.perturb(x)
    assert (x_adv - x).abs().max() <= 0.4 + 1e-6
    row = evaluate(lambda x, y: generator.perturb(x), model.eval(), x, y, Threat("linf", 0.4)).row
    assert row["status"] == "ok"
    assert row["asr"] > 0.8


def test_guided_generator_learns_to_leave_the_predicted_class(images: tuple[Tensor, Tensor]) -> None:
    """It is not told the label: on an image that is classified wrongly it would be rewarded for the way back."""
    model, (x, _) = Linear().eval(), images
    predictions = model(x).argmax(1)
    wrong = predictions.clone()
    wrong[::2] = (wrong[::2] + 1) % 3
    settings: dict[str, Any] = SMALL | {"architecture": "unrolled", "depth": 1, "guide": True, "width": 0}
    one, other = (advgan.fit(model, (x, y), (x, predictions), **settings) for y in (predictions, wrong))
    assert_same(weights(one), weights(other))
    initial = Generator(eps=0.3, architecture="unrolled", depth=1, width=0, guide=model, image_shape=(1, 28, 28)).eval()
    success = [(model(net.perturb(x)).argmax(1) != predictions).float().mean() for net in (initial, one)]
    assert success[1] >= success[0] > 0.1


def test_program_and_library_make_the_same_generator(digits: Path, classifier: Path, tmp_path: Path) -> None:
    program = importlib.import_module("advgan.training.program")
    words = ["--dataset", "folder", "--data-dir", str(digits), "--target", "mnist-small", "--target-weights"]
    words += [str(classifier), "--threads", "1", "--width", "8", "--depth", "1", "--batch-size", "20", "--seed", "3"]
    words += ["--validate-every", "4", "--max-steps", "8", "--noise", "2", "--eps-min", "0.1", "--any-class"]
    run(program.main, program.Settings, [*words, "--output-dir", str(tmp_path)])

    accelerator = training.init_accelerator(3, 1)
    data = load_data("folder", digits)
    model = load_classifier("mnist-small", classifier, image_shape=data.image_shape, num_classes=3)
    settings = SMALL | {"noise": 2, "eps_min": 0.1, "any_class": True, "seed": 3, "seed_weights": False}
    generator = advgan.fit(model, data.train, data.validation, accelerator=accelerator, **settings)
    assert_same(weights(generator), load_file(tmp_path / "generator" / "model.safetensors"))


def test_model_random_state_and_threads_are_left_as_they_were(images: tuple[Tensor, Tensor]) -> None:
    model = Linear().train()
    model.linear.bias.requires_grad_(False)
    before, modes = weights(model), [part.training for part in model.modules()]
    torch.manual_seed(5)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    with torch.no_grad():  # the caller's, who is not asked for gradients
        advgan.fit(model, images, threads=2, **SMALL | {"max_steps": 1})
    assert_same(weights(model), before)
    assert [part.training for part in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == [True, False]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert "forward" not in vars(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


class Items(Dataset[Any]):
    """Images as PIL gives them, or with their labels."""

    def __init__(self, x: Tensor, y: Tensor | None) -> None:
        self.x, self.y = (x * 255).byte(), y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> Any:
        image = Image.fromarray(self.x[i, 0].numpy())
        return image if self.y is None else (image, int(self.y[i]))


class Labelled(Items):
    """The same with named parts, as the library datasets gives them."""

    def __getitem__(self, i: int) -> Any:
        image, label = super().__getitem__(i)
        return {"image": image, "label": label}


SOURCES: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "uint8 tensors": lambda x, y: ((x * 255).byte(), y),
    "arrays": lambda x, y: ((x * 255).byte().numpy(), y.int().numpy()),
    "float arrays": lambda x, y: (x.double().numpy(), y.numpy()),
    "TensorDataset": lambda x, y: TensorDataset(x, y),
    "Dataset of PIL images": Items,
    "Dataset of dicts": Labelled,
    "DataLoader": lambda x, y: DataLoader(TensorDataset(x, y), batch_size=7, shuffle=True),
    "DataLoader with a collate function": lambda x, y: DataLoader(
        TensorDataset(x, y),
        batch_size=120,
        collate_fn=lambda items: [torch.stack(part) for part in zip(*items, strict=True)],
    ),
}


@pytest.fixture(scope="module")
def expected(images: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """The weights of the generator that `SMALL` makes of `images`."""
    return weights(advgan.fit(Linear(), images, images, **SMALL))


@pytest.mark.parametrize("kind", SOURCES)
def test_every_source_of_the_same_images_makes_the_same_generator(
    kind: str, images: tuple[Tensor, Tensor], expected: dict[str, Tensor]
) -> None:
    generator = advgan.fit(Linear(), SOURCES[kind](*images), images, **SMALL)
    for name, value in expected.items():  # float64 and float32 divisions by 255 differ in the last bit
        torch.testing.assert_close(weights(generator)[name], value, atol=1e-4, rtol=1e-4, msg=name)


def test_without_labels_the_predictions_are_the_labels(images: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    x, model = images[0], Linear().eval()
    alone = advgan.fit(model, x, x, output_dir=tmp_path, **SMALL)
    with torch.no_grad():
        predictions = model(x).argmax(1)
    assert_same(weights(alone), weights(advgan.fit(model, (x, predictions), x, **SMALL)))
    history = json.loads((tmp_path / "training.json").read_text())["history"]
    assert history[-1]["n_correct"] == history[-1]["n"] == len(x)
    changed = model(alone.perturb(x, predictions)).argmax(1) != predictions
    assert max(metrics["asr"] for metrics in history) == pytest.approx(changed.float().mean().item())


@pytest.mark.parametrize(("n", "labels"), [(30, 3), (29, 0)])
def test_labels_are_an_input_with_10_images_a_class(images: tuple[Tensor, Tensor], n: int, labels: int) -> None:
    x, y = images
    generator = advgan.fit(Linear(), (x[:n], y[:n]), (x[n:], y[n:]), **SMALL | {"max_steps": 1})
    assert generator.labels == labels


def test_a_log_file_shows_the_time_left_from_the_first_step_on(
    images: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("advgan.core.progress.FIRST_LINE_SECONDS", 0)
    advgan.fit(Linear(), images, images, **SMALL | {"progress": True})
    lines = [line for line in capsys.readouterr().out.splitlines() if " of 8 " in line]
    assert len(lines) == 1  # the next one is half a minute later
    assert lines[0].startswith("advgan: 1 of 8 steps  about 0:0")


@pytest.mark.parametrize(("steps_per_second", "shown"), [(2.04, "2.0 step/s"), (0.25, "4.0 s/step")])
def test_speed_is_a_number_above_1(steps_per_second: float, shown: str) -> None:
    assert speed(steps_per_second) == shown


def test_folders_of_classes_and_of_images(digits: Path) -> None:
    labelled = advgan.fit(Linear(), digits / "train", digits / "val", **SMALL)
    assert labelled.perturb(torch.rand(2, 1, 28, 28)).shape == (2, 1, 28, 28)
    advgan.fit(Linear(), digits / "train" / "top", **SMALL)
    with pytest.raises(InputError, match="expected one of them, like"):
        advgan.fit(Linear(), digits, **SMALL)


def test_crops_of_photos_are_the_default_and_resume_equals_an_uninterrupted_run(digits: Path, tmp_path: Path) -> None:
    for i, file in enumerate(sorted((digits / "train").rglob("*.png"))):
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.open(file).resize((40, 36)).save(tmp_path / "photos" / f"{i}.png")

    def fitted(**more: Any) -> Generator:
        model = Linear()
        model.image_shape = (1, 28, 28)
        return advgan.fit(model, tmp_path / "photos", output_dir=tmp_path / "run", **SMALL | more)

    stop = [lambda step, given: os.kill(os.getpid(), signal.SIGINT) if step == 5 else None]
    with pytest.raises(Interrupted):
        fitted(callbacks=stop)
    resumed = weights(fitted(resume=True))
    assert_same(resumed, weights(fitted(overwrite=True, augment="crop-flip", workers=2)))
    plain = weights(fitted(overwrite=True, augment="none"))
    assert any(not torch.equal(plain[name], value) for name, value in resumed.items())
    assert (
        "| fooling rate on 12 validation images: another" in (tmp_path / "run" / "generator" / "README.md").read_text()
    )


class InPlace(Linear):
    """`Linear`, with a normalisation that is written into the images, and undone elsewhere."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.sub_(0.25).add_(0.25))


def test_model_that_changes_its_images_gets_copies(images: tuple[Tensor, Tensor]) -> None:
    x, kept = (images[0] * 4).round() / 8, images[0].clone()  # 0.25 is subtracted and added without a rounding error
    x, y = x.clone(), images[1]
    made = [weights(advgan.fit(model(), (x, y), **SMALL)) for model in (Linear, InPlace)]
    assert_same(*made)
    assert torch.equal(x, (kept * 4).round() / 8)


def test_function_as_a_model(images: tuple[Tensor, Tensor]) -> None:
    model = Linear().eval().requires_grad_(False)
    by_function = advgan.fit(lambda x: model(x), images, **SMALL)
    assert_same(weights(by_function), weights(advgan.fit(model, images, **SMALL)))


def test_own_parts(images: tuple[Tensor, Tensor]) -> None:
    """A network, a discriminator, a loss and an optimizer of the caller's are those that are used."""
    network, discriminator = (
        nn.Conv2d(1, 1, 3, padding=1),
        nn.Sequential(nn.Flatten(), nn.Linear(784, 1), nn.Flatten(0)),
    )
    before, kinds = [copy.deepcopy(part).state_dict() for part in (network, discriminator)], set()

    def loss(inputs: LossInputs) -> Tensor:
        kinds.add((tuple(inputs.logits.shape), tuple(inputs.scores.shape), inputs.y_target is None))
        return losses.adversarial_loss(inputs.logits, inputs.y, kappa=1.0)

    made: list[torch.optim.Optimizer] = []

    def optimizer(parameters: Any) -> torch.optim.Optimizer:
        made.append(torch.optim.SGD(parameters, lr=0.5))
        return made[0]

    settings = {name: value for name, value in SMALL.items() if name not in ("width", "depth")}
    parts: dict[str, Any] = {"generator": network, "discriminator": discriminator, "loss": loss}
    generator = advgan.fit(Linear(), images, optimizer=optimizer, **parts, **settings)
    assert generator.network is network
    assert kinds == {((20, 3), (20,), True)}
    assert made[0].param_groups[0]["initial_lr"] == 0.5
    for part, old in zip((network, discriminator), before, strict=True):
        assert not all(torch.equal(value, old[name]) for name, value in part.state_dict().items())


def test_own_loss_equal_to_the_weighted_sum_makes_the_same_generator(images: tuple[Tensor, Tensor]) -> None:
    def loss(inputs: LossInputs) -> Tensor:
        adversarial = losses.adversarial_loss(inputs.logits, inputs.y, kappa=5.0).mean()
        return adversarial + 0.1 * losses.generator_loss(inputs.scores).mean()

    own = advgan.fit(Linear(), images, loss=loss, **SMALL)
    assert_same(weights(own), weights(advgan.fit(Linear(), images, loss=LossConfig(beta=0.0), **SMALL)))


def test_groups_of_settings_and_single_settings_are_the_same(images: tuple[Tensor, Tensor]) -> None:
    groups: dict[str, Any] = {"generator": GeneratorConfig(width=8, depth=1)}
    groups |= {"optimization": OptimizationConfig(max_steps=8, batch_size=20)}
    groups |= {"run": RunConfig(validate_every=4, progress=False, workers=0)}
    assert_same(
        weights(advgan.fit(Linear(), images, eps=0.3, **groups)), weights(advgan.fit(Linear(), images, **SMALL))
    )


def test_own_generator_is_trained_in_place_and_continued(images: tuple[Tensor, Tensor]) -> None:
    own = Generator(eps=0.3, width=8, depth=1)
    assert advgan.fit(Linear(), images, generator=own, **SMALL) is own
    trained = weights(own)
    still = SMALL | {"learning_rate": 1e-12, "discriminator_learning_rate": 0.0}
    continued = advgan.fit(Linear(), images, init=own, **still)
    with pytest.raises(InputError, match="generator of another kind: labels is 0, expected 3"):
        advgan.fit(Linear(), images, init=own, labels=True, **still)
    for name, value in weights(continued).items():
        torch.testing.assert_close(value, trained[name], atol=1e-9, rtol=0)
    with pytest.raises(InputError, match=r"the generator was built with eps 0.3, expected 0.2"):
        advgan.fit(Linear(), images, generator=own, **SMALL | {"eps": 0.2})


@pytest.mark.parametrize(
    "settings",
    [
        {"architecture": "unet", "patch": 2, "width": 12, "levels": 2, "labels": 3, "smoothing": 3},
        {"classes": 3, "target_classes": (0, 2), "noise": 2, "depth": 1, "width": 8},
        {"architecture": "unrolled", "depth": 1, "width": 0, "guide": build_target("mnist-small")},
    ],
)
def test_network_of_the_initial_weights_needs_no_settings(
    settings: dict[str, Any], images: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    model, train = (build_target("mnist-small"), images[0]) if "guide" in settings else (Linear(), images)
    trained = Generator(eps=0.3, **settings)
    trained.save(tmp_path / "trained" / "generator", "card")
    short = {"eps": 0.3, "max_steps": 1, "batch_size": 20, "learning_rate": 1e-12, "progress": False, "workers": 0}
    for init in (trained, tmp_path / "trained"):
        continued = advgan.fit(model, train, init=init, output_dir=tmp_path / "run", overwrite=True, **short)
        assert continued.config | {"guide": None} == trained.config | {"guide": None}
        for name, value in weights(continued).items():
            if not name.startswith("guide."):
                torch.testing.assert_close(value, weights(trained)[name], atol=1e-9, rtol=0)
    shutil.rmtree(tmp_path / "trained")
    for steps, given in ((2, {"init": init}), (3, {})):
        short["max_steps"] = steps
        resumed = advgan.fit(model, train, output_dir=tmp_path / "run", resume=True, **short, **given)
        assert resumed.config == continued.config


def test_a_directory_is_that_of_one_training(images: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    def train_there_too(step: int, metrics: dict[str, Any]) -> None:
        with pytest.raises(InputError, match="link is in use by another training of this process"):
            advgan.fit(Linear(), images, output_dir=tmp_path / "link", overwrite=True, **SMALL)

    (tmp_path / "link").symlink_to(tmp_path / "run")
    advgan.fit(Linear(), images, output_dir=tmp_path / "run", callbacks=[train_there_too], **SMALL)
    advgan.fit(Linear(), images, output_dir=tmp_path / "run", overwrite=True, **SMALL)


def test_callbacks_see_every_step_and_end_the_training(images: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    steps: list[int] = []
    validated: list[int] = []

    def callback(step: int, metrics: Any) -> Tensor:
        steps.append(step)
        validated.extend([step] if "validation/asr" in metrics else [])
        assert ("train/loss adversarial" in metrics) == (step > 0)
        return torch.tensor(step == 6)

    generator = advgan.fit(Linear(), images, callbacks=[callback], output_dir=tmp_path, **SMALL)
    assert (steps, validated) == ([0, 1, 2, 3, 4, 5, 6], [4])
    summary = json.loads((tmp_path / "training.json").read_text())
    assert (summary["finished"], summary["steps"], len(summary["history"])) == (False, 6, 2)
    assert not generator.training


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_saves_the_state_and_resume_equals_an_uninterrupted_run(
    number: signal.Signals, images: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    def interrupt(step: int, metrics: Any) -> None:
        if step == 5:
            os.kill(os.getpid(), number)

    whole = advgan.fit(Linear(), images, **SMALL)
    place: dict[str, Any] = {"output_dir": tmp_path}
    with pytest.raises((Interrupted, Terminated)) as ending:
        advgan.fit(Linear(), images, callbacks=[interrupt], **place, **SMALL)
    assert ending.value.code == 128 + number
    if number == signal.SIGINT:
        assert isinstance(ending.value.trained, Generator)  # type: ignore[union-attr]
    resumed = advgan.fit(Linear(), images, **place, resume=True, **SMALL)
    assert_same(weights(resumed), weights(whole))
    assert_same(weights(resumed), load_file(tmp_path / "generator" / "model.safetensors"))
    card = (tmp_path / "generator" / "README.md").read_text()
    assert "Linear" in card
    assert "advgan.fit" in card
    with pytest.raises(InputError, match="already holds a generator run"):
        advgan.fit(Linear(), images, **place, **SMALL)
    with pytest.raises(InputError, match=r"but kappa was 5.0, now 1.0"):
        advgan.fit(Linear(), images, **place, resume=True, kappa=1.0, **SMALL)
    with pytest.raises(InputError, match="resumed with its own settings, but width was 8, now 16"):
        advgan.fit(Linear(), images, **place, resume=True, **{**SMALL, "width": 16})
    file = tmp_path / "generator" / "model.safetensors"
    for damaged, message in ((file.read_bytes()[:500], "is damaged"), (None, "no weights in")):
        file.unlink() if damaged is None else file.write_bytes(damaged)
        with pytest.raises(InputError, match=message):
            advgan.fit(Linear(), images, **place, resume=True, **SMALL)


def test_a_run_is_resumed_with_the_layers_of_its_model(images: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    """Of the same weights: another activation, stride or mean was attacked from the next step on without a word."""
    head = Linear()

    def fitted(body: nn.Module, **more: Any) -> None:
        model = nn.Sequential(body, head).eval()
        advgan.fit(model, images, output_dir=tmp_path / "run", resume=(tmp_path / "run").exists(), **SMALL | more)

    fitted(nn.LeakyReLU(0.1))
    for other in (nn.LeakyReLU(0.2), nn.Identity()):
        with pytest.raises(InputError, match="target_layers_sha256 was"):
            fitted(other, max_steps=9)
    fitted(nn.LeakyReLU(0.1), max_steps=9)


@pytest.mark.parametrize("place", ["guide", "ensemble"])
def test_a_run_is_resumed_with_the_layers_of_its_guide_and_ensemble(
    place: str, images: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    model, head = Linear(), Linear()

    def fitted(body: nn.Module | None, **more: Any) -> None:
        other = None if body is None else nn.Sequential(body, head).eval()
        models, guide = (model, other) if place == "guide" else ([model, other] if other else model, None)
        advgan.fit(
            models, images, guide=guide, output_dir=tmp_path, resume=(tmp_path / "state").exists(), **SMALL | more
        )

    fitted(nn.LeakyReLU(0.1))
    for other in (nn.LeakyReLU(0.2), None):
        with pytest.raises(InputError, match="_sha256 was"):
            fitted(other, max_steps=9)
    fitted(nn.LeakyReLU(0.1), max_steps=9)


def test_a_run_is_resumed_with_its_own_images(
    images: tuple[Tensor, Tensor], digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = images

    class Noisy(Dataset[Any]):
        def __len__(self) -> int:
            return len(x)

        def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
            return (x[i] + torch.rand(()) / 100).clamp(0, 1), y[i]

    def fitted(train: Any, name: str, **more: Any) -> None:
        advgan.fit(Linear(), train, output_dir=tmp_path / name, resume=(tmp_path / name).exists(), **SMALL | more)

    relabelled = y.clone()
    relabelled[0] = (y[0] + 1) % 3
    shutil.copytree(digits / "train", tmp_path / "moved")
    for same in (images, Noisy(), digits / "train"):
        fitted(same, type(same).__name__)
    fitted(tmp_path / "moved", type(digits).__name__)
    fitted(Noisy(), "Noisy")
    fitted(images, "tuple", max_steps=9)
    for other in ((x.flip(0), y.flip(0)), (x, relabelled), x, (x * 0.99, y)):
        with pytest.raises(InputError, match="images_sha256 was"):
            fitted(other, "tuple", max_steps=10)
    monkeypatch.setattr("advgan.data.image_io.MEMORY_LIMIT", 0)  # files are told apart by their names and sizes
    (tmp_path / "moved" / "top").rename(tmp_path / "moved" / "other")
    fitted(tmp_path / "moved", "files", max_steps=9)
    fitted(tmp_path / "moved", "files", max_steps=10)
    first = min((tmp_path / "moved" / "other").iterdir())
    first.rename(first.with_stem("zz"))
    with pytest.raises(InputError, match="images_sha256 was"):
        fitted(tmp_path / "moved", "files", max_steps=11)


def test_state_of_the_trainer_continues_in_another_one(images: tuple[Tensor, Tensor]) -> None:
    def trainer() -> GANTrainer:
        torch.manual_seed(0)
        model, net = Linear().eval().requires_grad_(False), Generator(eps=0.3, width=8, depth=1, noise=2)
        accelerator = advgan.training.runtime.distributed.make_accelerator()
        config = TrainingConfig().replace({"noise": 2})
        return GANTrainer(model, net, Discriminator(), config=config, total_steps=6, accelerator=accelerator)

    x, y = images[0][:20], images[1][:20]
    first, second = trainer(), trainer()
    terms = [first.train_step(x, y) for _ in range(2)]
    state = copy.deepcopy(first.state_dict())
    terms = [first.train_step(x, y) for _ in range(2)]
    second.load_state_dict(state)
    assert [second.train_step(x, y) for _ in range(2)] == terms
    assert_same(weights(second.averaged), weights(first.averaged))


def test_with_alpha_0_there_is_no_discriminator(
    images: tuple[Tensor, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Discriminator, "forward", lambda *_: pytest.fail("a discriminator is evaluated"))
    metrics: dict[str, float] = {}
    settings = SMALL | {"alpha": 0.0, "accumulate": 2, "callbacks": [lambda step, given: metrics.update(given)]}
    whole = advgan.fit(Linear(), images, **settings)
    stop = [lambda step, given: os.kill(os.getpid(), signal.SIGINT) if step == 5 else None]
    with pytest.raises(Interrupted):
        advgan.fit(Linear(), images, output_dir=tmp_path, **settings | {"callbacks": stop})
    resumed = advgan.fit(Linear(), images, output_dir=tmp_path, resume=True, **settings)
    assert_same(weights(resumed), weights(whole))
    assert {"train/loss adversarial", "train/loss hinge", "validation/asr"} <= metrics.keys()
    assert not [name for name in metrics if "GAN" in name or "D(" in name or "d_acc" in name or "discr" in name]
    assert "| discriminator | none |" in (tmp_path / "generator" / "README.md").read_text()
    with pytest.raises(
        InputError, match=r"no discriminator in .*: expected a run of train/advgan.py with alpha above 0"
    ):
        Discriminator.load(tmp_path)
    with pytest.raises(InputError, match="discriminator does nothing with alpha 0, got Discriminator"):
        advgan.fit(Linear(), images, discriminator=Discriminator(), **settings)


def test_custom_loss_is_given_scores_with_alpha_0_too(images: tuple[Tensor, Tensor]) -> None:
    def loss(inputs: LossInputs) -> Tensor:
        return losses.generator_loss(inputs.scores)

    discriminator = Discriminator()
    before = weights(discriminator)
    advgan.fit(Linear(), images, loss=loss, discriminator=discriminator, alpha=0.0, **SMALL)
    assert not all(torch.equal(value, before[name]) for name, value in weights(discriminator).items())


def test_loss_that_is_not_finite(images: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    calls = iter(range(100))

    def loss(inputs: LossInputs) -> Tensor:
        return inputs.logits.mean() * (1 if next(calls) < 6 else float("nan"))

    with pytest.raises(NotFiniteError, match=r"step 7: loss.* is not finite; .* gradients of your loss\?") as ending:
        advgan.fit(Linear(), images, loss=loss, **SMALL)
    assert isinstance(ending.value.trained, Generator)
    assert all(torch.isfinite(value).all() for value in weights(ending.value.trained).values())


class NotFinite(Linear):
    """NaN for images whose first pixel is above 0.5, after the first `finite` images of a batch."""

    def __init__(self, finite: int) -> None:
        super().__init__()
        self.finite = finite

    def forward(self, x: Tensor) -> Tensor:
        late = torch.arange(len(x)) >= self.finite
        bad = (x[:, 0, 0, 0] > 0.5) & (late if len(x) >= 8 else torch.ones(len(x), dtype=torch.bool))
        return super().forward(x).masked_fill(bad[:, None], float("nan"))


def test_images_without_finite_logits_are_named(images: tuple[Tensor, Tensor]) -> None:
    class Scaled(Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * 1e30

    with pytest.raises(
        NotFiniteError, match=r"step 1: .* before any step: are the target's logits, which reach .*e\+3"
    ):
        advgan.fit(Scaled(), images, **SMALL)
    x, y = images[0].clone(), images[1]
    x[8:, :, 0, 0] = 0.9
    with pytest.raises(NotFiniteError, match=r"step 1: .* NaN or infinity for \d+ of 20 clean images: leave"):
        advgan.fit(NotFinite(0), (x, y), (images[0] * 0.5, y), **SMALL)


@pytest.mark.parametrize("n", [4, 10, 15])
def test_a_few_images_of_one_class_are_enough(n: int, images: tuple[Tensor, Tensor]) -> None:
    x, y = images[0][images[1] == 0][:n], torch.zeros(n, dtype=torch.long)
    generator = advgan.fit(Linear(), (x, y), **{**SMALL, "max_steps": 1, "batch_size": 2})
    assert generator.perturb(x).shape == x.shape


class Rows(Dataset[Any]):
    def __init__(self, rows: list[Any]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Any:
        return self.rows[i]


X, Y = torch.rand(40, 1, 28, 28, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": (X * 255, Y)}, r"images must lie in \[0, 1\], got .*: grey levels\? x / 255"),
        ({"train": (X.permute(0, 2, 3, 1), Y)}, "channels last"),
        ({"train": (X, Y[:30])}, r"the labels of train must be an int64 tensor of shape \(40,\)"),
        ({"train": (X, Y.float())}, "the labels of train must be .*got torch.float32"),
        ({"train": (X, nn.functional.one_hot(Y))}, "one-hot"),
        ({"train": (X, Y + 1)}, "train has labels up to 3, expected 0 to 2: the model has 3 logits"),
        ({"train": {"x": X}}, "train must be images, .* got dict"),
        ({"train": list(X)}, r"train must be images, .* got list of 40: torch.stack\(images\)"),
        ({"train": (list(X), Y)}, r"train must be images, .* got tuple of 2: torch.stack\(images\)"),
        ({"train": [(X[:20], Y[:20]), (X[20:], Y[20:])]}, "train must be images, .* got list of 2$"),
        ({"train": (X, [0, None] * 20)}, "labels of train must be whole numbers, one per image, got NoneType"),
        ({"train": ""}, "train must be the path of a folder, got ''"),
        ({"train": TensorDataset(X, Y, Y)}, "train must be images, .* got TensorDataset of 3"),
        ({"train": Rows([{"x": X[0], "label": 0}])}, "a dict of a Dataset must have one of image, .*, got x, label"),
        ({"train": Rows([(0, X[0], 0)])}, r"images or pairs \(image, label\), got tuple of 3"),
        ({"train": (X[:3], Y[:3])}, "at least 2 validation images per process expected, of at least 4 images, got 1"),
        ({"output_dir": ""}, "output_dir must be the path of a folder, got ''"),
        ({"output_dir": 3}, "output_dir must be the path of a folder, got 3"),
        ({"model": NotFinite(8)}, "NaN or infinity for . of 4 validation images"),
        ({"train": "nowhere"}, "expected a folder of images, got nowhere"),
        ({"train": X[:0]}, "train has no images"),
        ({"model": 3}, "model must be a torch.nn.Module or a function"),
        ({"model": nn.Sequential(nn.Flatten(), nn.Linear(784, 3), nn.Softmax(1))}, "probabilities"),
        ({"model": lambda x: x.flatten(1)[:, :3].detach()}, "passes no gradient"),
        ({"eps": 2.0}, r"eps must be in \(0, 1\]"),
        ({"y_target": 3}, "y_target must be a class from 0 to 2, got 3"),
        ({"widht": 3}, "unknown setting 'widht'; did you mean width"),
        ({"batch_size": 0}, "batch_size must be positive, got 0"),
        ({"ema": 1.0}, r"ema must be in \[0, 1\), got 1.0"),
        ({"resume": True}, "resume needs the output_dir"),
        ({"loss": 3}, "loss must be a LossConfig or a function of LossInputs, got int"),
        ({"optimization": {"epochs": 3}}, "optimization must be an OptimizationConfig, got dict"),
        ({"targeted_fraction": 0.1}, "targeted_fraction does nothing without any_class"),
        ({"curriculum": 0.5}, "curriculum must be at least 1, got 0.5"),
        ({"curriculum": float("nan")}, "curriculum must be a number or None, got nan"),
        ({"curriculum": float("inf")}, "curriculum must be finite, got inf"),
        ({"adversarial": "cw"}, "adversarial must be margin or .*, got 'cw'"),
        ({"max_steps": 1.5}, "max_steps must be a whole number or None, got 1.5"),
        ({"learning_rate": "1e-3"}, "learning_rate must be a number or None, got '1e-3'"),
        ({"labels": 3}, "labels must be true or false or None, got 3"),
        ({"seed": -1}, "seed must be from 0 to .*, got -1"),
        ({"generator": "unet"}, "generator must be a GeneratorConfig, .* got str"),
        ({"guide": "x"}, "guide must be an nn.Module, .* got str"),
        ({"discriminator": "x"}, "discriminator must be an nn.Module, got str"),
        ({"optimizer": "adam"}, "optimizer must be a function of parameters, .* got str"),
        ({"optimizer": lambda parameters: None}, r"optimizer must return a torch.optim.Optimizer, got NoneType"),
        ({"optimizer": lambda parameters: torch.optim.SGD([torch.zeros(1)], 0.1)}, "the parameters that it is given"),
        ({"optimizer": torch.optim.LBFGS}, "steps of LBFGS call the loss themselves, expected an Adam or SGD"),
        ({"generator": nn.Identity(), "width": None, "depth": None}, "Identity has no trainable parameters"),
        (
            {"generator": nn.Conv2d(3, 1, 1), "width": None, "depth": None},
            r"Conv2d cannot take images of shape \(1, 28, 28\): .* to have 3 channels, but got 1",
        ),
        ({"generator": nn.LazyConv2d(1, 1), "width": None, "depth": None}, "LazyConv2d has no weights yet in weight"),
        ({"callbacks": print}, "callbacks must be a list of functions"),
        ({"model": Linear}, "got the class Linear"),
        ({"train": (X, ["cat"] * len(X))}, "labels of train must be whole numbers, one per image, got str"),
        ({"validation": (X[:, :, :14], Y)}, "validation images must have the shape of those to train on"),
        ({"generator": Generator(eps=0.3, width=4)}, "width is of the network that fit builds, .* of your own with 4"),
        ({"generator": nn.Conv2d(1, 1, 1)}, "width is of the network that fit builds, .* a network of your own, got"),
        ({"generator": Generator(eps=0.3, width=8, depth=1), "guide": True}, "your own has its guide inside, or none"),
        ({"optimizer": torch.optim.SGD, "learning_rate": 0.1}, "learning_rate does nothing beside an optimizer"),
        ({"curriculum": 2.0, "eps_min": 0.1}, "curriculum does nothing without a single eps, got 2.0"),
        (
            {"curriculum": 2.0, "generator": Generator(eps=0.3, eps_min=0.1, width=8, depth=1)},
            "curriculum does nothing without a single eps, got 2.0 and eps_min 0.1",
        ),
        ({"curriculum": 2.0, "architecture": "unrolled", "guide": True}, "curriculum is not for architecture unrolled"),
    ],
)
def test_input_error_before_any_step(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"model": Linear(), "train": (X, Y), **SMALL, **change}
    with pytest.raises(InputError, match=message):
        advgan.fit(**arguments)


def _setup(folder: Path, *arguments: str) -> None:
    code = "from setuptools import setup; import runpy; runpy.run_path('setup.py')"
    command = [sys.executable, "-c", code, "-q", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.program
def test_advgan_train_of_a_wheel_built_from_the_sdist_outside_the_clone(tmp_path: Path) -> None:
    """The wheel has the default target, so that no path of the clone is needed."""
    pytest.importorskip("setuptools")
    source = tmp_path / "source"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, tracked.split("\0")):
        if name.startswith(("advgan/", "checkpoints/", "recipes/")) or "/" not in name:
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    _setup(source, "sdist", "--formats", "tar", "--dist-dir", str(tmp_path))
    (archive,) = tmp_path.glob("advgan-*.tar")
    with tarfile.open(archive) as file:
        file.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    assert unpacked.name == f"advgan-{advgan.__version__}"
    _setup(unpacked, "build", "--build-lib", str(tmp_path / "installed"))
    assert (tmp_path / "installed/advgan/py.typed").is_file()
    shipped = tmp_path / "installed/advgan/shipped"
    assert {path.name for path in (shipped / "checkpoints").iterdir()} == {
        path.parent.name for path in (ROOT / "checkpoints").glob("*/config.json")
    }
    assert (shipped / "recipes/demo.yaml").is_file()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    program = (
        "import advgan, sys; from pathlib import Path; from advgan.cli.main import main\n"
        f"assert Path(advgan.__file__).is_relative_to({str(tmp_path)!r}), advgan.__file__\n"
        "main(['train', '--max-steps', '2', '--threads', '1', '--width', '4', '--depth', '0', '--batch-size', '8',"
        " '--validation-images', '16', '--output-dir', 'run'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=elsewhere,
        env=environment() | {"PYTHONPATH": str(tmp_path / "installed")},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert (elsewhere / "run/generator/model.safetensors").is_file()


def test_a_generator_for_some_target_classes(images: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    settings = SMALL | {"any_class": True, "targeted_fraction": 1.0}
    generator = advgan.fit(Linear(), images, target_classes=(1, 2), output_dir=tmp_path / "run", **settings)
    assert tuple(generator.target_classes) == (1, 2)
    assert "one of the classes 1, 2" in (tmp_path / "run/generator/README.md").read_text()
    with pytest.raises(InputError, match="target_classes does nothing without any_class, got"):
        advgan.fit(Linear(), images, target_classes=(1, 2), **SMALL)
    with pytest.raises(InputError, match="target_classes must be 0 to 2, got 10"):
        advgan.fit(Linear(), images, target_classes=(1, 10), **settings)


def test_card_names_the_objective_that_a_default_chose_and_the_settings_stay_as_given(
    images: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    advgan.fit(Linear(), images, output_dir=tmp_path / "run", **SMALL)
    assert "L_adv (margin, kappa 5)" in (tmp_path / "run/generator/README.md").read_text()
    settings = json.loads((tmp_path / "run/training.json").read_text())["settings"]
    assert (settings["adversarial"], settings["curriculum"]) == (None, None)
