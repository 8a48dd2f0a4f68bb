"""Classifiers and distilled ones trained by a call: any module in memory, best weights kept, stop and resume."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset

from advgan.attacks import pgd
from advgan.classifiers import BlackBox
from advgan.core.errors import InputError, NotFiniteError
from advgan.data import Split
from advgan.data.sources import FloatSplit
from advgan.training.adversarial import adversarial_config
from advgan.training.classifier import train_classifier
from advgan.training.datasets import prepare_images
from advgan.training.detector import DetectorConfig, first_images
from advgan.training.distillation import distill
from advgan.training.options import RunConfig
from advgan.training.runtime.checkpoint import OBJECTS_FILE, _write_checksums, latest_state
from advgan.training.substitute import attacker_data, train_substitute
from advgan.training.substitute_training import SubstituteConfig
from advgan.training.supervised import ClassifierConfig, labelled_data

SMALL: dict[str, Any] = {"batch_size": 20, "shift": 0}
LEVELS = {"dark": 20, "grey": 120, "light": 220}  # brightness of the images of a class


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2))


class Detached(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(*net())

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = super().forward(x)
        return logits


@pytest.fixture(scope="module")
def bars() -> tuple[Tensor, Tensor]:
    """Noisy images (200, 1, 4, 4) whose left half (class 0) or right half (class 1) is bright."""
    generator = torch.Generator().manual_seed(0)
    x, y = 0.3 * torch.rand(200, 1, 4, 4, generator=generator), torch.arange(200) % 2
    x[y == 0, :, :, :2] += 0.5
    x[y == 1, :, :, 2:] += 0.5
    return x, y


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    return (model(x).argmax(1) == y).float().mean().item()


def test_train_classifier_learns_in_place_and_returns_eval_mode(bars: tuple[Tensor, Tensor]) -> None:
    model, state = net(), torch.get_rng_state()
    trained = train_classifier(model, bars, epochs=8, **SMALL)
    assert trained is model
    assert not trained.training
    assert accuracy(trained, *bars) == 1
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("n", "side", "processes", "size"), [(500, 28, 1, 128), (500, 96, 1, 32), (50, 28, 1, 50), (50, 28, 4, 48)]
)
def test_default_batch_is_smaller_for_photos_and_few_images(n: int, side: int, processes: int, size: int) -> None:
    split = Split(torch.zeros(n, 1, side, side, dtype=torch.uint8), torch.zeros(n))
    assert ClassifierConfig().with_batch_size(split, processes).images_per_step == size
    assert ClassifierConfig(batch_size=7).with_batch_size(split, processes).images_per_step == 7


def test_fewer_images_than_the_default_batch_can_be_trained_on(bars: tuple[Tensor, Tensor]) -> None:
    x, y = (part[:60] for part in bars)
    quiet: dict[str, Any] = {"max_steps": 2, "shift": 0, "progress": False}
    train_classifier(net(), (x, y), bars, **quiet)
    distill(net(), net(1), (x, y), bars, **quiet)
    steps: dict[str, Any] = {"rounds": 1, "distil_steps": 1, "generator_steps": 1, "progress": False}
    train_substitute(net(), x, bars, eps=0.3, substitute=net(1), **steps)


def test_adversarial_training_uses_the_robust_feature() -> None:
    """One pixel differs by 0.6, fifteen by 0.1: under eps 0.2 only the first one is worth a weight."""
    y = torch.arange(200) % 2
    sign = 2.0 * y.view(-1, 1, 1, 1) - 1
    x = (0.5 + 0.05 * sign).repeat(1, 1, 4, 4)
    x[:, :, 0, 0] = 0.5 + 0.3 * sign[:, :, 0, 0]
    scores = []
    for adversarial in (None, adversarial_config("pgd", 0.2, steps=3)):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
        train_classifier(model, (x, y), epochs=15, learning_rate=3e-2, adversarial=adversarial, **SMALL)
        scores.append(accuracy(model, pgd(model, x, y, eps=0.2, steps=5), y))
    assert scores[1] == 1 > scores[0]


def test_same_seed_gives_same_weights_and_resume_of_finished_run_keeps_them(
    bars: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    first = train_classifier(net(), bars, epochs=2, **SMALL)
    second = train_classifier(net(), bars, epochs=2, output_dir=tmp_path, **SMALL)
    again = train_classifier(net(5), bars, epochs=2, output_dir=tmp_path, resume=True, **SMALL)
    for model in (second, again):
        assert all(torch.equal(a, b) for a, b in zip(first.parameters(), model.parameters(), strict=True))
    assert (tmp_path / "classifier" / "model.safetensors").exists()
    with pytest.raises(InputError, match="already holds a classifier"):
        train_classifier(net(), bars, epochs=2, output_dir=tmp_path, **SMALL)
    for changed, message in (
        ({"adversarial": adversarial_config("fgsm", 0.1)}, "adversarial was None, now"),
        ({}, "lay"),
    ):
        other = net() if changed else nn.Sequential(*net(), nn.Tanh())
        with pytest.raises(InputError, match=message):
            train_classifier(other, bars, epochs=3, output_dir=tmp_path, resume=True, **SMALL, **changed)


def test_adversarial_run_of_an_older_version_is_resumed(bars: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    """Its settings do not record the inner attack: it was refused as "adversarial was None"."""
    attack = {"adversarial": adversarial_config("fgsm", 0.1)}
    train_classifier(net(), bars, epochs=1, output_dir=tmp_path, **SMALL, **attack)
    state = latest_state(tmp_path, "classifier")
    assert state is not None
    objects = torch.load(state / OBJECTS_FILE, weights_only=True)
    del objects[0]["settings"]["adversarial"]
    torch.save(objects, state / OBJECTS_FILE)
    _write_checksums(state)
    resumed = train_classifier(net(5), bars, epochs=1, output_dir=tmp_path, resume=True, **SMALL, **attack)
    assert accuracy(resumed, *bars) > 0.5


def test_distilled_student_agrees_with_teacher_and_has_larger_logits(bars: tuple[Tensor, Tensor]) -> None:
    x, _ = bars
    teacher, student, plain = net(1), net(2), net(2)
    settings = {"epochs": 15, "learning_rate": 3e-2, **SMALL}
    assert distill(teacher, student, bars, temperature=20, **settings) is student
    assert torch.equal(teacher(x).argmax(1), student(x).argmax(1))
    train_classifier(plain, bars, **settings)
    assert student(x).abs().mean() > 5 * plain(x).abs().mean()


@pytest.mark.parametrize(
    ("images", "settings", "message"),
    [
        (torch.rand(40, 1, 4, 4), {}, "train has no labels: expected pairs"),
        ((torch.rand(40, 1, 4, 4), torch.full((40,), 2)), {}, "train has labels up to 2, expected 0 to 1"),
        ((torch.rand(40, 1, 4, 4), torch.arange(40) % 2), {"epoch": 3}, "unknown setting 'epoch'; did you mean epochs"),
        ((torch.rand(40, 1, 4, 4), torch.arange(40) % 2), {"epochs": 0}, "epochs must be positive, got 0"),
        ((torch.rand(40, 1, 4, 4), torch.arange(40) % 2), {"shift": 4}, "shift must be below the image's side"),
        ((torch.rand(40, 1, 4, 4), torch.arange(40) % 2), {"resume": True}, "resume needs the output_dir"),
    ],
)
def test_bad_input_is_an_error_before_training(images: Any, settings: dict[str, Any], message: str) -> None:
    model = net()
    before = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(InputError, match=message):
        train_classifier(model, images, **SMALL | settings)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(16, 2), nn.Softmax(1)), "the target returns probabilities"),
        (nn.Sequential(nn.Flatten(), nn.LazyLinear(2)), r"Sequential has no weights yet in 1.weight \(a lazy layer\)"),
        (nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).requires_grad_(False), "Sequential has no trainable parameters"),
        (nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).half(), r"weights are torch.float16, .*: model.float\(\)"),
        (torch.jit.trace(net(), torch.rand(2, 1, 4, 4)), "TorchScript or torch.export cannot be trained"),
        (lambda x: x.flatten(1)[:, :2], "expected an nn.Module to train, got function"),
        (Detached(), "Detached passes no gradient to its weights"),
    ],
)
def test_model_that_cannot_be_trained_is_an_error(model: nn.Module, message: str, bars: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(InputError, match=message):
        train_classifier(model, bars, epochs=1, **SMALL)


def test_teacher_must_be_another_network_of_the_same_classes(bars: tuple[Tensor, Tensor]) -> None:
    student = net()
    with pytest.raises(InputError, match="teacher and student must be two networks"):
        distill(student, student, bars, epochs=1, **SMALL)
    teacher = nn.Sequential(nn.Flatten(), nn.LazyLinear(3))
    teacher(bars[0][:2])
    with pytest.raises(InputError, match=r"teacher must return logits of the student's shape \(2, 2\), got \(2, 3\)"):
        distill(teacher, student, bars, epochs=1, **SMALL)


def test_loss_that_is_not_finite_ends_the_training(bars: tuple[Tensor, Tensor]) -> None:
    model = net()
    model[1].weight.data.fill_(float("nan"))  # type: ignore[index, union-attr, operator]
    with pytest.raises(NotFiniteError, match=r"step 1: the loss is not finite.*nothing was kept yet"):
        train_classifier(model, bars, epochs=1, **SMALL)


def test_progress_off_prints_nothing(bars: tuple[Tensor, Tensor], capfd: pytest.CaptureFixture[str]) -> None:
    train_classifier(net(), bars, epochs=1, progress=False, **SMALL)
    distill(net(), net(), bars, epochs=1, progress=False, **SMALL)
    assert capfd.readouterr() == ("", "")
    train_classifier(net(), bars, epochs=1, **SMALL)
    assert "validation accuracy" in capfd.readouterr().out


def test_class_folders_have_the_numbers_of_the_model_and_of_the_training_images(tmp_path: Path) -> None:
    """Each folder was numbered alone: of validation images without the first class all labels were another's."""
    levels = LEVELS
    for part, names in (("train", levels), ("val", ("grey", "light"))):
        for name, i in product(names, range(4)):
            (tmp_path / part / name).mkdir(parents=True, exist_ok=True)
            Image.new("L", (4, 4), levels[name] + i).save(tmp_path / part / name / f"{i}.png")

    def check(split: Any, order: tuple[str, ...], names: tuple[str, ...]) -> None:
        x, y = next(split.batches(20))
        assert [order[i] for i in y] == [min(levels, key=lambda n: abs(levels[n] - v)) for v in 255 * x[:, 0, 0, 0]]
        assert {order[i] for i in y} == set(names)

    for order in (None, ("light", "dark", "grey")):
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
        expected = order or tuple(levels)
        if order:
            model.classes = order
        data = labelled_data(model, tmp_path / "train", tmp_path / "val", 0)
        assert data.classes == expected
        check(data.train, expected, tuple(levels))
        check(data.validation, expected, ("grey", "light"))
        fitted = prepare_images(model.eval(), tmp_path / "train", tmp_path / "val", RunConfig(), Accelerator(cpu=True))
        assert fitted.classes == expected
        check(fitted.train, expected, tuple(levels))
        check(fitted.validation, expected, ("grey", "light"))
    box = BlackBox(lambda x: torch.zeros(len(x), dtype=torch.long), 3, "labels", classes=("light", "dark", "grey"))
    check(
        attacker_data(box, torch.rand(8, 1, 4, 4), tmp_path / "val", SubstituteConfig(), None).validation,
        box.classes,
        ("grey", "light"),
    )
    check(FloatSplit(*first_images(tmp_path / "train", model, DetectorConfig())), model.classes, tuple(levels))
    (tmp_path / "val" / "black").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "val" / "black" / "0.png")
    with pytest.raises(InputError, match="class 'black' is none of the 3 of the model"):
        labelled_data(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), tmp_path / "train", tmp_path / "val", 0)


class Named(Dataset[tuple[Tensor, int]]):
    """Grey images of three brightnesses, with the names of their classes."""

    def __init__(self, *classes: str, levels: Any = LEVELS) -> None:
        self.classes, self.levels = list(classes), levels

    def __len__(self) -> int:
        return 30

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        label = i % len(self.classes)
        level = list(self.levels.values())[label] if self.levels is not LEVELS else LEVELS[self.classes[label]]
        return torch.full((1, 4, 4), level / 255), label


class Brightness(nn.Module):
    """Logits from the mean of an image, in the order of `classes`."""

    def __init__(self, classes: tuple[str, ...] | None, order: tuple[str, ...] = ("light", "dark", "grey")) -> None:
        super().__init__()
        self.classes = classes
        self.levels = nn.Parameter(torch.tensor([LEVELS[name] / 255 for name in order]))

    def forward(self, x: Tensor) -> Tensor:
        return -20 * (x.mean((1, 2, 3))[:, None] - self.levels) ** 2


def agreement(model: nn.Module, split: Any) -> float:
    x, y = next(split.batches(100))
    return (model(x).argmax(1) == y).float().mean().item()


def default_collate_of_lists(items: list[Any]) -> Any:
    return [torch.stack([x for x, _ in items]), torch.tensor([y for _, y in items])]


def test_classes_of_a_dataset_have_the_numbers_of_the_model() -> None:
    """`classes` of torchvision's datasets and class names of a column of labels were not compared with the model's."""
    order = ("light", "dark", "grey")
    model, data = Brightness(order), Named("dark", "grey", "light")
    wrong = Named("dark", "light", "grey")
    named = TensorDataset(*next(iter(DataLoader(data, len(data)))))
    named.class_to_idx = {"grey": 1, "light": 2, "dark": 0}  # type: ignore[attr-defined]
    stacked = DataLoader(data, batch_size=4, collate_fn=default_collate_of_lists)
    parts = ConcatDataset([Subset(data, range(9)), Subset(data, range(9, len(data)))])
    with pytest.raises(InputError, match="parts of a ConcatDataset must have their classes in one order, got dark, gr"):
        labelled_data(model, ConcatDataset([data, wrong]), None, 0)
    for train in (
        data,
        Subset(data, range(20)),
        DataLoader(data, batch_size=4),
        parts,
        DataLoader(parts),
        stacked,
        named,
    ):
        images = labelled_data(model, train, None, 0)
        assert (images.classes, agreement(model, images.train), agreement(model, images.validation)) == (order, 1, 1)
        fitted = prepare_images(model.eval(), train, data, RunConfig(), Accelerator(cpu=True))
        assert (fitted.classes, agreement(model, fitted.train), agreement(model, fitted.validation)) == (order, 1, 1)
    unnamed = Brightness(None, ("dark", "grey", "light"))
    images = labelled_data(unnamed, data, Named("light", "grey", "dark"), 0)  # numbered as the training images
    assert images.classes == ("dark", "grey", "light")
    assert agreement(unnamed, images.train) == agreement(unnamed, images.validation) == 1
    wide = nn.Sequential(nn.Flatten(), nn.Linear(16, 4))
    assert labelled_data(wide, Named("dark", "grey"), None, 0).classes == ("0", "1", "2", "3")


def test_labels_of_a_dataset_with_other_names_are_numbers() -> None:
    """MNIST's are "0 - zero" to "9 - nine", those of the shipped classifier "0" to "9"."""
    model = Brightness(("0", "1", "2"))
    data = Named("0 - light", "1 - dark", "2 - grey", levels={"light": 220, "dark": 20, "grey": 120})
    fitted = prepare_images(model.eval(), data, None, RunConfig(), Accelerator(cpu=True))
    assert (fitted.classes, agreement(model, fitted.train)) == (("0", "1", "2"), 1)
    model = Brightness(("light", "black", "grey"), ("light", "dark", "grey"))  # "black" for "dark", in the same place
    images = labelled_data(model, Named("light", "dark", "grey"), None, 0)
    assert agreement(model, images.train) == 1
    with pytest.raises(InputError, match="class 'black' is none of the 3 of the model; labels of a Dataset without"):
        labelled_data(Brightness(("light", "dark", "grey")), Named("dark", "black", levels=data.levels), None, 0)


def test_class_names_of_a_column_of_labels() -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=[*LEVELS])})
    levels = list(LEVELS.values())
    rows = {"image": [Image.new("L", (4, 4), levels[i % 3]) for i in range(12)], "label": [i % 3 for i in range(12)]}
    model = Brightness(("light", "dark", "grey"))
    images = labelled_data(model, datasets.Dataset.from_dict(rows, features=features), None, 0)
    assert (images.classes, agreement(model, images.train)) == (model.classes, 1)
