"""Studies, one folder each: the attacks, classifiers and settings that it runs, and the report that it writes."""

import advgan.bridges as bridges  # registers the names of other libraries' attacks

__all__ = ["bridges"]
