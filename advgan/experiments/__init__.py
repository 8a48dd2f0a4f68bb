"""Studies, one folder each: the attacks, classifiers and settings that it runs, and the report that it writes."""

from advgan import bridges  # registers the names of other libraries' attacks

__all__ = ["bridges"]
