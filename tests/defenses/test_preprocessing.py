"""Preprocessing defenses: reference results, gradients, randomness, and the adaptive views (BPDA, EOT)."""

from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch import nn

from advgan.attacks import fgsm, pgd
from advgan.core.errors import InputError
from advgan.defenses import adaptive, defend, reseed
from advgan.defenses.preprocessing import Preprocessing, clamp_straight_through

SPECS = ("bit-depth", "jpeg", "median", "gaussian", "total-variation", "crop-resize", "random-crop", "random-pad")


def images(n: int = 3, c: int = 1, h: int = 9, w: int = 12) -> torch.Tensor:
    return torch.rand(n, c, h, w, generator=torch.Generator().manual_seed(n))


def preprocess(spec: str, x: torch.Tensor) -> torch.Tensor:
    defense = defend(nn.Flatten(), spec)
    assert isinstance(defense, Preprocessing)
    return defense.process(x)


@pytest.mark.parametrize("word", SPECS)
@pytest.mark.parametrize("shape", [(2, 1, 9, 12), (3, 3, 8, 8), (0, 3, 8, 8), (1, 1, 1, 2)])
def test_output_shape_dtype_and_box(word: str, shape: tuple[int, int, int, int]) -> None:
    for x in (images(*shape), images(*shape).round()):
        out = preprocess(word, x)
        assert (out.shape, out.dtype) == (x.shape, torch.float32)
        assert ((out >= 0) & (out <= 1)).all()
        if shape[2] > 1:
            assert not len(x) or not torch.equal(out, x) or word == "bit-depth"


@pytest.mark.parametrize("word", ["bit-depth", "jpeg", "median", "gaussian", "total-variation", "crop-resize"])
def test_output_is_independent_of_batch(word: str) -> None:
    x = images(4, 3)
    torch.testing.assert_close(preprocess(word, x)[1:3], preprocess(word, x[1:3]))


@pytest.mark.parametrize("word", ["jpeg", "median", "gaussian", "total-variation", "crop-resize", "random-crop"])
def test_constant_image_is_unchanged(word: str) -> None:
    x = torch.full((2, 3, 16, 16), 51 / 255)
    torch.testing.assert_close(preprocess(word, x), x)


# The filters


@pytest.mark.parametrize("size", [3, 5, 13])
def test_median_equals_scipy(size: int) -> None:
    x = images(2, 3)
    expected = ndimage.median_filter(x.numpy(), size=(1, 1, size, size), mode="nearest")
    assert np.array_equal(preprocess(f"median:size={size}", x).numpy(), expected)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 4.0])
def test_gaussian_equals_scipy(sigma: float) -> None:
    x = images(2, 3)
    expected = ndimage.gaussian_filter(x.double().numpy(), sigma=(0, 0, sigma, sigma), mode="nearest")
    np.testing.assert_allclose(preprocess(f"gaussian:sigma={sigma}", x).numpy(), expected, atol=1e-6)


def test_median_gradient_and_smooth_approximation() -> None:
    x = torch.arange(9.0).reshape(1, 1, 3, 3)[:, :, [2, 0, 1]].div(8).requires_grad_()
    (gradient,) = torch.autograd.grad(preprocess("median", x)[0, 0, 1, 1], x)
    assert torch.equal(gradient, (x == 0.5).float())
    through = adaptive(defend(nn.Flatten(), "median"))
    (gradient,) = torch.autograd.grad(through(x)[0, 4], x)
    torch.testing.assert_close(gradient.flatten(), (-(x.detach().flatten() - 0.5).abs() / 0.05).softmax(0))
    x = torch.zeros(1, 1, 3, 3, requires_grad=True)  # all tie: it is the mean's
    (gradient,) = torch.autograd.grad(through(x)[0, 4], x)
    torch.testing.assert_close(gradient, torch.full_like(x, 1 / 9))


@pytest.mark.parametrize("word", ["gaussian:sigma=0.7", "total-variation:weight=0.2", "crop-resize:share=0.7"])
def test_gradients_match_finite_differences(word: str) -> None:
    x = (0.1 + 0.8 * images(1, 1, 5, 6)).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: preprocess(word, z), x, atol=1e-4)


def test_total_variation_of_step_edge_closed_form() -> None:
    """Halves of a and b > a, each k wide, become a + weight / k and b - weight / k."""
    x = torch.full((1, 1, 4, 8), 0.2)
    x[..., 4:] = 0.8
    expected = x + torch.tensor([0.1 / 4] * 4 + [-0.1 / 4] * 4)
    torch.testing.assert_close(preprocess("total-variation:weight=0.1:steps=2000", x), expected, atol=1e-3, rtol=0)


def test_total_variation_keeps_mean_and_smooths() -> None:
    def roughness(z: torch.Tensor) -> float:
        return (z.diff(dim=2).square().sum() + z.diff(dim=3).square().sum()).item()

    x = 0.3 + 0.4 * images(2, 3)
    few, many = preprocess("total-variation", x), preprocess("total-variation:steps=200", x)
    torch.testing.assert_close(few.mean((2, 3)), x.mean((2, 3)))
    assert roughness(many) < roughness(few) < 0.5 * roughness(x)


def test_boxed_clamp_passes_gradient() -> None:
    x = torch.tensor([-1e-7, 0.0, 0.5, 1.0, 1 + 1e-7], requires_grad=True)
    (gradient,) = torch.autograd.grad(clamp_straight_through(x).sum(), x)
    assert torch.equal(clamp_straight_through(x), x.clamp(0, 1))
    assert torch.equal(gradient, torch.ones(5))


# Files, crops and paddings


@pytest.mark.parametrize("c", [1, 3])
def test_jpeg_equals_pillow(c: int) -> None:
    x, files = images(2, c, 16, 20), []
    for image in (x * 255).round().byte().numpy():
        file = BytesIO()
        Image.fromarray(image[0] if c == 1 else image.transpose(1, 2, 0)).save(file, "JPEG", quality=30)
        files.append(np.asarray(Image.open(file)).reshape(16, 20, c).transpose(2, 0, 1))
    assert np.array_equal(preprocess("jpeg:quality=30", x).numpy(), np.stack(files).astype(np.float32) / 255)
    worse, better = ((preprocess(f"jpeg:quality={quality}", x) - x).norm() for quality in (5, 95))
    assert worse > better


def test_crop_resize_enlarges_center() -> None:
    x = torch.zeros(1, 1, 8, 8)
    x[..., 2:6, 2:6] = 1  # exactly the half that is left
    assert torch.equal(preprocess("crop-resize:share=0.5", x), torch.ones_like(x))
    x[..., 3:5, 3:5] = 0
    middle = torch.nn.functional.interpolate(x[..., 2:6, 2:6], (8, 8), mode="bilinear")
    torch.testing.assert_close(preprocess("crop-resize:share=0.5", x), middle)


def test_random_pad_sizes_and_positions() -> None:
    out = preprocess("random-pad:share=0.5", torch.ones(300, 1, 10, 14))
    heights, widths = (out.amax(dim).squeeze(1).sum(1) for dim in (3, 2))
    assert torch.equal(out.sum((1, 2, 3)), heights * widths)  # whole rectangles of ones, all else zeros
    assert set(heights.tolist()) == {5, 6, 7, 8, 9, 10}
    assert (widths.min(), widths.max()) == (7, 14)
    assert (out[heights == 5].amax((0, 1, 3)) == 1).all()  # the smallest have been in every row


def test_random_crop_positions() -> None:
    x = torch.linspace(0, 1, 10).view(1, 1, 10, 1).expand(200, 1, 10, 10)
    tops = preprocess("random-crop:share=0.7", x).amin((1, 2, 3)).mul(9).round()
    assert set(tops.tolist()) == {0, 1, 2, 3}


def test_draws_depend_on_given_seed_only() -> None:
    x, defense = images(3), defend(nn.Flatten(), "random-pad")
    reseed(defense, 1)
    first = defense(x)
    torch.manual_seed(0)
    second = defense(x)
    reseed(defense, 1)
    assert not torch.equal(first, second)
    assert torch.equal(defense(x), first)


# Attacks through them


@pytest.mark.parametrize("word", ["jpeg", "bit-depth:bits=4"])
def test_bpda_gradient_is_identity(word: str) -> None:
    """BPDA around a linear classifier: the gradient is its weights at any image; that of the defense itself is zero."""
    torch.manual_seed(0)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(108, 2))
    defense, x = defend(linear, word), images(2).requires_grad_()
    (adaptive_gradient,) = torch.autograd.grad(adaptive(defense)(x)[:, 1].sum(), x)
    (gradient,) = torch.autograd.grad(defense(x)[:, 1].sum(), x)
    torch.testing.assert_close(adaptive_gradient.flatten(1), linear[1].weight[1].expand(2, -1))
    assert torch.equal(gradient, torch.zeros_like(x))
    torch.testing.assert_close(adaptive(defense)(x), defense(x))


@pytest.mark.parametrize("word", ["gaussian", "total-variation", "crop-resize"])
def test_adaptive_view_of_differentiable_defense_is_itself(word: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(108, 8), nn.Tanh(), nn.Linear(8, 2))
    defense, x, y = defend(net, word), images(3), torch.tensor([0, 1, 0])
    views = [fgsm(model, x, y, eps=0.1) for model in (defense, adaptive(defense))]
    assert torch.equal(*views)


def test_eot_attacks_mean_over_random_pads() -> None:
    """Class 1 is a bright image, also after a random pad: PGD on the mean darkens the whole image."""
    x, y = 0.5 + 0.4 * images(4, 1, 8, 8), torch.ones(4, dtype=torch.long)

    class Brightness(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            f = x.mean((1, 2, 3)) - 0.3
            return torch.stack([-f, f], 1)

    defense = defend(Brightness(), "random-pad")
    x_adv = pgd(adaptive(defense), x, y, eps=0.1, steps=5, start="x")
    torch.testing.assert_close(x_adv[..., 2:6, 2:6], (x - 0.1)[..., 2:6, 2:6])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("median:size=2", "median:size must be odd and at least 3, a window with a middle, got 2"),
        ("median:size=1", "median:size must be odd and at least 3, a window with a middle, got 1"),
        ("gaussian:sigma=0", "gaussian:sigma must be positive, a number of pixels, got 0.0"),
        ("jpeg:quality=0", "jpeg:quality must be from 1 to 100, got 0"),
        ("jpeg:quality=101", "jpeg:quality must be from 1 to 100, got 101"),
        ("total-variation:weight=0", "total-variation:weight must be positive, got 0.0"),
        ("total-variation:steps=0", "total-variation:steps must be at least 1, got 0"),
        ("crop-resize:share=1", "crop-resize:share must be between 0 and 1, of each side of the image, got 1.0"),
        ("random-crop:share=0", "random-crop:share must be between 0 and 1, of each side of the image, got 0.0"),
        ("random-pad:share=2", "random-pad:share must be between 0 and 1, of each side of the image, got 2.0"),
    ],
)
def test_invalid_settings_raise(spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        defend(nn.Flatten(), spec)
