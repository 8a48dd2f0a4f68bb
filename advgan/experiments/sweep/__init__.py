"""Success over a range of eps."""
