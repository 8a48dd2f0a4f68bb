"""A Hugging Face Space of `advgan app`, with the shipped generators of digits."""

from advgan.app.interface import build_interface

build_interface().launch()
