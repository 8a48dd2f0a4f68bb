"""int8 quantisation and pruning against torch's own; the wrapped classifier stays unchanged."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from advgan.attacks import parse_attack
from advgan.classifiers import build_target, fingerprint, save_target
from advgan.core.errors import InputError
from advgan.core.threat_model import Threat
from advgan.defenses import adaptive, defend, load_classifier
from advgan.defenses.compression import LAYERS, int8
from advgan.evaluation import GridPoint, ResultCache, TargetModel


@pytest.fixture
def target() -> nn.Module:
    torch.manual_seed(0)
    return build_target("mnist-small", (1, 28, 28), 4).eval()


@pytest.fixture
def x() -> Tensor:
    return torch.rand(5, 1, 28, 28, generator=torch.Generator().manual_seed(1))


# int8


@pytest.mark.parametrize("shape", [(4, 7), (3, 2, 5, 5), (0, 3)])
def test_int8_equals_torch_fake_quantize(shape: tuple[int, ...]) -> None:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    scale = values.abs().flatten(1).amax(1) / 127
    zero = torch.zeros(len(values), dtype=torch.int32)
    expected = torch.fake_quantize_per_channel_affine(values, scale, zero, 0, -127, 127) if len(values) else values
    torch.testing.assert_close(int8(values), expected)
    assert torch.equal(int8(torch.zeros(2, 3)), torch.zeros(2, 3))


def test_int8_quantizes_inputs_and_weights_of_every_layer(x: Tensor) -> None:
    torch.manual_seed(0)
    convolution, linear = nn.Conv2d(1, 3, 5, stride=4), nn.Linear(108, 4)
    rounded = copy.deepcopy(convolution), copy.deepcopy(linear)
    for layer in rounded:
        layer.weight.data = int8(layer.weight.data)
    hidden = rounded[0](int8(x)).relu().flatten(1)
    logits = defend(nn.Sequential(convolution, nn.ReLU(), nn.Flatten(), linear), "int8")(x)
    torch.testing.assert_close(logits, rounded[1](int8(hidden)))


def test_int8_error_is_small_and_independent_of_batch(target: nn.Module, x: Tensor) -> None:
    exact, rounded = target(x), defend(target, "int8")(x)
    assert 0 < (rounded - exact).abs().max() < 0.05 * exact.abs().max()
    x[0] = 0  # a wider or narrower range beside it changes nothing
    torch.testing.assert_close(defend(target, "int8")(x)[1:], rounded[1:], atol=1e-5, rtol=1e-4)


def test_int8_gradient_is_zero_and_adaptive_view_is_classifier(target: nn.Module, x: Tensor) -> None:
    defense, x = defend(target, "int8"), x.requires_grad_()
    assert adaptive(defense) is target
    (gradient,) = torch.autograd.grad(defense(x)[:, 0].sum(), x)
    assert torch.equal(gradient, torch.zeros_like(x))


# prune


@pytest.mark.parametrize("amount", [0.1, 0.5, 0.95])
def test_prune_equals_torch_global_unstructured(amount: float, target: nn.Module, x: Tensor) -> None:
    copied = copy.deepcopy(target).to(memory_format=torch.contiguous_format)  # torch prunes no others
    layers = [(module, "weight") for module in copied.modules() if isinstance(module, LAYERS)]
    prune.global_unstructured(layers, prune.L1Unstructured, amount=amount)
    defense = defend(target, f"prune:amount={amount}")
    torch.testing.assert_close(defense(x), copied(x))
    kept = sum(int(mask.sum()) for mask in defense.buffers())
    total = sum(layer.weight.numel() for layer, _ in layers)
    assert kept == total - round(amount * total)


def test_pruned_classifier_is_its_own_adaptive_view(target: nn.Module, x: Tensor) -> None:
    defense, x = defend(target, "prune"), x.requires_grad_()
    assert adaptive(defense) is defense
    gradient, inner_gradient = (torch.autograd.grad(model(x)[:, 0].sum(), x)[0] for model in (defense, target))
    assert gradient.abs().max() > 0
    assert not torch.allclose(gradient, inner_gradient)


def test_prune_mask_is_saved_and_loaded(target: nn.Module, x: Tensor, tmp_path: Path) -> None:
    save_target(defend(target, "prune:amount=0.9"), tmp_path / "saved", "# card")
    loaded = load_classifier(str(tmp_path / "saved"))
    assert torch.equal(loaded(x), defend(target, "prune:amount=0.9")(x))
    assert loaded.kept_0.dtype == torch.bool


# Both


@pytest.mark.parametrize("word", ["int8", "prune"])
def test_wrapped_classifier_unchanged_and_forwards_counted(word: str, target: nn.Module, x: Tensor) -> None:
    before, logits = fingerprint(target), target(x)
    defense = defend(target, word)
    point = GridPoint(parse_attack("fgsm"), TargetModel(word, defense), Threat("linf", 0.1))
    row = ResultCache(None, x, defense(x).argmax(1)).run(point).row
    assert (row["status"], row["forwards_per_image"], row["backwards_per_image"]) == ("ok", 1, 1)
    assert fingerprint(target) == before
    assert torch.equal(target(x), logits)


def test_int8_and_prune_combine_in_any_order(target: nn.Module, x: Tensor) -> None:
    pruned, twice = defend(target, "prune:amount=0.5"), defend(target, "prune:amount=0.3+prune:amount=0.5")
    torch.testing.assert_close(twice(x), pruned(x))  # what the one prunes the other prunes too
    both = [defend(target, spec)(x) for spec in ("int8+prune", "prune+int8")]
    torch.testing.assert_close(*both)
    assert not torch.equal(both[0], pruned(x))
    for spec in ("int8+prune", "prune+int8"):  # the attacker's: pruned, not rounded
        torch.testing.assert_close(adaptive(defend(target, spec))(x), pruned(x))


@pytest.mark.parametrize("amount", ["0", "1", "-0.5"])
def test_invalid_prune_amount_raises(amount: str, target: nn.Module) -> None:
    with pytest.raises(InputError, match="prune:amount must be between 0 and 1, a share of the weights, got"):
        defend(target, f"prune:amount={amount}")


def test_prune_without_prunable_layers_raises() -> None:
    with pytest.raises(InputError, match="needs a classifier with linear layers or convolutions, got one without"):
        defend(nn.Flatten(), "prune")
