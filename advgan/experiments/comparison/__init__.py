"""Attacks on the same images of the same classifiers."""
