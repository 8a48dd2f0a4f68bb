"""Studies, one folder each: its attacks, classifiers and settings, and its report."""

import advgan.bridges as bridges  # registers the names of other libraries' attacks

__all__ = ["bridges"]
