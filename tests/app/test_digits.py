"""Drawings and photos in the form of MNIST."""

import numpy as np
import pytest
import torch

from advgan.app.attack import load_shipped
from advgan.app.digits import example_digits, mnist_form
from advgan.core.errors import InputError


def on_canvas(digit: np.ndarray, scale: int, top: int, left: int) -> np.ndarray:
    canvas = np.zeros((400, 360))
    enlarged = np.kron(digit, np.ones((scale, scale)))
    canvas[top : top + len(enlarged), left : left + len(enlarged)] = enlarged
    return canvas


def test_form_has_the_box_and_the_centre_of_mass_of_mnist() -> None:
    for digit in example_digits()[:, 0].numpy():
        image, _ = mnist_form(on_canvas(digit, 7, 150, 3))
        rows, columns = (np.flatnonzero(image.any(axis)) for axis in (1, 0))
        assert max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1 == 20
        mass = [(image.sum(axis) * np.arange(28)).sum() / image.sum() for axis in (1, 0)]
        assert np.abs(np.subtract(mass, 14)).max() <= 0.5
        assert image.max() == 1


def test_an_mnist_digit_on_a_canvas_is_that_digit_again() -> None:
    classifier, digits = load_shipped("mnist-c-generator").classifier, example_digits()
    drawn = torch.stack(
        [torch.from_numpy(mnist_form(on_canvas(digit.numpy(), 9, 60, 90))[0]) for digit in digits[:, 0]]
    )
    assert classifier(digits).argmax(1).tolist() == list(range(10))
    assert classifier(drawn[:, None]).argmax(1).tolist() == list(range(10))


def test_place_contrast_and_inversion_do_not_matter() -> None:
    digit = example_digits()[3, 0].numpy()
    image, _ = mnist_form(on_canvas(digit, 8, 100, 100))
    assert np.array_equal(image, mnist_form(on_canvas(digit, 8, 3, 120))[0])
    pencil, steps = mnist_form(0.9 - 0.6 * on_canvas(digit, 8, 100, 100))
    assert np.allclose(image, pencil, atol=1e-6)
    assert steps[0] == "inverted to light on dark"


def test_an_image_of_mnist_is_unchanged() -> None:
    digit = example_digits()[4, 0].numpy()
    image, steps = mnist_form(digit)
    assert np.array_equal(image, digit)
    assert steps == ["28 x 28 pixels: unchanged"]


@pytest.mark.parametrize("level", [0.0, 0.4, 1.0])
def test_an_empty_picture_is_an_error(level: float) -> None:
    with pytest.raises(InputError, match="no digit: expected a light one on a dark background"):
        mnist_form(np.full((280, 280), level))


def test_a_blank_image_of_mnist_size_is_an_error() -> None:
    with pytest.raises(InputError, match="no digit"):
        mnist_form(np.zeros((28, 28)))
