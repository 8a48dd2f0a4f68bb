"""Success of images made on one classifier on the others."""
