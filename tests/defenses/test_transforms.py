"""What happens to a written image: 8 bits, JPEG, resizing and cropping, with useful gradients."""

import numpy as np
import pytest
import torch
from PIL import Image

from advgan.core.errors import InputError
from advgan.core.threat_model import to_8bit
from advgan.defenses import Transforms

NAMES = ("png", "jpeg:75", "jpeg:quality=75", "resize", "crop:0.9", "resize-crop", "median:size=3", "random-pad")


def images(n: int = 3, side: int = 16, levels: int = 255) -> torch.Tensor:
    x = torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(n))
    return (x * levels).round() / levels


@pytest.mark.parametrize("name", NAMES)
def test_shape_box_and_gradient(name: str) -> None:
    x = images()
    x_adv = (x + 0.02 * torch.randn_like(x)).clamp(0, 1).requires_grad_()
    seen = Transforms(name).each(x_adv, x)[name]
    assert seen.shape == x.shape
    assert seen.min() >= -1e-6
    assert seen.max() <= 1 + 1e-6
    (gradient,) = torch.autograd.grad(seen.sum(), x_adv)
    assert gradient.sum() == pytest.approx(x.numel(), rel=0.5)  # of the identity, but for the border of a crop


def test_png_is_the_written_file() -> None:
    x = images()
    x_adv = (x + 0.02 * torch.randn_like(x)).clamp(0, 1)
    assert torch.equal(Transforms("png").each(x_adv, x)["png"], to_8bit(x_adv, x).float() / 255)


@pytest.mark.parametrize("side", [224, 96])
def test_resize_crop_equals_pillow(side: int) -> None:
    x, large = images(1, side), round(side * 256 / 224)
    picture = Image.fromarray((x[0] * 255).round().byte().permute(1, 2, 0).numpy())
    left = round((large - side) / 2)
    expected = picture.resize((large, large), Image.Resampling.BILINEAR).crop((left, left, left + side, left + side))
    seen = Transforms("resize-crop").each(x, x)["resize-crop"][0]
    difference = (seen * 255).round().permute(1, 2, 0).numpy() - np.asarray(expected, np.float32)
    assert np.abs(difference).max() <= 1


def test_constant_image_is_unchanged() -> None:
    x = torch.full((2, 3, 32, 32), 51 / 255)
    for name, seen in Transforms(("png", "jpeg:90", "resize", "crop", "resize-crop")).each(x, x).items():
        torch.testing.assert_close(seen, x, msg=name)


def test_each_image_gets_its_transform() -> None:
    x = images(4)
    transforms = Transforms(("png", "jpeg:50"))
    after, mixed = transforms.each(x, x), transforms.mixed(x, x, torch.tensor([1, 0, 0, 1]))
    for i, name in enumerate(("jpeg:50", "png", "png", "jpeg:50")):
        assert torch.equal(mixed[i], after[name][i])


def test_random_transforms_follow_their_seed() -> None:
    x, transforms = images(), Transforms(("resize", "crop"))

    def seen(seed: int) -> torch.Tensor:
        transforms.reseed(seed)
        return torch.cat(list(transforms.each(x, x).values()))

    assert torch.equal(seen(1), seen(1))
    assert not torch.equal(seen(1), seen(2))


def test_function_without_gradient_is_straight_through() -> None:
    x = images().requires_grad_()

    def half(x: torch.Tensor) -> torch.Tensor:
        return x.detach() / 2

    seen = Transforms([half]).each(x, x.detach())["half"]
    torch.testing.assert_close(seen, x / 2)
    assert torch.equal(torch.autograd.grad(seen.sum(), x)[0], torch.ones_like(x))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("jpg:75", "unknown transform 'jpg'"),
        ("jpeg:0", "quality must be from 1 to 100, got 0"),
        ("png:8", "png cannot take '8'"),
        ("crop:1.5", "crop:share must be between 0 and 1"),
        (("png", "png"), "got png twice"),
        ((3,), "must be a name or a function of images, got 3"),
    ],
)
def test_wrong_transforms(given: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Transforms(given)  # type: ignore[arg-type]


def test_transform_of_another_shape() -> None:
    def smaller(x: torch.Tensor) -> torch.Tensor:
        return x[..., 1:]

    x = images()
    with pytest.raises(InputError, match="transform smaller must keep the shape"):
        Transforms([smaller]).each(x, x)
