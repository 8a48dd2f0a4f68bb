"""Adversarial PNGs of a user's images: finding, decoding, attacking and writing."""

from advgan.cli.attack_images.attacker import ImageAttacker, class_of
from advgan.cli.attack_images.find import InputImage, find_images
from advgan.cli.attack_images.work import load_finished, process

__all__ = ["ImageAttacker", "InputImage", "class_of", "find_images", "load_finished", "process"]
