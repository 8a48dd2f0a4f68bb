"""Defensive distillation over temperatures."""
