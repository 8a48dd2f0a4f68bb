"""Attacks on a matrix of defended classifiers."""
