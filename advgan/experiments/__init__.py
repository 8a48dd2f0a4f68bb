"""Studies, one folder each: its attacks, classifiers and settings, and its report."""

import advgan.bridges as bridges  # registers the names of other libraries' attacks
from advgan.core.lazy import lazy

__all__ = ["bridges"]

__getattr__, __dir__ = lazy(__name__)
