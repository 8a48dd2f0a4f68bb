"""Layers by name and in the middle, and their outputs."""

import pytest
import torch
from torch import Tensor, nn

from advgan import InputError
from advgan.classifiers import build_target
from advgan.classifiers.layers import find_layer, layer_output, middle_layer


class Wrapped(nn.Module):
    """Five convolutions, the third with a normalisation and an activation after it; ReLU is one module, called often;
    a layer that is never called."""

    def __init__(self) -> None:
        super().__init__()
        convs = [nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Tanh()]
        self.features = nn.ModuleList([*convs, nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)])
        self.relu, self.head, self.unused = nn.ReLU(inplace=True), nn.Linear(4, 2), nn.Linear(4, 2)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.features:
            x = self.relu(layer(x))
        self.calls += 1
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


def test_output_of_a_layer_ends_the_pass_there_with_a_gradient() -> None:
    torch.manual_seed(0)
    model, x = Wrapped().eval(), torch.rand(2, 3, 5, 5, requires_grad=True)
    output = layer_output(model, model.features[1], x)
    expected = model.features[1](model.features[0](x).relu())
    torch.testing.assert_close(output, expected)
    assert model.calls == 0
    output.sum().backward()
    assert x.grad is not None
    model(x)
    assert model.calls == 1  # no hook is left


def test_the_middle_is_the_last_layer_before_the_next_convolution() -> None:
    assert middle_layer(Wrapped().eval(), torch.rand(1, 3, 4, 4)) == "features.4"
    resnet = build_target("cifar-resnet20").eval()
    assert middle_layer(resnet, torch.rand(1, 3, 32, 32)) == "layer2.1.bn1"
    layers = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 4), nn.Linear(4, 2))
    assert middle_layer(layers, torch.rand(1, 3, 2, 2)) == "3"


def test_a_name_is_found_behind_wrappers() -> None:
    model = nn.Sequential(nn.Identity(), Wrapped()).eval()
    x = torch.rand(2, 3, 4, 4)
    assert find_layer(model, "features.1", x) == "1.features.1"
    assert find_layer(model, "1.features.1", x) == "1.features.1"
    assert find_layer(model, None, x) == "1.features.4"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("feature.4", r"layer 'feature\.4' is not one of the model's; did you mean 1\.features\.4"),
        ("features.1", r"layer 'features\.1' is ambiguous: 0\.features\.1, 1\.features\.1"),
        ("unused", "is ambiguous"),
        ("0.unused", "the layer Linear is not called"),
        ("", "layer '' is not one"),
    ],
)
def test_errors_of_names(name: str, message: str) -> None:
    class Two(nn.ModuleList):
        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self[0](x) + self[1](x)
            return out

    with pytest.raises(InputError, match=message):
        find_layer(Two([Wrapped(), Wrapped()]).eval(), name, torch.rand(2, 3, 4, 4))


def test_a_layer_must_return_one_entry_per_image() -> None:
    class Counts(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sum()

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.counts = Counts()

        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :2] + self.counts(x)

    with pytest.raises(
        InputError, match=r"must return a float tensor \(2, \.\.\.\) for 2 images, got torch.float32 \(\)"
    ):
        find_layer(Model(), "counts", torch.rand(2, 3, 4, 4))
    with pytest.raises(InputError, match="no convolution and no linear layer"):
        middle_layer(Model(), torch.rand(2, 3, 4, 4))
