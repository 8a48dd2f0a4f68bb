"""What one pass of a generator achieves of an attack that optimises each image."""
