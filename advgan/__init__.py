"""Adversarial images in one forward pass: generators trained with GANs, measured against the classic attacks."""

from advgan.errors import InputError
from advgan.generator import Generator
from advgan.threat import Threat

__version__ = "0.1.0"
__all__ = ["Generator", "InputError", "Threat", "__version__"]
