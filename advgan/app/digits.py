"""Drawings and photos of digits in the form of MNIST (LeCun et al. 1998), and ten digits as examples.

digits.png holds the first test image of each class of MNIST (LeCun, Cortes and Burges, CC BY-SA 3.0): neither `mnist`
nor `mnist5k` has it among its training or validation images.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from advgan.core.errors import InputError

SIDE, BOX, CENTRE = 28, 20, 14.0  # pixels of the image, of the digit's longer side; index of the centre of mass
INK = 0.2  # share of the largest difference from the background from which a pixel belongs to the digit
CONTRAST = 0.1  # the least difference between background and digit


def example_digits() -> Tensor:
    """One MNIST test image of each class, (10, 1, 28, 28) in [0, 1]."""
    strip = np.asarray(Image.open(Path(__file__).with_name("digits.png")).convert("L"))
    return torch.from_numpy(strip.copy()).view(SIDE, 10, SIDE).transpose(0, 1)[:, None].contiguous() / 255


def mnist_form(grey: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """A grey picture (h, w) in [0, 1] of one digit as an image of MNIST, (28, 28) float32, and what was done to it.

    A light background is inverted; background and contrast are removed; the digit is resized (bilinear, antialiased) so
    that its longer side has 20 pixels, its brightest pixel made 1, and it is moved by whole pixels so that its
    centre of mass is that of the field. A picture of 28 x 28 pixels with a dark background stays as it is. Raises
    InputError where there is no digit.
    """
    steps = []
    frame = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    background = float(np.median(frame))
    if background > 0.5:
        grey, background = 1 - grey, 1 - background
        steps.append("inverted to light on dark")
    ink = np.clip(grey - background, 0, None)
    if ink.max() < CONTRAST:
        raise InputError("no digit: expected a light one on a dark background, or a dark one on a light background")
    if grey.shape == (SIDE, SIDE) and not steps:
        return grey.astype(np.float32), ["28 x 28 pixels: unchanged"]
    ink = ink / ink.max()
    ink = np.where(ink > INK, ink, 0)
    rows, columns = (np.flatnonzero(ink.any(axis)) for axis in (1, 0))
    digit = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = (max(1, round(side * BOX / max(digit.shape))) for side in digit.shape)
    image = Image.fromarray(digit.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    digit = np.asarray(image)
    steps += ["scaled to a box of 20 x 20 pixels", "centre of mass moved to the middle"]
    return _centred(digit / digit.max()), steps


def _centred(digit: np.ndarray) -> np.ndarray:
    """The digit on the field of 28 x 28 pixels, its centre of mass at index 14 or as near as it fits."""
    field, total = np.zeros((SIDE, SIDE), np.float32), digit.sum()
    top, left = (
        int(np.clip(round(CENTRE - float((digit.sum(1 - axis) * np.arange(side)).sum() / total)), 0, SIDE - side))
        for axis, side in enumerate(digit.shape)
    )
    field[top : top + digit.shape[0], left : left + digit.shape[1]] = digit
    return field
