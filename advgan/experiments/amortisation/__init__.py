"""The amortisation gap: one pass of a generator compared with attacks that optimise each image."""
