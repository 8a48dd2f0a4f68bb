"""Adversarial PNGs of a user's images: finding, decoding, attacking and writing."""

from advgan.cli.attack_images.attacker import ImageAttacker
from advgan.cli.attack_images.find import InputImage, find_images
from advgan.cli.attack_images.perturb import Perturber
from advgan.cli.attack_images.work import load_finished, process

__all__ = ["ImageAttacker", "InputImage", "Perturber", "find_images", "load_finished", "process"]
