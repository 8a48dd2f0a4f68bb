"""The input of a classifier made of a photo: Pillow's pixels, and the linear map."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import CenterCrop, Compose, Resize

from advgan.core.errors import InputError
from advgan.data.image_file import cropped
from advgan.data.model_input import ModelInput

SIZES = [(30, 50), (57, 40), (16, 16), (12, 9), (200, 300)]  # height, width


def photo(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("model_input", [ModelInput(14, 14, 16), ModelInput(16, 16), ModelInput(10, 16)], ids=str)
def test_weights_are_the_resampling_of_pillow(size: tuple[int, int], model_input: ModelInput) -> None:
    image = photo(*size)
    rows, columns = model_input.weights(*size)
    x = torch.from_numpy(np.array(image)).double()
    expected = torch.einsum("ih,hwc,jw->ijc", rows, x, columns).numpy()
    assert np.abs(np.asarray(model_input(image)) - expected).max() <= 1.01, "two roundings to 8 bits"
    torch.testing.assert_close(rows.sum(1), torch.ones(model_input.height, dtype=torch.float64))


@pytest.mark.parametrize("size", SIZES)
def test_resize_and_crop_are_those_of_torchvision(size: tuple[int, int]) -> None:
    reference = Compose([Resize(16), CenterCrop(14)])(photo(*size))
    assert np.array_equal(np.asarray(ModelInput(14, 14, 16)(photo(*size))), np.asarray(reference))


def test_a_photo_of_the_input_size_is_unchanged() -> None:
    image = photo(16, 16)
    assert ModelInput(16, 16)(image) is image
    assert np.array_equal(np.asarray(cropped(image, 16, 16)), np.asarray(image))


def test_invalid_sizes() -> None:
    with pytest.raises(InputError, match="resize must be at least the image size, 16, and at most 9459, got 15"):
        ModelInput(16, 8, 15)
    with pytest.raises(InputError, match="image_size must be at least 1 and at most 9459, got 0"):
        ModelInput(0, 8)
    for side, resize in ((10**6, None), (8, 10**6)):
        with pytest.raises(InputError, match="at most 9459, got 1000000"):
            ModelInput(side, 8, resize)


def test_a_long_photo_is_not_resized_to_more_pixels_than_an_image_may_have() -> None:
    with pytest.raises(OSError, match="at most 89478485 pixels expected, got 9000 x 9000000 after resize 9000"):
        ModelInput(8, 8, 9000)(photo(1000, 1))
