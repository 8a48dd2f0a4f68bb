"""Detectors of adversarial images, and attacks with and without knowledge of them."""
