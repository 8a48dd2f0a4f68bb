"""A perturbation carried from the classifier's input to the photo."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from advgan.attacks import carry
from advgan.attacks.carry import carry_back
from advgan.core.errors import InputError
from advgan.data.model_input import ModelInput

EPS = 8 / 255
INPUT = ModelInput(12, 12, 14)


def photo(height: int, width: int, low: int = 20, high: int = 236) -> Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.randint(low, high, (3, height, width), generator=rng).to(torch.uint8)


def signs(eps: float = EPS) -> Tensor:
    return eps * torch.randn(3, 12, 12, generator=torch.Generator().manual_seed(1)).sign()


def seen(changed: Tensor, clean: Tensor, model_input: ModelInput = INPUT) -> Tensor:
    """The change of the input, without its rounding to 8 bits."""
    rows, columns = model_input.weights(*clean.shape[1:])
    return (rows @ (changed.double() - clean.double()) @ columns.T).float() / 255


@pytest.mark.parametrize("size", [(90, 70), (41, 60), (14, 20), (9, 8)])
@pytest.mark.parametrize("low_high", [(20, 236), (0, 256), (0, 4)])
def test_inside_ball_box_and_crop(size: tuple[int, int], low_high: tuple[int, int]) -> None:
    clean = photo(*size, *low_high)
    changed = carry_back(clean, signs(), INPUT, EPS)
    assert changed.dtype == torch.uint8
    assert 0 < (changed.short() - clean.short()).abs().max() <= 8
    rows, columns = INPUT.weights(*size)
    outside = ~((rows > 0).any(0)[:, None] & (columns > 0).any(0))
    assert torch.equal(changed[:, outside], clean[:, outside])
    assert bool(outside.any()) or min(size) <= 14


@pytest.mark.parametrize("size", [(90, 70), (41, 60), (14, 20)])
def test_constant_perturbation_arrives(size: tuple[int, int]) -> None:
    clean = photo(*size)
    delta = torch.full((3, 12, 12), -EPS)
    torch.testing.assert_close(seen(carry_back(clean, delta, INPUT, EPS), clean), delta, atol=0.05 * EPS, rtol=0)


def test_small_perturbation_without_ball_is_exact_up_to_dithering() -> None:
    """Far below one grey level, where rounding would leave nothing."""
    clean, rng = photo(240, 280), torch.Generator().manual_seed(2)
    delta = F.interpolate(0.3 / 255 * torch.randn(1, 3, 4, 4, generator=rng), size=(12, 12), mode="bilinear")[0]
    error = seen(carry_back(clean, delta, INPUT), clean) - delta
    assert error.norm() < 0.1 * delta.norm()


def test_nearer_than_enlarged_perturbations() -> None:
    clean, delta = photo(90, 90), signs()
    distance = (seen(carry_back(clean, delta, INPUT, EPS), clean) - delta).norm()
    for mode in ("nearest", "bilinear"):
        side = round(90 * 12 / 14)
        enlarged = F.pad(F.interpolate(delta[None], size=(side, side), mode=mode), (6, 7, 6, 7))[0]
        change = (255 * enlarged).round()
        assert distance < (seen(clean.float() + change, clean.float()) - delta).norm()


def test_least_squares_inside_the_ball(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dozen iterations come within 3 % of many."""
    clean, delta = photo(60, 50), signs()
    distance = (seen(carry_back(clean, delta, INPUT, EPS), clean) - delta).norm()
    monkeypatch.setattr(carry, "ITERATIONS", 500)
    assert distance < 1.03 * (seen(carry_back(clean, delta, INPUT, EPS), clean) - delta).norm()


def test_linear_loss_is_near_its_maximum_inside_the_ball() -> None:
    """The largest <delta, D d> for |d| <= eps is eps ||D^T delta||_1."""
    clean, delta = photo(90, 70), signs(1.0)
    rows, columns = INPUT.weights(90, 70)
    largest = EPS * (rows.T @ delta.double() @ columns).abs().sum()
    assert (seen(carry_back(clean, EPS * delta, INPUT, EPS), clean) * delta).sum() > 0.9 * largest


def test_dithering_keeps_means_and_whole_numbers() -> None:
    levels = torch.tensor([-7.0, -0.4, 0.0, 0.3, 7.0]).view(-1, 1, 1).expand(-1, 16, 24)
    dithered = carry._dithered(levels, levels.shape[1:])
    torch.testing.assert_close(dithered.float().mean((1, 2)), levels[:, 0, 0], atol=1 / 64, rtol=0)
    assert dithered.abs().max() == 7


def test_other_shapes_are_errors() -> None:
    with pytest.raises(InputError, match=r"expected a uint8 photo \(c, h, w\) and a perturbation \(c, 12, 12\)"):
        carry_back(photo(20, 20), torch.zeros(3, 11, 12), INPUT)
