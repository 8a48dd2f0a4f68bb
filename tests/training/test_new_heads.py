"""New heads on external backbones: the last layer is replaced, trained alone, saved, and loads again."""

import importlib
import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torchvision.models import mobilenet_v3_small, squeezenet1_1

from advgan.classifiers import fingerprint, load_target, save_target
from advgan.classifiers.external.base import ExternalClassifier, wrap_external
from advgan.classifiers.external.head import find_head, replace_head
from advgan.core.config import run
from advgan.core.errors import InputError
from advgan.defenses import load_classifier
from advgan.training.features import CachedFeatures, ends_with

classifier = importlib.import_module("advgan.training.classifier")

FILE = """
import torch
from torch import nn

class Net(nn.Module):
    image_shape = (1, 28, 28)

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(1, 8, 5, stride=3), nn.BatchNorm2d(8)
        self.hidden = nn.Linear(512, 32)
        self.last = nn.Sequential(nn.Dropout(0.5), nn.Linear(32, 7))

    def forward(self, x):
        return self.last(self.hidden(self.norm(self.conv(x)).relu().flatten(1)).relu())

def build():
    return Net()
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("network") / "mine.py"
    path.write_text(FILE)
    return path


@pytest.fixture(scope="module")
def trained(file: Path, digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that trains a head for the three classes of `digits`."""
    directory = tmp_path_factory.mktemp("head")
    run(classifier.main, classifier.Settings, words(file, digits, directory))
    return directory


def words(file: Path, digits: Path, directory: Path) -> list[str]:
    data = ["--dataset", "folder", "--data-dir", str(digits), "--batch-size", "20", "--threads", "1", "--shift", "0"]
    target = ["--target", f"{file}:build", "--freeze-backbone", "--learning-rate", "0.05", "--max-steps", "24"]
    return [*data, *target, "--output-dir", str(directory)]


def test_head_alone_learns(trained: Path, file: Path) -> None:
    before = load_target(f"{file}:build").state_dict()
    after = load_file(trained / "classifier" / "model.safetensors")
    assert after["model.last.1.weight"].shape == (3, 32)
    for name, value in before.items():
        if "last" not in name:
            assert torch.equal(after[name], value), name
    assert json.loads((trained / "classifier" / "training.json").read_text())["test"]["accuracy"] > 0.9


def test_saved_head_loads_by_the_name_of_its_file(trained: Path, file: Path) -> None:
    name, x = f"{file}:build", torch.rand(4, 1, 28, 28)
    models = [
        load_classifier(f"{name}@{trained}"),
        load_classifier(name, trained / "classifier"),
        load_target(name, trained),
    ]
    assert len({fingerprint(model) for model in models}) == 1
    model = models[0]
    assert (model.num_classes, model.head, len(model.classes)) == (3, "last.1", 3)
    assert model(x).shape == (4, 3)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(InputError, match=r"a file that would be run: expected its name, .*--target-weights"):
        load_classifier(str(trained / "classifier"))
    with pytest.raises(InputError, match=r"holds a head for .*mine.py:build, expected this name, got .*mine.py:other"):
        load_target(f"{file}:other", trained)


def test_changed_config_is_refused(trained: Path, file: Path, tmp_path: Path) -> None:
    for old in (trained / "classifier").iterdir():
        (tmp_path / old.name).write_bytes(old.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    for change, message in (({"num_classes": 1}, "num_classes"), ({"head": 3}, "names as text"), ({"x": 1}, "x")):
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(InputError, match=message):
            load_target(f"{file}:build", tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config | {"head": "hidden"}))
    with pytest.raises(InputError):
        load_target(f"{file}:build", tmp_path)


def test_torchvision_head_loads_from_its_directory(digits: Path, tmp_path: Path) -> None:
    """Its weights from a file, no published ones: the directory alone is enough."""
    torch.manual_seed(0)
    torch.save(mobilenet_v3_small(num_classes=5).state_dict(), tmp_path / "a.pt")
    external = load_target("torchvision:mobilenet_v3_small", tmp_path / "a.pt", image_shape=(3, 32, 32), num_classes=5)
    replaced = replace_head(external, 2)
    replaced.classes = ("animal", "artefact")
    save_target(replaced, tmp_path / "head", "# A test's")
    loaded = load_classifier(str(tmp_path / "head"))
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(loaded(x), replaced(x))
    assert (loaded.classes, loaded.image_shape, loaded.config) == (("animal", "artefact"), (3, 32, 32), replaced.config)
    with pytest.raises(
        InputError, match="no head of 5 outputs found: expected --head with a model with a linear layer"
    ):
        find_head(squeezenet1_1(num_classes=5), 5)


def test_features_are_computed_once_an_image() -> None:
    torch.manual_seed(0)
    calls: list[int] = []

    class Counting(nn.Flatten):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            calls.append(len(x))
            return super().forward(x)

    model = nn.Sequential(Counting(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    cached, x = CachedFeatures(model, model[3]), torch.rand(5, 3, 2, 2)
    assert ends_with(model, model[3], x)
    assert not ends_with(model, model[1], x)
    calls.clear()
    for part in (x[:3], x, x[2:]):
        torch.testing.assert_close(cached(part), model[3](model[2](model[1](part.flatten(1)))))
    assert calls == [3, 2]
    cached(x).sum().backward()
    assert model[3].weight.grad is not None
    assert model[1].weight.grad is None


def test_head_by_name() -> None:
    def network() -> nn.Sequential:
        return nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 6), nn.Softplus())

    model, wrapped = network(), wrap_external(network(), "a network", (3, 2, 2))
    assert find_head(model, 6) == "3"
    assert find_head(model, 6, "1") == "1"
    with pytest.raises(InputError, match=r"no head '0' is a linear layer: expected --head with one of .*, 1, 3"):
        find_head(model, 6, "0")
    assert isinstance(wrapped, ExternalClassifier)
    with pytest.raises(InputError, match="1 is not the last layer of a network"):
        replace_head(wrapped, 2, "1")
    assert replace_head(wrap_external(network(), "a network", (3, 2, 2)), 2, "3").num_classes == 2


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--no-freeze-backbone"], "only a new head on .* can be trained here, expected --freeze-backbone"),
        (["--classes", "2"], "classes must be at least the 3 of the data, got 2"),
        (["--head", "conv"], "no head 'conv' is a linear layer: expected --head with one of its linear layers, hidden"),
        (["--target", "model.onnx"], "target must be built in, torchvision:, timm: or a Python file"),
        (["--target", "mnist-c", "--init-weights", "x", "--classes", "3"], "classes is for a target of torchvision:"),
    ],
)
def test_wrong_settings(
    file: Path, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], extra: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as exit_:
        run(classifier.main, classifier.Settings, [*words(file, digits, tmp_path), *extra])
    assert exit_.value.code == 2
    assert re.search(message, capsys.readouterr().err)
