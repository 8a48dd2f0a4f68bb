"""Adversarial PNGs of a user's images: finding, decoding, attacking and writing."""
