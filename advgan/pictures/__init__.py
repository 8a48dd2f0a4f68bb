"""A generator on a user's own pictures: which ones a path names, the answers to them, and the PNGs they become."""

from advgan.pictures.answers import Answers, class_of
from advgan.pictures.find import Picture, find
from advgan.pictures.work import already, work

__all__ = ["Answers", "Picture", "already", "class_of", "find", "work"]
