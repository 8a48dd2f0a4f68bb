"""A generator on a user's own pictures: which ones a path names, the answers to them, and the PNGs they become."""

from advgan.cli.attack_images.attacker import Answers, class_of
from advgan.cli.attack_images.find import Picture, find
from advgan.cli.attack_images.work import already, work

__all__ = ["Answers", "Picture", "already", "class_of", "find", "work"]
